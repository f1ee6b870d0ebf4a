/* pattern.c: see pattern.h. An expression becomes an automaton over characters (Thompson's), which is multiplied with a counter of
 * characters into the grammar's states. A repeated part is read again for each of its copies. */
#include "sample/pattern.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"

#define PATTERN_BYTES 4096
#define NODES_MAX 20000
#define NESTED_MAX 64
#define RANGES_MAX 192
#define REPEAT_MAX 10000
#define PRODUCT_MAX 2000000
#define LAST 0x10FFFF

struct range {
    uint32_t lo, hi;
};

struct class {
    struct range r[RANGES_MAX];
    int n;
};

struct hd_spelled_class {
    struct range *r;
    int n;
    uint32_t rule;
};

struct link {
    uint32_t from, to;
    int64_t rule;                     /* of one character; -1: none */
};

struct reader {
    struct hd_spelling *s;
    const char *text, *p, *end;
    struct link *link;
    size_t n_link, cap_link;
    uint32_t n_node;
    int nested;
    bool dry;                         /* only looks where things end */
    bool ends;                        /* a $ was read */
    struct hd_err *err;
};

/* ---- classes ---- */

static int by_lo(const void *a, const void *b)
{
    const struct range *x = a, *y = b;

    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

static bool add_range(struct class *c, uint32_t lo, uint32_t hi)
{
    if (c->n == RANGES_MAX)
        return false;
    c->r[c->n++] = (struct range){lo, hi};
    return true;
}

static void join_ranges(struct class *c)
{
    int n = 0;

    qsort(c->r, (size_t)c->n, sizeof c->r[0], by_lo);
    for (int i = 0; i < c->n; i++)
        if (n && c->r[i].lo <= c->r[n - 1].hi + 1)
            c->r[n - 1].hi = c->r[i].hi > c->r[n - 1].hi ? c->r[i].hi : c->r[n - 1].hi;
        else
            c->r[n++] = c->r[i];
    c->n = n;
}

static bool negate(struct class *c)
{
    struct class out = {.n = 0};
    uint32_t next = 0;
    bool fits = true;

    join_ranges(c);
    for (int i = 0; i < c->n; i++) {
        if (c->r[i].lo > next)
            fits &= add_range(&out, next, c->r[i].lo - 1);
        next = c->r[i].hi + 1;
    }
    if (next <= LAST)
        fits &= add_range(&out, next, LAST);
    *c = out;
    return fits;
}

static void spell_class(struct hd_spelling *s, const struct class *c, uint32_t from, uint32_t to)
{
    static const char escape[] = "\"\"\\\\\bb\ff\nn\rr\tt";

    for (int i = 0; i < c->n; i++) {
        uint32_t lo = c->r[i].lo, hi = c->r[i].hi;

        if (s->raw) {
            hd_grammar_utf8(s->g, from, lo < 1 ? 1 : lo, hi, to);
            continue;
        }
        for (const char *e = escape; *e; e += 2) {
            uint32_t b = (unsigned char)e[0];

            if (b >= lo && b <= hi)
                hd_grammar_text_to(s->g, from, (char[]){'\\', e[1]}, 2, to);
        }
        for (uint32_t at = lo < 0x20 ? 0x20 : lo; at <= hi;) {
            uint32_t stop = at <= '"' ? '"' : at <= '\\' ? '\\' : LAST + 1, last = stop - 1 < hi ? stop - 1 : hi;

            if (at < stop)
                hd_grammar_utf8(s->g, from, at, last, to);
            at = stop > hi ? hi + 1 : stop + 1;
        }
    }
}

/* Are all that plain tokens are made of (json_vocab.h) among them? */
static bool is_plain(const struct class *c)
{
    static const uint32_t special[] = {'"', '<', '\\', 0x7F};
    uint32_t next = 0x20;

    for (int i = 0; i < c->n && next <= LAST; i++) {
        for (int k = 0; k < HD_LEN(special); k++)
            next += next == special[k] && c->r[i].lo > next;
        if (c->r[i].lo > next)
            return false;
        next = c->r[i].hi + 1 > next ? c->r[i].hi + 1 : next;
    }
    return next > LAST;
}

/* The rule of one character of c. */
static uint32_t class_rule(struct hd_spelling *s, struct class *c)
{
    struct hd_spelled_class k;

    join_ranges(c);
    for (size_t i = 0; i < s->n_class; i++)
        if (s->class[i].n == c->n && !memcmp(s->class[i].r, c->r, (size_t)c->n * sizeof c->r[0]))
            return s->class[i].rule;
    k = (struct hd_spelled_class){hd_malloc((size_t)c->n * sizeof c->r[0] + 1), c->n, hd_grammar_rule(s->g)};
    if (!k.r || s->g->failed || !HD_GROW(s->class, s->cap_class, s->n_class + 1, HD_GRAMMAR_STATES)) {
        s->g->no_memory |= !s->g->failed;
        s->g->failed = true;
        hd_free(k.r);
        return 0;
    }
    memcpy(k.r, c->r, (size_t)c->n * sizeof c->r[0]);
    s->class[s->n_class++] = k;
    s->g->rule[k.rule].plain = is_plain(c);
    spell_class(s, c, s->g->rule[k.rule].entry, s->g->rule[k.rule].exit);
    return k.rule;
}

void hd_spelling_init(struct hd_spelling *s, struct hd_grammar *g, bool raw)
{
    *s = (struct hd_spelling){.g = g, .raw = raw};
}

void hd_spelling_release(struct hd_spelling *s)
{
    for (size_t i = 0; i < s->n_class; i++)
        hd_free(s->class[i].r);
    hd_free(s->class);
}

uint32_t hd_spelling_any(struct hd_spelling *s)
{
    struct class c = {.r = {{0, LAST}}, .n = 1};

    return class_rule(s, &c);
}

bool hd_spelling_set(struct hd_spelling *s, const uint32_t *c, int n, bool without, uint32_t *rule)
{
    struct class k = {.n = 0};
    bool fits = true;

    for (int i = 0; i < n && fits; i++)
        fits = add_range(&k, c[i], c[i]);
    if (!fits || (without && !negate(&k)))
        return false;
    *rule = class_rule(s, &k);
    return true;
}

/* ---- reading ---- */

static int refuse(struct reader *r, const char *what)
{
    return hd_err_set(r->err, HD_ERR_UNSUPPORTED, "at byte %d: %s", (int)(r->p - r->text), what);
}

static uint32_t new_node(struct reader *r)
{
    return r->dry ? 0 : r->n_node++;
}

static int connect(struct reader *r, uint32_t from, uint32_t to, int64_t rule)
{
    if (r->dry)
        return HD_OK;
    if (r->n_node > NODES_MAX || r->n_link >= 4 * (size_t)NODES_MAX || r->s->g->failed)
        return hd_err_set(r->err, HD_ERR_LIMIT, "it needs more than %d states", NODES_MAX);
    if (!HD_GROW(r->link, r->cap_link, r->n_link + 1, 4 * (size_t)NODES_MAX))
        return hd_err_set(r->err, HD_ERR_MEMORY, "no memory for a pattern");
    r->link[r->n_link++] = (struct link){from, to, rule};
    return HD_OK;
}

static int connect_class(struct reader *r, uint32_t from, uint32_t to, struct class *c)
{
    return connect(r, from, to, r->dry ? 0 : class_rule(r->s, c));
}

/* What d, w or s stands for. all: what any dialect takes (to be left out of something); else what every one does. */
static bool add_named(struct class *c, char name, bool all)
{
    bool ok = true;

    switch (name) {
    case 'd': ok = add_range(c, '0', '9'); break;
    case 'w': ok = add_range(c, '0', '9') && add_range(c, 'A', 'Z') && add_range(c, '_', '_') && add_range(c, 'a', 'z'); break;
    default: ok = add_range(c, '\t', '\r') && add_range(c, ' ', ' '); break;
    }
    return ok && (!all || (add_range(c, 0x80, LAST) && (name != 's' || add_range(c, 0x1C, 0x1F))));
}

static bool add_escape_class(struct class *c, char name, bool all)
{
    struct class out = {.n = 0};
    bool upper = name >= 'A' && name <= 'Z', ok = add_named(&out, (char)(name | 0x20), upper ? !all : all);

    if (upper)
        ok &= negate(&out);
    for (int i = 0; i < out.n; i++)
        ok &= add_range(c, out.r[i].lo, out.r[i].hi);
    return ok;
}

static int read_hex(struct reader *r, int n, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < n; i++) {
        const char *hex = "0123456789abcdef", *at = r->p < r->end && *r->p ? strchr(hex, *r->p | (*r->p >= 'A' ? 0x20 : 0)) : NULL;

        if (!at)
            return refuse(r, "hexadecimal digits expected");
        *out = *out << 4 | (uint32_t)(at - hex);
        r->p++;
    }
    return HD_OK;
}

