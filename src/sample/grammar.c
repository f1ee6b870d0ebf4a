/* grammar.c: see grammar.h. */
#include "sample/grammar.h"

#include <string.h>

#include "base/mem.h"

#define NEVER UINT8_MAX

struct hd_grammar *hd_grammar_create(void)
{
    struct hd_grammar *g = hd_calloc(1, sizeof *g);

    if (g)
        g->refs = 1;
    return g;
}

void hd_grammar_hold(struct hd_grammar *g)
{
    __atomic_add_fetch(&g->refs, 1, __ATOMIC_RELAXED);
}

void hd_grammar_release(struct hd_grammar *g)
{
    if (!g || __atomic_sub_fetch(&g->refs, 1, __ATOMIC_ACQ_REL))
        return;
    hd_free(g->from);
    hd_free(g->edge);
    hd_free(g->rule);
    hd_free(g->first);
    hd_free(g->need);
    hd_free(g->exit);
    hd_free(g->plain);
    hd_free(g);
}

/* ---- building ---- */

uint32_t hd_grammar_state(struct hd_grammar *g)
{
    g->failed |= g->n_state >= HD_GRAMMAR_STATES;
    return g->failed ? 0 : g->n_state++;
}

uint32_t hd_grammar_rule(struct hd_grammar *g)
{
    struct hd_grammar_rule r = {.entry = hd_grammar_state(g), .exit = hd_grammar_state(g)};

    if (g->failed)
        return 0;
    if (!HD_GROW(g->rule, g->cap_rule, g->n_rule + 1, HD_GRAMMAR_STATES)) {
        g->failed = g->no_memory = true;
        return 0;
    }
    g->rule[g->n_rule] = r;
    return g->n_rule++;
}

static void add_edge(struct hd_grammar *g, uint32_t from, struct hd_grammar_edge e)
{
    g->failed |= g->n_edge >= HD_GRAMMAR_EDGES;
    if (g->failed)
        return;
    if (!HD_GROW(g->from, g->cap_from, g->n_edge + 1, HD_GRAMMAR_EDGES) || !HD_GROW(g->edge, g->cap_edge, g->n_edge + 1, HD_GRAMMAR_EDGES)) {
        g->failed = g->no_memory = true;
        return;
    }
    g->from[g->n_edge] = from;
    g->edge[g->n_edge++] = e;
}

void hd_grammar_bytes(struct hd_grammar *g, uint32_t from, int lo, int hi, uint32_t to)
{
    add_edge(g, from, (struct hd_grammar_edge){(uint16_t)lo, (uint16_t)hi, to, 0});
}

void hd_grammar_marker(struct hd_grammar *g, uint32_t from, int32_t id, uint32_t to)
{
    int k = 0;

    while (k < g->n_marker && g->marker[k] != id)
        k++;
    HD_ASSERT(k < HD_GRAMMAR_MARKERS);
    g->marker[k] = id;
    g->n_marker += k == g->n_marker;
    hd_grammar_bytes(g, from, HD_EDGE_MARKER + k, HD_EDGE_MARKER + k, to);
}

void hd_grammar_skip(struct hd_grammar *g, uint32_t from, uint32_t to)
{
    add_edge(g, from, (struct hd_grammar_edge){HD_EDGE_NOTHING, HD_EDGE_NOTHING, to, 0});
}

void hd_grammar_call(struct hd_grammar *g, uint32_t from, uint32_t rule, uint32_t to)
{
    add_edge(g, from, (struct hd_grammar_edge){HD_EDGE_CALL, HD_EDGE_CALL, to, rule});
}

uint32_t hd_grammar_text(struct hd_grammar *g, uint32_t from, const char *p, size_t n)
{
    for (size_t i = 0; i < n && !g->failed; i++) {
        uint32_t to = hd_grammar_state(g);

        hd_grammar_bytes(g, from, (unsigned char)p[i], (unsigned char)p[i], to);
        from = to;
    }
    return from;
}

void hd_grammar_text_to(struct hd_grammar *g, uint32_t from, const char *p, size_t n, uint32_t to)
{
    if (!n) {
        hd_grammar_skip(g, from, to);
        return;
    }
    from = hd_grammar_text(g, from, p, n - 1);
    hd_grammar_bytes(g, from, (unsigned char)p[n - 1], (unsigned char)p[n - 1], to);
}

