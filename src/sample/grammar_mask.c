/* grammar_mask.c: see grammar_mask.h. A place is a state and a stack of states to return to; stacks share their tails. */
#include "sample/grammar_mask.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

#define PLACES_MAX 4096               /* in a set */
#define SETS_MAX 16384
#define POOL_MAX ((size_t)1 << 20)    /* places of all sets */
#define STACKS_MAX ((size_t)1 << 19)
#define ROWS_MAX 12288                /* 1 KiB each */
#define MASKS_BYTES ((size_t)8 << 20)
#define FUEL 6000000                  /* places looked at for one mask */
#define TABLE 65536
#define STEPS 256

enum { DEAD = -1, UNKNOWN = -2 };

struct stack {
    uint32_t to, below, next;         /* next: with the same hash */
    uint32_t depth;
};

struct set {
    uint64_t hash;
    uint32_t first, n;                /* in pool */
    uint32_t next;
    bool whole;                       /* the grammar may end here */
    int32_t *row;                     /* [STEPS], NULL: no step was asked for yet */
    uint64_t *mask;                   /* a bit a token */
};

struct hd_grammar_mask {
    struct hd_grammar *g;
    const struct hd_json_vocab *v;
    int32_t behind;
    bool on, broken;
    int32_t at;                       /* a set */

    struct stack *stack;              /* 0 is the bottom */
    size_t n_stack, cap_stack;
    uint32_t *stack_table, *set_table;
    struct set *set;
    size_t n_set, cap_set;
    uint64_t *pool;                   /* state << 32 | stack; sorted within a set */
    size_t n_pool, cap_pool;
    size_t n_row, n_mask;

    uint64_t *work, *out;             /* of one step */
    size_t n_work, n_out, cap_work, cap_out;
    uint64_t *seen;                   /* open addressing */
    size_t n_seen, cap_seen;
    bool work_whole;
    int64_t fuel;
    int32_t *path;                    /* sets along a token */
};

/* ---- stacks ---- */

/* UINT32_MAX: no room. */
static uint32_t push(struct hd_grammar_mask *m, uint32_t to, uint32_t below)
{
    uint32_t h = (to * 0x9E3779B1u ^ below * 0x85EBCA77u) >> 8 & (TABLE - 1);

    for (uint32_t i = m->stack_table[h]; i; i = m->stack[i].next)
        if (m->stack[i].to == to && m->stack[i].below == below)
            return i;
    if (!HD_GROW(m->stack, m->cap_stack, m->n_stack + 1, STACKS_MAX))
        return UINT32_MAX;
    m->stack[m->n_stack] = (struct stack){to, below, m->stack_table[h], m->stack[below].depth + 1};
    return m->stack_table[h] = (uint32_t)m->n_stack++;
}

/* ---- sets ---- */

static bool see(struct hd_grammar_mask *m, uint64_t place)
{
    uint64_t h = (place ^ place >> 29) * 0x9E3779B97F4A7C15u >> 32;

    for (size_t i = h & (m->cap_seen - 1);; i = (i + 1) & (m->cap_seen - 1)) {
        if (m->seen[i] == place)
            return false;
        if (m->seen[i] == UINT64_MAX) {
            m->seen[i] = place;
            return true;
        }
    }
}

/* A place that was come to, once, if the way out of it is not too deep. */
static void come_to(struct hd_grammar_mask *m, uint32_t state, uint32_t stack)
{
    uint64_t place = (uint64_t)state << 32 | stack;

    if (stack == UINT32_MAX || m->n_work >= PLACES_MAX || m->stack[stack].depth + m->g->need[state] > HD_GRAMMAR_DEPTH || !see(m, place))
        return;
    m->work[m->n_work++] = place;
}

static bool is_bare_exit(const struct hd_grammar *g, uint32_t s)
{
    return g->exit[s] && g->first[s] == g->first[s + 1];
}

static void begin_set(struct hd_grammar_mask *m)
{
    m->n_work = m->n_out = 0;
    m->work_whole = false;
    memset(m->seen, 0xFF, m->cap_seen * sizeof *m->seen);
}