/* Behind a backslash: one character. */
static int read_escape(struct reader *r, uint32_t *out)
{
    static const char named[] = "n\nr\rt\tf\fv\v";
    char c = r->p < r->end ? *r->p : 0;

    for (const char *e = named; *e; e += 2)
        if (c == e[0]) {
            r->p++;
            *out = (unsigned char)e[1];
            return HD_OK;
        }
    if (c == 'x' || c == 'u') {
        r->p++;
        return read_hex(r, c == 'x' ? 2 : 4, out);
    }
    if (!c || !strchr("^$\\.*+?()[]{}|/-\"'`!@#%&=~:;,<> _", c))
        return refuse(r, "this escape is not supported");
    r->p++;
    *out = (unsigned char)c;
    return HD_OK;
}

static int read_char(struct reader *r, uint32_t *out)
{
    int len;
    int32_t c = hd_utf8_get(r->p, (size_t)(r->end - r->p), &len);

    if (c < 0)
        return refuse(r, "malformed UTF-8");
    r->p += len;
    *out = (uint32_t)c;
    return HD_OK;
}

static bool at_named_class(const struct reader *r)
{
    return r->end - r->p >= 2 && r->p[0] == '\\' && r->p[1] && strchr("dDwWsS", r->p[1]);
}

static int read_bound(struct reader *r, uint32_t *out)
{
    if (*r->p != '\\')
        return read_char(r, out);
    r->p++;
    if (r->p < r->end && *r->p == 'b') {
        r->p++;
        *out = '\b';
        return HD_OK;
    }
    return read_escape(r, out);
}

