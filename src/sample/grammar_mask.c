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
#define TABLE 8192
#define STEPS 256

enum { DEAD = -1, UNKNOWN = -2 };
enum phase { REASONING, TEXT, GRAMMAR, BROKEN };      /* BROKEN: what could not come did; nothing but an end follows */

struct stack {
    uint32_t to, below, next;         /* next: with the same hash */
    uint32_t depth;
};

struct set {
    uint64_t hash;
    uint32_t first, n;                /* in pool */
    uint32_t next;
    bool whole;                       /* the grammar may end here */
    bool only_plain;                  /* no other way takes a plain byte; known with plain */
    int32_t plain;                    /* the set behind any plain character, DEAD: there is none for all of them */
    int32_t *row;                     /* [STEPS], NULL: no step was asked for yet */
    uint64_t *mask;                   /* a bit a token */
};

struct hd_grammar_mask {
    struct hd_grammar *g;
    const struct hd_json_vocab *v;
    int32_t behind;
    struct hd_grammar_trigger trigger;
    enum phase phase;
    unsigned char last;               /* byte of the text */
    int32_t at;                       /* a set */

    struct stack *stack;              /* 0 is the bottom */
    size_t n_stack, cap_stack;
    uint32_t *stack_table, *set_table;
    struct set *set;
    size_t n_set, cap_set;
    uint64_t *pool;                   /* state << 32 | stack; sorted within a set */
    size_t n_pool, cap_pool;
    size_t n_row, n_mask;
    int64_t n_made;

