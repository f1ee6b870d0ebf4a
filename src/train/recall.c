/* recall.c: see recall.h. */
#include "train/recall.h"

#include "base/mem.h"

#define RECORD 4
#define SLOT (RECORD + 1)             /* a record begins at either of the first two tokens of its slot */
#define QUESTION 3

static int64_t below(struct hd_rng *rng, int64_t n)
{
    return (int64_t)(hd_rng_next(rng) % (uint64_t)n);
}

int64_t hd_recall_room(int64_t n_tok, int64_t n_query)
{
    return n_tok < QUESTION * n_query ? 0 : (n_tok - QUESTION * n_query) / SLOT;
}

/* The first n of 0 .. m - 1 in random order: all[m]. */
static void draw(struct hd_rng *rng, int64_t *all, int64_t m, int64_t n)
{
    for (int64_t i = 0; i < m; i++)
        all[i] = i;
    for (int64_t i = 0; i < n; i++) {
        int64_t k = i + below(rng, m - i), t = all[i];

        all[i] = all[k];
        all[k] = t;
    }
}

static void fill(const struct hd_recall *r, struct hd_rng *rng, int64_t n_tok, int64_t n_record, int64_t n_query, int64_t n_used, const int64_t *slot, const int64_t *key, int64_t *which, int32_t *id,
                 int32_t *target, int64_t *place)
{
    int32_t *value = id + n_tok - QUESTION * n_query;         /* written last, so that it may hold what its questions need */
    int64_t *at = which + n_record;

    for (int64_t i = 0; i < n_tok; i++) {
        id[i] = (int32_t)(r->n_symbol + below(rng, r->n_filler));
        target[i] = -1;
    }
    for (int64_t i = 0; i < n_record; i++) {
        int32_t *p = id + (at[i] = slot[i] * SLOT + below(rng, 2));

        p[0] = (int32_t)(r->n_symbol + r->n_filler);
        p[1] = (int32_t)(key[i] / n_used);
        p[2] = (int32_t)(key[i] % n_used);
        p[3] = (int32_t)below(rng, n_used);
    }
    draw(rng, which, n_record, n_query);
    for (int64_t k = 0; k < n_query; k++, value += QUESTION) {
        const int32_t *record = id + at[which[k]];

        value[0] = (int32_t)(r->n_symbol + r->n_filler + 1);
        value[1] = record[1];
        value[2] = record[2];
        target[value - id + 2] = record[3];
        if (place)
            place[k] = at[which[k]];
    }
}

int hd_recall_make(const struct hd_recall *r, struct hd_rng *rng, int64_t n_tok, int64_t n_record, int64_t n_query, int64_t n_used, int32_t *id, int32_t *target, int64_t *place,
                   struct hd_err *err)
{
    int64_t room = hd_recall_room(n_tok, n_query), *all;

    if (n_record < 1 || n_record > room || n_query < 1 || n_query > n_record || n_used < 1 || n_used > r->n_symbol || n_record > n_used * n_used)
        return hd_err_set(err, HD_ERR_USAGE, "%lld records with %lld questions of %lld symbols; %lld tokens have room for %lld, and keys are pairs of at most %lld symbols", (long long)n_record,
                          (long long)n_query, (long long)n_used, (long long)n_tok, (long long)room, (long long)r->n_symbol);
    if (!(all = hd_malloc((size_t)(room + n_used * n_used + 2 * n_record) * sizeof *all)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %lld records", (long long)n_record);
    draw(rng, all, room, n_record);
    draw(rng, all + room, n_used * n_used, n_record);
    fill(r, rng, n_tok, n_record, n_query, n_used, all, all + room, all + room + n_used * n_used, id, target, place);
    hd_free(all);
    return HD_OK;
}