/* Behind a bracket. */
static int read_set(struct reader *r, struct class *c)
{
    bool without = r->p < r->end && *r->p == '^', fits = true;

    r->p += without;
    while (r->p < r->end && *r->p != ']') {
        uint32_t lo, hi;

        if (!fits)
            return refuse(r, "too many ranges in a set");
        if (at_named_class(r)) {
            fits = add_escape_class(c, r->p[1], without);
            r->p += 2;
            if (r->end - r->p >= 2 && r->p[0] == '-' && r->p[1] != ']')
                return refuse(r, "a range of classes");
            continue;
        }
        HD_TRY(read_bound(r, &lo));
        hi = lo;
        if (r->end - r->p >= 2 && r->p[0] == '-' && r->p[1] != ']') {
            r->p++;
            if (at_named_class(r))
                return refuse(r, "a range of classes");
            HD_TRY(read_bound(r, &hi));
        }
        if (hi < lo)
            return refuse(r, "a range that is upside down");
        fits = add_range(c, lo, hi);
    }
    if (r->p == r->end)
        return refuse(r, "a set without its ]");
    r->p++;
    if (!fits || (without && !negate(c)))
        return refuse(r, "too many ranges in a set");
    return HD_OK;
}

static int read_choice(struct reader *r, uint32_t from, uint32_t to);

static int read_group(struct reader *r, uint32_t from, uint32_t to)
{
    if (r->end - r->p >= 2 && r->p[0] == '?') {
        if (r->p[1] != ':')
            return refuse(r, "look-around and named groups are not supported");
        r->p += 2;
    }
    if (++r->nested > NESTED_MAX)
        return refuse(r, "groups are nested too deep");
    HD_TRY(read_choice(r, from, to));
    r->nested--;
    if (r->p == r->end)
        return refuse(r, "a group without its )");
    r->p++;
    return HD_OK;
}

static int read_atom(struct reader *r, uint32_t from, uint32_t to)
{
    struct class c = {.n = 0};
    uint32_t one = 0;

    if (at_named_class(r)) {
        add_escape_class(&c, r->p[1], false);
        r->p += 2;
        return connect_class(r, from, to, &c);
    }
    switch (*r->p) {
    case '(': r->p++; return read_group(r, from, to);
    case '[':
        r->p++;
        HD_TRY(read_set(r, &c));
        return connect_class(r, from, to, &c);
    case '.':
        r->p++;
        add_range(&c, '\n', '\n');
        add_range(&c, '\r', '\r');
        add_range(&c, 0x2028, 0x2029);
        negate(&c);
        return connect_class(r, from, to, &c);
    case '^': case '$': return refuse(r, "^ and $ are supported at the ends of the pattern only");
    case '*': case '+': case '?': case '{': case '}': case ']': return refuse(r, "this character needs a backslash here");
    case '\\':
        r->p++;
        HD_TRY(read_escape(r, &one));
        break;
    default: HD_TRY(read_char(r, &one));
    }
    add_range(&c, one, one);
    return connect_class(r, from, to, &c);
}