    uint64_t *work, *out;             /* of one step */
    size_t n_work, n_out, cap_work, cap_out;
    uint64_t *seen;                   /* open addressing; only what work has put there is taken out again */
    uint32_t *slot;                   /* of work, in seen */
    size_t cap_seen;
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

/* Where in seen it was put; -1: it was there. */
static int64_t see(struct hd_grammar_mask *m, uint64_t place)
{
    uint64_t h = (place ^ place >> 29) * 0x9E3779B97F4A7C15u >> 32;

    for (size_t i = h & (m->cap_seen - 1);; i = (i + 1) & (m->cap_seen - 1)) {
        if (m->seen[i] == place)
            return -1;
        if (m->seen[i] == UINT64_MAX) {
            m->seen[i] = place;
            return (int64_t)i;
        }
    }
}

/* A place that was come to, once, if the way out of it is not too deep. */
static void come_to(struct hd_grammar_mask *m, uint32_t state, uint32_t stack)
{
    uint64_t place = (uint64_t)state << 32 | stack;
    int64_t slot;

    if (stack == UINT32_MAX || m->n_work >= PLACES_MAX || m->stack[stack].depth + m->g->need[state] > HD_GRAMMAR_DEPTH || (slot = see(m, place)) < 0)
        return;
    m->slot[m->n_work] = (uint32_t)slot;
    m->work[m->n_work++] = place;
}

static bool is_bare_exit(const struct hd_grammar *g, uint32_t s)
{
    return g->exit[s] && g->first[s] == g->first[s + 1];
}

static void begin_set(struct hd_grammar_mask *m)
{
    for (size_t i = 0; i < m->n_work; i++)
        m->seen[m->slot[i]] = UINT64_MAX;
    m->n_work = m->n_out = 0;
    m->work_whole = false;
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

/* Is the set what is in out? Both may be empty, and have no memory then. */
static bool is_out(const struct hd_grammar_mask *m, const struct set *s, uint64_t hash)
{
    if (s->hash != hash || s->n != m->n_out || s->whole != m->work_whole)
        return false;
    return !m->n_out || !memcmp(m->pool + s->first, m->out, m->n_out * sizeof *m->out);
}

/* The set of what is in out; DEAD when it is empty, or when there is no room. */
static int32_t intern(struct hd_grammar_mask *m)
{
    uint64_t h;
    struct set s;

    if (!m->n_out && !m->work_whole)
        return DEAD;
    if (m->n_out)
        qsort(m->out, m->n_out, sizeof *m->out, by_place);
    h = hd_hash(HD_HASH_INIT + m->work_whole, m->out, m->n_out * sizeof *m->out);
    for (uint32_t i = m->set_table[h & (TABLE - 1)]; i; i = m->set[i].next)
        if (is_out(m, &m->set[i], h))
            return (int32_t)i;
    if (!HD_GROW(m->set, m->cap_set, m->n_set + 1, SETS_MAX) || !HD_GROW(m->pool, m->cap_pool, m->n_pool + m->n_out, POOL_MAX)) {
        m->fuel = 0;
        return DEAD;
    }
    s = (struct set){.hash = h, .first = (uint32_t)m->n_pool, .n = (uint32_t)m->n_out, .next = m->set_table[h & (TABLE - 1)], .whole = m->work_whole, .plain = UNKNOWN};
    if (m->n_out)
        memcpy(m->pool + m->n_pool, m->out, m->n_out * sizeof *m->out);
    m->n_pool += m->n_out;
    m->set[m->n_set] = s;
    m->set_table[h & (TABLE - 1)] = (uint32_t)m->n_set;
    return (int32_t)m->n_set++;
}

/* A row of what is known: bytes that no edge takes are. */
static int32_t *new_row(struct hd_grammar_mask *m, const struct set *s)
{
    const struct hd_grammar *g = m->g;
    int32_t *row = m->n_row < ROWS_MAX ? hd_malloc(STEPS * sizeof *row) : NULL;

    if (!row)
        return NULL;
    m->n_row++;
    for (int i = 0; i < STEPS; i++)
        row[i] = DEAD;
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t state = (uint32_t)(m->pool[s->first + i] >> 32);

        for (uint32_t e = g->first[state]; e < g->first[state + 1]; e++)
            for (int b = g->edge[e].lo; b <= g->edge[e].hi && b < STEPS; b++)
                row[b] = UNKNOWN;
    }
    return row;
}

/* The set that was come to; DEAD where there is none, *fact: that is so, and not for want of room. */
static int32_t close_and_intern(struct hd_grammar_mask *m, bool *fact)
{
    int32_t to;

    *fact = true;
    if (!m->n_work)
        return DEAD;
    close_set(m);
    to = intern(m);
    *fact = to != DEAD || !m->n_out;
    return to;
}

/* symbol: a byte, or a marker. */
static int32_t find_step(struct hd_grammar_mask *m, int32_t from, int symbol)
{
    const struct hd_grammar *g = m->g;
    struct set *s = &m->set[from];
    int32_t to;
    bool fact;

    if (!s->row && symbol < STEPS) {
        s->row = new_row(m, s);
        if (s->row && s->row[symbol] == DEAD)
            return DEAD;
    }
    begin_set(m);
    for (uint32_t i = 0; i < s->n; i++) {
        uint64_t place = m->pool[s->first + i];
        uint32_t state = (uint32_t)(place >> 32);

        for (uint32_t e = g->first[state]; e < g->first[state + 1]; e++) {
            m->fuel--;
            if (symbol >= g->edge[e].lo && symbol <= g->edge[e].hi)
                come_to(m, g->edge[e].to, (uint32_t)place);
        }
    }
    to = close_and_intern(m, &fact);
    s = &m->set[from];
    if (fact && s->row && symbol < STEPS)
        s->row[symbol] = to;
    return to;
}

static inline int32_t take_step(struct hd_grammar_mask *m, int32_t from, int symbol)
{
    const int32_t *row = m->set[from].row;

    return row && symbol < STEPS && row[symbol] != UNKNOWN ? row[symbol] : find_step(m, from, symbol);
}

/* ---- where any text may stand ---- */

static bool is_plain_byte(int b)
{
    return b >= 0x20 && b != '"' && b != '<' && b != '\\' && b != 0x7F;
}

static bool takes_plain(const struct hd_grammar *g, uint32_t state)
{
    for (uint32_t e = g->first[state]; e < g->first[state + 1]; e++)
        for (int b = g->edge[e].lo; b <= g->edge[e].hi && b < STEPS; b++)
            if (is_plain_byte(b))
                return true;
    return false;
}

/* The set behind one plain character, whichever it is. */
static int32_t plain_step(struct hd_grammar_mask *m, int32_t from)
{
    struct set *s = &m->set[from];
    bool only = true, fact;
    int32_t to;

    if (s->plain != UNKNOWN)
        return s->plain;
    begin_set(m);
    for (uint32_t i = 0; i < s->n; i++) {
        uint64_t place = m->pool[s->first + i];
        uint32_t state = (uint32_t)(place >> 32);

        if (m->g->plain[state])
            come_to(m, m->g->plain[state], (uint32_t)place);
        else
            only &= !takes_plain(m->g, state);
    }
    to = close_and_intern(m, &fact);
    s = &m->set[from];
    s->only_plain = only;
    if (fact)
        s->plain = to;
    return to;
}

/* How many plain characters may come, whatever they are; plain_max: any number. *only: no others can. */
static int64_t plain_run(struct hd_grammar_mask *m, bool *only)
{
    int32_t at = m->at, to;
    int64_t n = 0;

    *only = true;
    while ((to = plain_step(m, at)) >= 0) {
        if (to == at || ++n >= m->v->plain_max)
            return m->v->plain_max;
        *only &= m->set[at].only_plain;
        at = to;
    }
    *only &= m->set[at].only_plain;
    return n;
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

static void walk(struct hd_grammar_mask *m, const struct hd_token_trie *t, uint64_t *mask)
{
    m->path[0] = m->at;
    for (size_t i = 0; i < t->n && m->fuel > 0;) {
        const struct hd_token_node *node = &t->node[i];
        int32_t to = take_step(m, m->path[node->depth], node->byte);

        if (to < 0) {
            i = node->end;
            continue;
        }
        m->path[node->depth + 1] = to;
        if (node->id >= 0)
            allow(mask, node->id);
        i++;
    }
}

static void allow_plain(const struct hd_json_vocab *v, int64_t n_char, uint64_t *mask)
{
    memcpy(mask, v->plain[n_char < HD_PLAIN_CHARS ? n_char : HD_PLAIN_CHARS], v->n_word * sizeof *mask);
    for (size_t i = 0; n_char >= HD_PLAIN_CHARS && i < v->n_plain_long; i++)
        if (v->plain_long[i].n_char > n_char)
            mask[v->plain_long[i].id / 64] &= ~((uint64_t)1 << v->plain_long[i].id % 64);
}

static void fill_mask(struct hd_grammar_mask *m, uint64_t *mask)
{
    const struct hd_json_vocab *v = m->v;
    bool some = m->set[m->at].whole, only;
    int64_t n_char;

    m->fuel = FUEL;
    n_char = plain_run(m, &only);
    allow_plain(v, n_char, mask);
    some |= n_char > 0;
    if (m->set[m->at].whole)
        for (size_t w = 0; w < v->n_word; w++)
            mask[w] |= v->end[w];
    for (int k = 0; k < m->g->n_marker; k++)
        if (take_step(m, m->at, HD_EDGE_MARKER + k) >= 0) {
            allow(mask, m->g->marker[k]);
            some = true;
        }
    for (int b = 0; b < 256 && (m->fuel > 0 || !some); b++)       /* one of these comes, whatever it costs */
        if (v->byte[b] >= 0 && take_step(m, m->at, b) >= 0) {
            allow(mask, v->byte[b]);
            some = true;
        }
    walk(m, only || n_char >= v->plain_max ? &v->other : &v->all, mask);
}

static const uint64_t *get_mask(struct hd_grammar_mask *m)
{
    size_t bytes = m->v->n_word * sizeof(uint64_t);
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
    m->n_made++;
    return m->set[m->at].mask = mask;
}

static void forbid(float *logits, int64_t n_vocab, int32_t id)
{
    if (id >= 0 && id < n_vocab)
        logits[id] = -INFINITY;
}

void hd_grammar_mask_apply(void *self, float *logits, int64_t n_vocab)
{
    struct hd_grammar_mask *m = self;
    const uint64_t *mask;

    switch (m->phase) {
    case REASONING:                   /* says anything, but must come to its end, and calls nothing */
        hd_json_vocab_go_on(m->v, logits, n_vocab);
        forbid(logits, n_vocab, m->trigger.marker);
        forbid(logits, n_vocab, m->trigger.never);
        return;
    case TEXT:
        if (m->trigger.before >= 0 && m->last != m->trigger.before)
            forbid(logits, n_vocab, m->trigger.marker);
        forbid(logits, n_vocab, m->trigger.never);
        return;
    case GRAMMAR:
        mask = get_mask(m);
        hd_json_vocab_mask(m->v, mask ? mask : m->v->end, logits, n_vocab);
        return;
    case BROKEN:
        hd_json_vocab_mask(m->v, m->v->end, logits, n_vocab);
        return;
    }
}

static void take_in_grammar(struct hd_grammar_mask *m, int32_t id)
{
    struct hd_view v = hd_token_text(m->v->tok, id, false);
    int32_t at = m->at;
    int k = 0;

    m->fuel = INT64_MAX;
    while (k < m->g->n_marker && m->g->marker[k] != id)
        k++;
    if (k < m->g->n_marker)
        at = take_step(m, at, HD_EDGE_MARKER + k);
    for (size_t i = 0; k == m->g->n_marker && i < v.n && at >= 0; i++)
        at = take_step(m, at, (unsigned char)v.p[i]);
    if (at >= 0)
        m->at = at;
    else
        m->phase = BROKEN;            /* a token that could not come, or no memory */
}

void hd_grammar_mask_take(void *self, int32_t id)
{
    struct hd_grammar_mask *m = self;
    struct hd_view v;

    if (m->phase == REASONING && id == m->behind) {
        m->phase = m->trigger.marker >= 0 ? TEXT : GRAMMAR;
    } else if (m->phase == TEXT && id == m->trigger.marker) {
        m->phase = GRAMMAR;
    } else if (m->phase == TEXT) {
        v = hd_token_text(m->v->tok, id, false);
        m->last = v.n ? (unsigned char)v.p[v.n - 1] : m->last;
    } else if (m->phase == GRAMMAR) {
        make_room(m);
        take_in_grammar(m, id);
    }
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

int hd_grammar_mask_create(struct hd_grammar_mask **out, struct hd_grammar *g, const struct hd_json_vocab *v, int32_t behind, const struct hd_grammar_trigger *trigger, struct hd_err *err)
{
    struct hd_grammar_mask *m;
    int rc;

    if (!v->spells)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "this model's vocabulary cannot spell every byte, and so cannot be kept to a schema");
    if (!(m = hd_calloc(1, sizeof *m)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a constraint");
    hd_grammar_hold(g);
    *m = (struct hd_grammar_mask){.g = g, .v = v, .behind = behind, .cap_seen = 2 * PLACES_MAX, .n_set = 1, .n_stack = 1};
    m->trigger = trigger ? *trigger : (struct hd_grammar_trigger){-1, -1, -1};
    m->phase = behind >= 0 ? REASONING : trigger ? TEXT : GRAMMAR;
    m->stack_table = hd_calloc(TABLE, sizeof *m->stack_table);
    m->set_table = hd_calloc(TABLE, sizeof *m->set_table);
    m->work = hd_malloc(PLACES_MAX * sizeof *m->work);
    m->out = hd_malloc(PLACES_MAX * sizeof *m->out);
    m->seen = hd_malloc(m->cap_seen * sizeof *m->seen);
    m->slot = hd_malloc(PLACES_MAX * sizeof *m->slot);
    m->path = hd_malloc((HD_TOKEN_BYTES + 2) * sizeof *m->path);
    rc = m->stack_table && m->set_table && m->work && m->out && m->seen && m->slot && m->path && HD_GROW(m->stack, m->cap_stack, 1, STACKS_MAX) &&
                 HD_GROW(m->set, m->cap_set, 1, SETS_MAX)
             ? HD_OK
             : hd_err_set(err, HD_ERR_MEMORY, "no memory for a constraint");
    if (rc == HD_OK) {
        memset(m->seen, 0xFF, m->cap_seen * sizeof *m->seen);
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
    hd_free(m->slot);
    hd_grammar_release(m->g);
    hd_free(m);
}

bool hd_grammar_mask_whole(const struct hd_grammar_mask *m)
{
    return m->phase == GRAMMAR && m->set[m->at].whole;
}

int64_t hd_grammar_mask_bytes(const struct hd_grammar_mask *m)
{
    return (int64_t)(m->cap_stack * sizeof *m->stack + m->cap_set * sizeof *m->set + m->cap_pool * sizeof *m->pool + m->n_row * STEPS * 4 +
                     m->n_mask * m->v->n_word * 8 + m->cap_seen * 8);
}

int64_t hd_grammar_mask_known(const struct hd_grammar_mask *m)
{
    return m->n_made;
}