/* Everything that needs no byte; places that take one go to out. */
static void close_set(struct hd_grammar_mask *m)
{
    const struct hd_grammar *g = m->g;

    for (size_t i = 0; i < m->n_work; i++) {
        uint32_t state = (uint32_t)(m->work[i] >> 32), stack = (uint32_t)m->work[i];
        bool reads = false;

        m->fuel--;
        if (g->exit[state] && stack)
            come_to(m, m->stack[stack].to, m->stack[stack].below);
        else if (g->exit[state])
            m->work_whole = true;
        for (uint32_t e = g->first[state]; e < g->first[state + 1]; e++) {
            const struct hd_grammar_edge *x = &g->edge[e];

            m->fuel--;
            if (x->lo == HD_EDGE_NOTHING)
                come_to(m, x->to, stack);
            else if (x->lo != HD_EDGE_CALL)
                reads = true;
            else if (is_bare_exit(g, x->to))
                come_to(m, g->rule[x->rule].entry, stack);       /* nothing to come back for */
            else if (m->stack[stack].depth + g->need[x->to] <= HD_GRAMMAR_DEPTH && m->stack[stack].depth + 1 + g->need[g->rule[x->rule].entry] <= HD_GRAMMAR_DEPTH)
                come_to(m, g->rule[x->rule].entry, push(m, x->to, stack));
        }
        if (reads)
            m->out[m->n_out++] = m->work[i];
    }
}

