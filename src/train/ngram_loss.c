/* ngram_loss.c: see ngram_loss.h. N-grams are known by a hash of 64 bits; of ten million, a mistaken one in five million runs. */
#include "train/ngram_loss.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

#define SLOTS_MAX ((size_t)1 << 30)

/* Open addressing; key 0 is free. */
struct table {
    uint64_t *key;
    uint32_t *count, *type;           /* type: of histories, how many different continuations */
    size_t n, cap;
};

struct order {
    struct table gram, history;
    double discount;
};

struct counts {
    struct order order[HD_NGRAM_ORDER_MAX + 1];
    int n;
};

static uint64_t mix(uint64_t h, int32_t id)
{
    h = (h ^ (uint64_t)(uint32_t)id) * 0x9e3779b97f4a7c15u;
    return h ^ (h >> 29);
}

/* Of the o tokens that end before id[end]; never 0. */
static uint64_t hash(const int32_t *id, int64_t end, int o)
{
    uint64_t h = 0x243f6a8885a308d3u + (uint64_t)o;

    for (int k = o; k > 0; k--)
        h = mix(h, id[end - k]);
    return h ? h : 1;
}

static size_t place(const struct table *t, uint64_t key)
{
    size_t i = (size_t)(key * 0xd6e8feb86659fd93u >> 20) & (t->cap - 1);

    while (t->key[i] && t->key[i] != key)
        i = (i + 1) & (t->cap - 1);
    return i;
}

static bool resize(struct table *t)
{
    struct table next = {.n = t->n, .cap = t->cap ? 2 * t->cap : 1024};

    if (next.cap > SLOTS_MAX)
        return false;
    next.key = hd_calloc(next.cap, sizeof *next.key);
    next.count = hd_calloc(next.cap, sizeof *next.count);
    next.type = hd_calloc(next.cap, sizeof *next.type);
    for (size_t i = 0; i < t->cap && next.key && next.count && next.type; i++)
        if (t->key[i]) {
            size_t k = place(&next, t->key[i]);

            next.key[k] = t->key[i];
            next.count[k] = t->count[i];
            next.type[k] = t->type[i];
        }
    hd_free(t->key);
    hd_free(t->count);
    hd_free(t->type);
    *t = next;
    return next.key && next.count && next.type;
}

/* One more; *first: it was not there. */
static bool add(struct table *t, uint64_t key, bool new_type, bool *first)
{
    size_t i;

    if (2 * (t->n + 1) > t->cap && !resize(t))
        return false;
    i = place(t, key);
    *first = !t->key[i];
    t->n += *first;
    t->key[i] = key;
    t->count[i]++;
    t->type[i] += new_type;
    return true;
}

/* The token before id[end] and what stands before it, from the longest n-gram down, as long as each is new. */
static bool count_one(struct counts *c, const int32_t *id, int64_t first, int64_t end)
{
    int o = end - first < c->n ? (int)(end - first) : c->n;
    bool is_new = true, known;

    for (; o > 0 && is_new; o--) {
        if (!add(&c->order[o].gram, hash(id, end, o), false, &is_new) || !add(&c->order[o].history, hash(id, end - 1, o - 1), is_new, &known))
            return false;
    }
    return true;
}

static void set_discount(struct order *o)
{
    double n1 = 0, n2 = 0;

    for (size_t i = 0; i < o->gram.cap; i++) {
        n1 += o->gram.count[i] == 1;
        n2 += o->gram.count[i] == 2;
    }
    o->discount = n1 > 0 && n2 > 0 ? n1 / (n1 + 2 * n2) : 0.5;
}

static double probability(const struct counts *c, const int32_t *id, int64_t first, int64_t end, int64_t n_vocab)
{
    double p = 1 / (double)n_vocab;

    for (int o = 1; o <= c->n && end - first >= o; o++) {
        const struct order *t = &c->order[o];
        size_t h, g;
        double all, own;

        if (!t->history.cap)
            break;
        h = place(&t->history, hash(id, end - 1, o - 1));
        if (!t->history.key[h])
            break;
        g = place(&t->gram, hash(id, end, o));
        all = t->history.count[h];
        own = t->gram.key[g] ? t->gram.count[g] : 0;
        p = fmax(own - t->discount, 0) / all + t->discount * t->history.type[h] / all * p;
    }
    return p;
}

static void release(struct counts *c)
{
    for (int o = 0; o <= HD_NGRAM_ORDER_MAX; o++) {
        struct table *t[2] = {&c->order[o].gram, &c->order[o].history};

        for (int k = 0; k < 2; k++) {
            hd_free(t[k]->key);
            hd_free(t[k]->count);
            hd_free(t[k]->type);
        }
    }
    hd_free(c);
}

int hd_ngram_loss(const struct hd_data *train, const struct hd_data *val, int order, int64_t n_vocab, double *loss, struct hd_err *err)
{
    struct counts *c = hd_calloc(1, sizeof *c);
    bool ok = c != NULL;
    int64_t n = 0;

    *loss = 0;
    if (ok)
        c->n = order;
    for (int64_t d = 0; d < train->n_doc && ok; d++)
        for (int64_t i = train->doc[d]; i < train->doc[d + 1] && ok; i++)
            ok = count_one(c, train->id, train->doc[d], i + 1);
    for (int o = 1; o <= order && ok; o++)
        set_discount(&c->order[o]);
    for (int64_t d = 0; d < val->n_doc && ok; d++)
        for (int64_t i = val->doc[d] + 1; i < val->doc[d + 1]; i++)
            if (!val->skip || !val->skip[i]) {
                *loss -= log(probability(c, val->id, val->doc[d], i + 1, n_vocab));
                n++;
            }
    if (c)
        release(c);
    if (!ok)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory to count the %d-grams of %lld tokens", order, (long long)train->n);
    if (!n)
        return hd_err_set(err, HD_ERR_FORMAT, "the validation data hold nothing to predict");
    *loss /= (double)n;
    return HD_OK;
}