static int spell(uint32_t c, unsigned char out[4])
{
    if (c < 0x80) {
        out[0] = (unsigned char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (unsigned char)(0xC0 | c >> 6);
        out[1] = (unsigned char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (unsigned char)(0xE0 | c >> 12);
        out[1] = (unsigned char)(0x80 | (c >> 6 & 63));
        out[2] = (unsigned char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (unsigned char)(0xF0 | c >> 18);
    out[1] = (unsigned char)(0x80 | (c >> 12 & 63));
    out[2] = (unsigned char)(0x80 | (c >> 6 & 63));
    out[3] = (unsigned char)(0x80 | (c & 63));
    return 4;
}

/* A range is cut until each byte of it has a range of its own. */
void hd_grammar_utf8(struct hd_grammar *g, uint32_t from, uint32_t lo, uint32_t hi, uint32_t to)
{
    static const uint32_t border[] = {0x80, 0x800, 0xD800, 0xE000, 0x10000};
    unsigned char a[4], b[4];
    int n;

    if (lo > hi || g->failed || (lo >= 0xD800 && hi < 0xE000))
        return;
    for (int i = 0; i < HD_LEN(border); i++)
        if (lo < border[i] && hi >= border[i]) {
            hd_grammar_utf8(g, from, lo, border[i] - 1, to);
            hd_grammar_utf8(g, from, border[i], hi, to);
            return;
        }
    n = spell(lo, a);
    for (int i = 1; i < n; i++) {
        uint32_t m = ((uint32_t)1 << 6 * i) - 1, cut = 0;

        if ((lo | m) == (hi | m))
            continue;
        if (lo & m)
            cut = (lo | m) + 1;
        else if ((hi & m) != m)
            cut = hi & ~m;
        if (cut) {
            hd_grammar_utf8(g, from, lo, cut - 1, to);
            hd_grammar_utf8(g, from, cut, hi, to);
            return;
        }
    }
    spell(hi, b);
    for (int i = 0; i < n; i++) {
        uint32_t next = i == n - 1 ? to : hd_grammar_state(g);

        hd_grammar_bytes(g, from, a[i], b[i], next);
        from = next;
    }
}

/* ---- finishing ---- */

static int no_memory(struct hd_err *err)
{
    return hd_err_set(err, HD_ERR_MEMORY, "no memory for a grammar");
}

/* What an edge waits for, backwards: [n_state + 1] into lists of edges. */
struct waits {
    uint32_t *first, *edge;
};

static void wait_for(struct waits *w, uint32_t state, uint32_t e, bool count)
{
    if (count)
        w->first[state + 1]++;
    else
        w->edge[w->first[state]++] = e;
}

static void each_wait(const struct hd_grammar *g, struct waits *w, bool count)
{
    for (uint32_t e = 0; e < g->n_edge; e++) {
        wait_for(w, g->edge[e].to, e, count);
        if (g->edge[e].lo == HD_EDGE_CALL)
            wait_for(w, g->rule[g->edge[e].rule].entry, e, count);
    }
}

/* The need of an edge's beginning by this edge, NEVER while something is not known. */
static int need_by(const struct hd_grammar *g, uint32_t e)
{
    int to = g->need[g->edge[e].to], inside;

    if (g->edge[e].lo != HD_EDGE_CALL || to == NEVER)
        return to;
    inside = g->need[g->rule[g->edge[e].rule].entry];
    if (inside == NEVER || inside >= HD_GRAMMAR_DEPTH)
        return NEVER;
    return inside + 1 > to ? inside + 1 : to;
}

/* Dijkstra's way with small numbers: states in the order of their need. A state is once in a list. */
static void find_needs(struct hd_grammar *g, const struct waits *w, uint32_t *queue, uint32_t *next)
{
    size_t n = 0;

    memset(g->need, NEVER, g->n_state);
    for (uint32_t r = 0; r < g->n_rule; r++)
        queue[n++] = g->rule[r].exit;
    for (uint32_t i = 0; i < n; i++)
        g->need[queue[i]] = 0;
    for (int level = 0; level <= HD_GRAMMAR_DEPTH; level++) {
        size_t n_next = 0;

        for (size_t i = 0; i < n; i++)
            for (uint32_t k = w->first[queue[i]]; k < w->first[queue[i] + 1]; k++) {
                uint32_t from = g->from[w->edge[k]];
                int need = need_by(g, w->edge[k]);

                if (need == NEVER || g->need[from] <= need)
                    continue;
                if (need <= level)
                    queue[n++] = from;
                else if (g->need[from] == NEVER)
                    next[n_next++] = from;        /* one more, unless something better is found on this level */
                g->need[from] = (uint8_t)need;
            }
        memcpy(queue, next, n_next * sizeof *queue);
        n = n_next;
    }
}

/* Edges by state; those that lead nowhere are dropped. */
static int sort_edges(struct hd_grammar *g, struct hd_err *err)
{
    struct hd_grammar_edge *sorted = hd_calloc(g->n_edge + 1, sizeof *sorted);
    uint32_t n = 0;

    if (!sorted)
        return no_memory(err);
    for (uint32_t e = 0; e < g->n_edge; e++)
        if (need_by(g, e) != NEVER)
            g->first[g->from[e] + 1]++;
    for (uint32_t s = 0; s < g->n_state; s++)
        g->first[s + 1] += g->first[s];
    for (uint32_t e = 0; e < g->n_edge; e++)
        if (need_by(g, e) != NEVER) {
            sorted[g->first[g->from[e]]++] = g->edge[e];
            n++;
        }
    for (uint32_t s = g->n_state; s > 0; s--)
        g->first[s] = g->first[s - 1];
    g->first[0] = 0;
    hd_free(g->edge);
    g->edge = sorted;
    g->n_edge = n;
    return HD_OK;
}

static int prepare(struct hd_grammar *g, struct waits *w, uint32_t *queue, struct hd_err *err)
{
    if (!w->first || !w->edge || !queue)
        return no_memory(err);
    each_wait(g, w, true);
    for (uint32_t s = 0; s < g->n_state; s++)
        w->first[s + 1] += w->first[s];
    each_wait(g, w, false);
    memmove(w->first + 1, w->first, g->n_state * sizeof *w->first);
    w->first[0] = 0;
    find_needs(g, w, queue, queue + g->n_state);
    return sort_edges(g, err);
}

int hd_grammar_finish(struct hd_grammar *g, uint32_t root, struct hd_err *err)
{
    struct waits w;
    uint32_t *queue;
    int rc;

    if (g->no_memory)
        return no_memory(err);
    if (g->failed)
        return hd_err_set(err, HD_ERR_LIMIT, "it needs more than %d states or %d edges", HD_GRAMMAR_STATES, HD_GRAMMAR_EDGES);
    g->root = root;
    g->first = hd_calloc(g->n_state + 1, sizeof *g->first);
    g->need = hd_calloc(g->n_state + 1, 1);
    g->exit = hd_calloc(g->n_state + 1, sizeof *g->exit);
    g->plain = hd_calloc(g->n_state + 1, sizeof *g->plain);
    if (!g->first || !g->need || !g->exit || !g->plain)
        return no_memory(err);
    for (uint32_t r = 0; r < g->n_rule; r++) {
        g->exit[g->rule[r].exit] = true;
        g->plain[g->rule[r].entry] = g->rule[r].plain ? g->rule[r].exit : 0;
    }
    w.first = hd_calloc(g->n_state + 2, sizeof *w.first);
    w.edge = hd_calloc(2 * (size_t)g->n_edge + 1, sizeof *w.edge);
    queue = hd_calloc(2 * (size_t)g->n_state + 2, sizeof *queue);
    rc = prepare(g, &w, queue, err);
    hd_free(w.first);
    hd_free(w.edge);
    hd_free(queue);
    if (rc < 0)
        return rc;
    if (g->need[g->rule[root].entry] == NEVER)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "no value fits it, or only one nested more than %d deep", HD_GRAMMAR_DEPTH);
    return HD_OK;
}