static int by_place(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* The set of what is in out; DEAD when it is empty, or when there is no room. */
static int32_t intern(struct hd_grammar_mask *m)
{
    uint64_t h;
    struct set s;

    if (!m->n_out && !m->work_whole)
        return DEAD;
    qsort(m->out, m->n_out, sizeof *m->out, by_place);
    h = hd_hash(HD_HASH_INIT + m->work_whole, m->out, m->n_out * sizeof *m->out);
    for (uint32_t i = m->set_table[h & (TABLE - 1)]; i; i = m->set[i].next)
        if (m->set[i].hash == h && m->set[i].n == m->n_out && m->set[i].whole == m->work_whole && !memcmp(m->pool + m->set[i].first, m->out, m->n_out * sizeof *m->out))
            return (int32_t)i;
    if (!HD_GROW(m->set, m->cap_set, m->n_set + 1, SETS_MAX) || !HD_GROW(m->pool, m->cap_pool, m->n_pool + m->n_out, POOL_MAX)) {
        m->fuel = 0;
        return DEAD;
    }
    s = (struct set){.hash = h, .first = (uint32_t)m->n_pool, .n = (uint32_t)m->n_out, .next = m->set_table[h & (TABLE - 1)], .whole = m->work_whole};
    memcpy(m->pool + m->n_pool, m->out, m->n_out * sizeof *m->out);
    m->n_pool += m->n_out;
    m->set[m->n_set] = s;
    m->set_table[h & (TABLE - 1)] = (uint32_t)m->n_set;
    return (int32_t)m->n_set++;
}

static int32_t take_step(struct hd_grammar_mask *m, int32_t from, int byte)
{
    const struct hd_grammar *g = m->g;
    struct set *s = &m->set[from];
    int32_t to;

    if (s->row && s->row[byte] != UNKNOWN)
        return s->row[byte];
    if (!s->row && m->n_row < ROWS_MAX && (s->row = hd_malloc(STEPS * sizeof *s->row))) {
        for (int i = 0; i < STEPS; i++)
            s->row[i] = UNKNOWN;
        m->n_row++;
    }
    begin_set(m);
    for (uint32_t i = 0; i < s->n; i++) {
        uint64_t place = m->pool[s->first + i];
        uint32_t state = (uint32_t)(place >> 32);

        for (uint32_t e = g->first[state]; e < g->first[state + 1]; e++) {
            m->fuel--;
            if (byte >= g->edge[e].lo && byte <= g->edge[e].hi)
                come_to(m, g->edge[e].to, (uint32_t)place);
        }
    }
    if (!m->n_work) {
        to = DEAD;
    } else {
        close_set(m);
        to = intern(m);
        if (to == DEAD && m->n_out)
            return DEAD;              /* no room now; not a fact */
    }
    s = &m->set[from];
    if (s->row)
        s->row[byte] = to;
    return to;
}

/* ---- room ---- */

static void forget_sets(struct hd_grammar_mask *m)
{
    for (size_t i = 1; i < m->n_set; i++) {
        hd_free(m->set[i].row);
        hd_free(m->set[i].mask);
    }
    m->n_set = 1;                     /* 0 ends chains */
    m->n_stack = 1;
    m->n_pool = m->n_row = m->n_mask = 0;
    memset(m->stack_table, 0, TABLE * sizeof *m->stack_table);
    memset(m->set_table, 0, TABLE * sizeof *m->set_table);
}

/* Starts over with the current set alone, before anything is full. */
static void make_room(struct hd_grammar_mask *m)
{
    size_t n = m->set[m->at].n, n_stack = m->n_stack;
    bool whole = m->set[m->at].whole;
    struct stack *old;
    uint32_t *to;

    if (m->n_set < SETS_MAX / 2 && m->n_pool < POOL_MAX / 2 && m->n_stack < STACKS_MAX / 2 && m->n_row < ROWS_MAX / 2)
        return;
    old = hd_malloc(n_stack * sizeof *old);
    to = hd_calloc(n_stack, sizeof *to);
    if (old && to) {
        memcpy(old, m->stack, n_stack * sizeof *old);
        memcpy(m->out, m->pool + m->set[m->at].first, n * sizeof *m->out);
        for (size_t i = 0; i < n; i++)
            for (uint32_t s = (uint32_t)m->out[i]; s && !to[s]; s = old[s].below)
                to[s] = 1;
        forget_sets(m);
        for (size_t s = 1; s < n_stack; s++)      /* what is below is older */
            if (to[s])
                to[s] = push(m, old[s].to, to[old[s].below]);
        for (size_t i = 0; i < n; i++)
            m->out[i] = m->out[i] >> 32 << 32 | to[(uint32_t)m->out[i]];
        m->n_out = n;
        m->work_whole = whole;
        m->at = intern(m);
    }
    hd_free(old);
    hd_free(to);
}

/* ---- tokens ---- */

static void allow(uint64_t *mask, int32_t id)
{
    mask[id / 64] |= (uint64_t)1 << id % 64;
}

static void walk(struct hd_grammar_mask *m, const struct hd_token_order *o, uint64_t *mask)
{
    size_t dead = SIZE_MAX;           /* bytes of the token before that lead nowhere */

    m->path[0] = m->at;
    for (int64_t i = 0; i < o->n && m->fuel > 0; i++) {
        struct hd_view v;
        size_t k = o->common[i];

        if (i && k >= dead)
            continue;
        v = hd_token_text(m->v->tok, o->id[i], false);
        if (v.n >= UINT16_MAX) {
            dead = 0;                 /* nobody writes such a token */
            continue;
        }
        dead = SIZE_MAX;
        for (; k < v.n; k++)
            if ((m->path[k + 1] = take_step(m, m->path[k], (unsigned char)v.p[k])) < 0)
                break;
        if (k < v.n)
            dead = k + 1;
        else
            allow(mask, o->id[i]);
    }
}

static void fill_mask(struct hd_grammar_mask *m, uint64_t *mask)
{
    bool some = false;

    memset(mask, 0, ((size_t)m->v->n / 64 + 1) * sizeof *mask);
    m->fuel = FUEL;
    for (int b = 0; b < 256 && (m->fuel > 0 || !some); b++)       /* one of these comes, whatever it costs */
        if (m->v->byte[b] >= 0 && take_step(m, m->at, b) >= 0) {
            allow(mask, m->v->byte[b]);
            some = true;
        }
    walk(m, &m->v->order, mask);
}

static const uint64_t *get_mask(struct hd_grammar_mask *m)
{
    size_t bytes = ((size_t)m->v->n / 64 + 1) * sizeof(uint64_t);
    uint64_t *mask;

    if (m->set[m->at].mask)
        return m->set[m->at].mask;
    make_room(m);
    if ((m->n_mask + 1) * bytes > MASKS_BYTES) {
        for (size_t i = 1; i < m->n_set; i++) {
            hd_free(m->set[i].mask);
            m->set[i].mask = NULL;
        }
        m->n_mask = 0;
    }
    if (!(mask = hd_malloc(bytes)))
        return NULL;
    fill_mask(m, mask);
    m->n_mask++;
    return m->set[m->at].mask = mask;
}

void hd_grammar_mask_apply(void *self, float *logits, int64_t n_vocab)
{
    struct hd_grammar_mask *m = self;
    const uint64_t *mask;
    bool whole;

    if (!m->on) {
        hd_json_vocab_go_on(m->v, logits, n_vocab);
        return;
    }
    whole = m->broken || m->set[m->at].whole;
    mask = m->broken ? NULL : get_mask(m);
    for (int64_t id = 0; id < n_vocab; id++) {
        int class = id < m->v->n ? m->v->class[id] : HD_TOKEN_NEVER;
        bool ok = class == HD_TOKEN_END ? whole : mask && id < m->v->n && mask[id / 64] >> id % 64 & 1;

        if (!ok)
            logits[id] = -INFINITY;
    }
}

void hd_grammar_mask_take(void *self, int32_t id)
{
    struct hd_grammar_mask *m = self;
    struct hd_view v;

    if (!m->on) {
        m->on = id == m->behind;
        return;
    }
    if (m->broken)
        return;
    make_room(m);
    m->fuel = INT64_MAX;
    v = hd_token_text(m->v->tok, id, false);
    for (size_t i = 0; i < v.n && m->at >= 0; i++)
        m->at = take_step(m, m->at, (unsigned char)v.p[i]);
    m->broken = m->at < 0;            /* a token that could not come, or no memory: nothing but an end follows */
}

/* ---- life ---- */

static int begin(struct hd_grammar_mask *m, struct hd_err *err)
{
    begin_set(m);
    come_to(m, m->g->rule[m->g->root].entry, 0);
    close_set(m);
    m->at = intern(m);
    return m->at >= 0 ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for a constraint");
}

int hd_grammar_mask_create(struct hd_grammar_mask **out, struct hd_grammar *g, const struct hd_json_vocab *v, int32_t behind, struct hd_err *err)
{
    struct hd_grammar_mask *m;
    int rc;

    if (!v->spells)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "this model's vocabulary cannot spell every byte, and so cannot be kept to a schema");
    if (!(m = hd_calloc(1, sizeof *m)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a constraint");
    hd_grammar_hold(g);
    *m = (struct hd_grammar_mask){.g = g, .v = v, .behind = behind, .on = behind < 0, .cap_seen = 4 * PLACES_MAX, .n_set = 1, .n_stack = 1};
    m->stack_table = hd_calloc(TABLE, sizeof *m->stack_table);
    m->set_table = hd_calloc(TABLE, sizeof *m->set_table);
    m->work = hd_malloc(PLACES_MAX * sizeof *m->work);
    m->out = hd_malloc(PLACES_MAX * sizeof *m->out);
    m->seen = hd_malloc(m->cap_seen * sizeof *m->seen);
    m->path = hd_malloc(((size_t)v->len_max + 2) * sizeof *m->path);
    rc = m->stack_table && m->set_table && m->work && m->out && m->seen && m->path && HD_GROW(m->stack, m->cap_stack, 1, STACKS_MAX) &&
                 HD_GROW(m->set, m->cap_set, 1, SETS_MAX)
             ? HD_OK
             : hd_err_set(err, HD_ERR_MEMORY, "no memory for a constraint");
    if (rc == HD_OK) {
        memset(&m->stack[0], 0, sizeof m->stack[0]);
        memset(&m->set[0], 0, sizeof m->set[0]);
        rc = begin(m, err);
    }
    if (rc < 0) {
        hd_grammar_mask_free(m);
        return rc;
    }
    *out = m;
    return HD_OK;
}

void hd_grammar_mask_free(void *self)
{
    struct hd_grammar_mask *m = self;

    for (size_t i = 1; i < m->n_set; i++) {
        hd_free(m->set[i].row);
        hd_free(m->set[i].mask);
    }
    hd_free(m->set);
    hd_free(m->stack);
    hd_free(m->stack_table);
    hd_free(m->set_table);
    hd_free(m->pool);
    hd_free(m->work);
    hd_free(m->out);
    hd_free(m->seen);
    hd_free(m->path);
    hd_grammar_release(m->g);
    hd_free(m);
}

bool hd_grammar_mask_whole(const struct hd_grammar_mask *m)
{
    return m->on && !m->broken && m->set[m->at].whole;
}

int64_t hd_grammar_mask_bytes(const struct hd_grammar_mask *m)
{
    return (int64_t)(m->cap_stack * sizeof *m->stack + m->cap_set * sizeof *m->set + m->cap_pool * sizeof *m->pool + m->n_row * STEPS * 4 +
                     m->n_mask * ((size_t)m->v->n / 64 + 1) * 8 + m->cap_seen * 8);
}
