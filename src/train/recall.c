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

/* Where things lie while a sequence is made: slots taken, keys, symbols that keys may have, which records are asked for, where records begin. */
struct plan {
    int64_t *slot, *key, *symbol, *which, *at;
};

static void fill(const struct hd_recall *r, struct hd_rng *rng, const struct hd_recall_size *n, const struct plan *p, int32_t *id, int32_t *target, int64_t *place)
{
    int32_t *value = id + n->n_tok - QUESTION * n->n_query;   /* written last, so that it may hold what its questions need */

    for (int64_t i = 0; i < n->n_tok; i++) {
        id[i] = (int32_t)(r->n_symbol + below(rng, r->n_filler));
        target[i] = -1;
    }
    for (int64_t i = 0; i < n->n_record; i++) {
        int32_t *to = id + (p->at[i] = p->slot[i] * SLOT + below(rng, 2));

        to[0] = (int32_t)(r->n_symbol + r->n_filler);
        to[1] = (int32_t)p->symbol[p->key[i] / n->n_key];
        to[2] = (int32_t)p->symbol[p->key[i] % n->n_key];
        to[3] = (int32_t)below(rng, n->n_symbol);
    }
    draw(rng, p->which, n->n_record, n->n_query);
    for (int64_t k = 0; k < n->n_query; k++, value += QUESTION) {
        const int32_t *record = id + p->at[p->which[k]];

        value[0] = (int32_t)(r->n_symbol + r->n_filler + 1);
        value[1] = record[1];
        value[2] = record[2];
        target[value - id + 2] = record[3];
        if (place)
            place[k] = p->at[p->which[k]];
    }
}

int hd_recall_make(const struct hd_recall *r, struct hd_rng *rng, const struct hd_recall_size *n, int32_t *id, int32_t *target, int64_t *place, struct hd_err *err)
{
    int64_t room = hd_recall_room(n->n_tok, n->n_query), *all, n_key = n->n_key;
    struct plan p;

    if (n->n_record < 1 || n->n_record > room || n->n_query < 1 || n->n_query > n->n_record || n->n_symbol < 1 || n->n_symbol > r->n_symbol || n_key < 1 || n_key > n->n_symbol ||
        n->n_record > n_key * n_key)
        return hd_err_set(err, HD_ERR_USAGE, "%lld records with %lld questions of %lld symbols, %lld of them in keys; %lld tokens have room for %lld, and keys are pairs of at most %lld symbols",
                          (long long)n->n_record, (long long)n->n_query, (long long)n->n_symbol, (long long)n_key, (long long)n->n_tok, (long long)room, (long long)r->n_symbol);
    if (!(all = hd_malloc((size_t)(room + n_key * n_key + n->n_symbol + 2 * n->n_record) * sizeof *all)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %lld records", (long long)n->n_record);
    p = (struct plan){.slot = all, .key = all + room};
    p.symbol = p.key + n_key * n_key;
    p.which = p.symbol + n->n_symbol;
    p.at = p.which + n->n_record;
    draw(rng, p.slot, room, n->n_record);
    draw(rng, p.key, n_key * n_key, n->n_record);
    draw(rng, p.symbol, n->n_symbol, n_key < n->n_symbol ? n_key : 0);        /* all of them: in their order */
    fill(r, rng, n, &p, id, target, place);
    hd_free(all);
    return HD_OK;
}