static int read_count(struct reader *r, int *out)
{
    const char *begin = r->p;

    *out = 0;
    while (r->p < r->end && *r->p >= '0' && *r->p <= '9') {
        *out = *out * 10 + (*r->p++ - '0');
        if (*out > REPEAT_MAX)
            return refuse(r, "more repetitions than are supported");
    }
    return r->p > begin ? HD_OK : refuse(r, "a number expected");
}

/* How often: lo to hi, -1: without end. */
static int read_quantifier(struct reader *r, int *lo, int *hi)
{
    char c = r->p < r->end ? *r->p : 0;

    *lo = *hi = 1;
    if (c != '*' && c != '+' && c != '?' && c != '{')
        return HD_OK;
    r->p++;
    if (c == '{') {
        HD_TRY(read_count(r, lo));
        *hi = *lo;
        if (r->p < r->end && *r->p == ',') {
            r->p++;
            *hi = -1;
            if (r->p < r->end && *r->p != '}')
                HD_TRY(read_count(r, hi));
        }
        if (r->p == r->end || *r->p != '}' || (*hi >= 0 && *hi < *lo))
            return refuse(r, "expected {m}, {m,} or {m,n}");
        r->p++;
    } else {
        *lo = c == '+';
        *hi = c == '?' ? 1 : -1;
    }
    if (r->p < r->end && *r->p == '?')
        r->p++;                       /* lazy ones match the same texts */
    return HD_OK;
}

static int read_repeated(struct reader *r, uint32_t from, uint32_t to)
{
    const char *begin = r->p, *end;
    bool dry = r->dry;
    int lo, hi;
    uint32_t at = from;

    r->dry = true;
    HD_TRY(read_atom(r, 0, 0));
    HD_TRY(read_quantifier(r, &lo, &hi));
    r->dry = dry;
    end = r->p;
    for (int i = 0; !dry && i < (hi < 0 ? lo + 1 : hi); i++) {
        uint32_t next = new_node(r);

        r->p = begin;
        if (hi < 0 && i == lo) {      /* the one that may come again */
            uint32_t loop = new_node(r);

            HD_TRY(connect(r, at, loop, -1));
            HD_TRY(read_atom(r, loop, next));
            HD_TRY(connect(r, next, loop, -1));
            at = loop;
            break;
        }
        if (i >= lo)
            HD_TRY(connect(r, at, to, -1));
        HD_TRY(read_atom(r, at, next));
        at = next;
    }
    r->p = end;
    return connect(r, at, to, -1);
}

static int read_sequence(struct reader *r, uint32_t from, uint32_t to)
{
    while (r->p < r->end && *r->p != '|' && *r->p != ')') {
        uint32_t next;

        if (*r->p == '$' && !r->nested && (r->p + 1 == r->end || r->p[1] == '|')) {
            r->p++;
            r->ends = true;
            break;
        }
        next = new_node(r);
        HD_TRY(read_repeated(r, from, next));
        from = next;
    }
    return connect(r, from, to, -1);
}

static int read_choice(struct reader *r, uint32_t from, uint32_t to)
{
    HD_TRY(read_sequence(r, from, to));
    while (r->p < r->end && *r->p == '|') {
        r->p++;
        HD_TRY(read_sequence(r, from, to));
    }
    return HD_OK;
}

/* Node 0 begins, node 1 ends. Where there is no ^ or $, anything may stand. */
static int read_pattern(struct reader *r)
{
    do {
        uint32_t from = new_node(r), to = new_node(r);
        bool begins = r->p < r->end && *r->p == '^';

        r->p += begins;
        r->ends = false;
        HD_TRY(connect(r, 0, from, -1));
        if (!begins)
            HD_TRY(connect(r, from, from, hd_spelling_any(r->s)));
        HD_TRY(read_sequence(r, from, to));
        if (!r->ends)
            HD_TRY(connect(r, to, to, hd_spelling_any(r->s)));
        HD_TRY(connect(r, to, 1, -1));
        if (r->p < r->end && *r->p == ')')
            return refuse(r, "a ) without its group");
    } while (r->p < r->end && *r->p++ == '|');
    return HD_OK;
}

/* ---- the product with a counter ---- */

static int by_from(const void *a, const void *b)
{
    const struct link *x = a, *y = b;

    return x->from < y->from ? -1 : x->from > y->from;
}

struct product {
    uint32_t *state;                  /* [n_node, n_count], + 1; 0: not come to */
    uint32_t *queue;                  /* of index into state */
    size_t n_queue;
    int64_t n_count;
};

static uint32_t product_state(struct reader *r, struct product *x, uint32_t node, int64_t count)
{
    size_t i = (size_t)node * (size_t)x->n_count + (size_t)count;

    if (!x->state[i]) {
        x->state[i] = hd_grammar_state(r->s->g) + 1;
        x->queue[x->n_queue++] = (uint32_t)i;
    }
    return x->state[i] - 1;
}

static void multiply(struct reader *r, struct product *x, const size_t *first, int64_t len_min, int64_t len_max, uint32_t from, uint32_t to)
{
    struct hd_grammar *g = r->s->g;

    hd_grammar_skip(g, from, product_state(r, x, 0, 0));
    for (size_t k = 0; k < x->n_queue && !g->failed; k++) {
        uint32_t node = x->queue[k] / (uint32_t)x->n_count, at = x->state[x->queue[k]] - 1;
        int64_t count = x->queue[k] % (uint32_t)x->n_count;

        if (node == 1 && count >= len_min)
            hd_grammar_skip(g, at, to);
        for (size_t l = first[node]; l < first[node + 1]; l++) {
            const struct link *k1 = &r->link[l];

            if (k1->rule < 0)
                hd_grammar_skip(g, at, product_state(r, x, k1->to, count));
            else if (len_max < 0)
                hd_grammar_call(g, at, (uint32_t)k1->rule, product_state(r, x, k1->to, count < len_min ? count + 1 : count));
            else if (count < len_max)
                hd_grammar_call(g, at, (uint32_t)k1->rule, product_state(r, x, k1->to, count + 1));
        }
    }
}

static int add_product(struct reader *r, int64_t len_min, int64_t len_max, uint32_t from, uint32_t to)
{
    struct product x = {.n_count = (len_max < 0 ? len_min : len_max) + 1};
    size_t n = (size_t)r->n_node * (size_t)x.n_count, *first;

    if (x.n_count > PRODUCT_MAX || n > PRODUCT_MAX)
        return hd_err_set(r->err, HD_ERR_LIMIT, "it needs more than %d states", HD_GRAMMAR_STATES);
    x.state = hd_calloc(n, sizeof *x.state);
    x.queue = hd_malloc(n * sizeof *x.queue);
    first = hd_calloc(r->n_node + 2, sizeof *first);
    if (x.state && x.queue && first) {
        if (r->n_link)
            qsort(r->link, r->n_link, sizeof *r->link, by_from);
        for (size_t l = 0; l < r->n_link; l++)
            first[r->link[l].from + 1]++;
        for (uint32_t i = 0; i < r->n_node; i++)
            first[i + 1] += first[i];
        multiply(r, &x, first, len_min, len_max, from, to);
    } else {
        r->s->g->failed = r->s->g->no_memory = true;
    }
    hd_free(x.state);
    hd_free(x.queue);
    hd_free(first);
    return HD_OK;
}

int hd_pattern_add(struct hd_spelling *s, const char *pattern, int64_t len_min, int64_t len_max, uint32_t from, uint32_t to, struct hd_err *err)
{
    size_t n = pattern ? strlen(pattern) : 0;
    struct reader r = {.s = s, .text = pattern, .p = pattern, .end = pattern + n, .n_node = 2, .err = err};
    int rc;

    if (n > PATTERN_BYTES)
        return hd_err_set(err, HD_ERR_LIMIT, "more than %d bytes", PATTERN_BYTES);
    if (pattern) {
        rc = read_pattern(&r);
    } else {                          /* anything, any number of times */
        rc = connect(&r, 0, 0, hd_spelling_any(s));
        if (rc == HD_OK)
            rc = connect(&r, 0, 1, -1);
    }
    if (rc == HD_OK)
        rc = add_product(&r, len_min, len_max, from, to);
    hd_free(r.link);
    return rc;
}
