/* param.c: see param.h. */
#include "train/param.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

enum begin { NORMAL, ONES, ZEROS, SMALL, MIX_BASE, MIX_STATIC, MIX_SCALE, OUT };

/* The first line whose text the name ends with. Sources of the values: training.md and lineage.md (initialisation and optimiser); mHC's
 * published texts say "small" only, so that its streams begin as a plain residual: pre 1 / n_hc, post 1, comb near the identity. */
static const struct {
    const char *end;
    enum hd_param_kind kind;
    enum begin begin;
} rules[] = {
    {"engram.embed.weight", HD_PARAM_TABLE, NORMAL},
    {"engram.conv.weight", HD_PARAM_VECTOR, ZEROS},
    {"engram.q_weight", HD_PARAM_VECTOR, ONES},
    {"engram.k_weight", HD_PARAM_VECTOR, ONES},
    {"embed.weight", HD_PARAM_EMBED, NORMAL},
    {"embed_tokens.weight", HD_PARAM_EMBED, NORMAL},
    {"head.weight", HD_PARAM_EMBED, NORMAL},
    {"e_score_correction_bias", HD_PARAM_BALANCE, ZEROS},
    {"gate.bias", HD_PARAM_BALANCE, ZEROS},
    {"gate.bias_vl", HD_PARAM_FROZEN, ZEROS},
    {"tid2eid", HD_PARAM_FROZEN, ZEROS},
    {"_base", HD_PARAM_VECTOR, MIX_BASE},
    {"_static", HD_PARAM_VECTOR, MIX_STATIC},
    {"_scale", HD_PARAM_VECTOR, MIX_SCALE},
    {"_fn", HD_PARAM_VECTOR, SMALL},
    {"ape", HD_PARAM_VECTOR, ZEROS},
    {"sink", HD_PARAM_VECTOR, ZEROS},
    {"bias", HD_PARAM_VECTOR, ZEROS},
    {"norm.weight", HD_PARAM_VECTOR, ONES},
    {"o_proj.weight", HD_PARAM_MATRIX, OUT},
    {"down_proj.weight", HD_PARAM_MATRIX, OUT},
    {"attn.wo.weight", HD_PARAM_MATRIX, OUT},
    {"attn.wo_b.weight", HD_PARAM_MATRIX, OUT},
    {"w2.weight", HD_PARAM_MATRIX, OUT},
};

static int rule_of(const char *name)
{
    for (int i = 0; i < HD_LEN(rules); i++)
        if (hd_ends_with(name, rules[i].end))
            return i;
    return -1;
}

enum hd_param_kind hd_param_kind(const char *name, int n_dim)
{
    int r = rule_of(name);

    return r >= 0 ? rules[r].kind : n_dim < 2 ? HD_PARAM_VECTOR : HD_PARAM_MATRIX;
}

static double normal(struct hd_rng *r)
{
    return sqrt(-2 * log(1 - hd_rng_double(r))) * cos(6.283185307179586 * hd_rng_double(r));
}

/* n = n_hc (2 + n_hc): pre, post, comb; or n_hc: pre only. free: as the numbers themselves, not before sigmoids and Sinkhorn. */
static void mix_base(int64_t n, bool free, float *w)
{
    int64_t n_hc = 1;

    while (n_hc * (2 + n_hc) < n && n_hc < n)
        n_hc++;
    if (n_hc * (2 + n_hc) != n)
        n_hc = n;
    for (int64_t i = 0; i < n_hc; i++)
        w[i] = free ? 1 / (float)n_hc : n_hc > 1 ? -logf((float)n_hc - 1) : 8;
    for (int64_t i = n_hc; i < n; i++)
        w[i] = i < 2 * n_hc ? free : (i - 2 * n_hc) % (n_hc + 1) ? 0 : free ? 1 : 4;
}

void hd_param_init(struct hd_param_init *in, const struct hd_tensor *t, float *w)
{
    int r = rule_of(t->name);
    enum begin b = r >= 0 ? rules[r].begin : t->n_dim < 2 ? ONES : NORMAL;
    double std = b == OUT ? in->std / sqrt(2 * (double)in->n_layer) : b == SMALL ? 0.1 * in->std : in->std;
    int64_t n = hd_elems(t);

    if (b == MIX_BASE || b == MIX_STATIC) {
        mix_base(n, b == MIX_STATIC, w);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        w[i] = b == ONES ? 1 : b == ZEROS ? 0 : b == MIX_SCALE ? 0.01f : (float)(std * normal(&in->rng));
}

void hd_param_init_table(struct hd_param_init *in, int64_t n, int64_t cols, int64_t *w)
{
    for (int64_t i = 0; i < n; i += cols) {
        int64_t first = (int64_t)(hd_rng_next(&in->rng) % (uint64_t)in->n_choice);

        for (int64_t k = 0; k < cols; k++)
            w[i + k] = (first + k) % in->n_choice;
    }
}

/* ---- taking a model's weights ---- */

struct taking {
    struct hd_params *ps;
    int64_t n_head;                   /* of attention */
    size_t cap, n_float;
    bool failed;
};

static bool is_float(const struct hd_tensor *t)
{
    return t->type != HD_I32 && t->type != HD_I64;
}

static size_t room(const struct hd_tensor *t)
{
    return (size_t)((hd_elems(t) + 15) / 16 * 16);
}

static void count(void *arg, const struct hd_tensor *t)
{
    struct taking *k = arg;

    k->n_float += is_float(t) ? room(t) : 0;
    k->cap++;
}

/* Heads that the rows of a weight belong to. */
static int64_t heads_of(const char *name, int64_t rows, int64_t n_head)
{
    static const char *const ends[] = {".q_proj.weight", ".q_b_proj.weight", ".wq.weight", ".wq_b.weight"};

    for (int i = 0; i < HD_LEN(ends) && !strstr(name, "indexer"); i++)
        if (hd_ends_with(name, ends[i]) && n_head > 0 && rows % n_head == 0)
            return n_head;
    return 1;
}

/* What steers rather than computes is multiplied in f32 whatever the precision: routers, and the small products that mix streams (both f32 in the published models). */
static bool steers(const char *name, enum hd_param_kind kind)
{
    return kind == HD_PARAM_VECTOR || hd_ends_with(name, ".gate.weight");
}

/* The list hands out const views of what the model owns; a trainer owns the model. */
static void take(void *arg, const struct hd_tensor *t)
{
    struct taking *k = arg;
    struct hd_param *p = &k->ps->p[k->ps->n];

    for (int i = 0; i < k->ps->n; i++)
        if (k->ps->p[i].t == t)
            return;
    *p = (struct hd_param){.name = t->name, .t = (struct hd_tensor *)t, .rows = hd_rows(t), .cols = hd_cols(t), .n = hd_elems(t), .kind = hd_param_kind(t->name, t->n_dim), .store = HD_F32};
    p->heads = heads_of(t->name, p->rows, k->n_head);
    k->ps->n++;
    if (!is_float(t)) {
        p->kind = HD_PARAM_FROZEN;
        return;
    }
    p->w = k->ps->w + k->n_float;
    p->grad = k->ps->grad + k->n_float;
    k->n_float += room(t);
    for (int64_t r = 0; r < p->rows; r++)
        hd_decode_row(t->type, t->data, t->row_bytes, t->scale.data ? &t->scale : NULL, r, p->cols, p->w + r * p->cols);
    p->t->type = HD_F32;
    p->t->data = p->w;
    p->t->row_bytes = p->cols * 4;
    memset(&p->t->scale, 0, sizeof p->t->scale);
    p->t->exact = steers(t->name, p->kind);
    if (p->kind == HD_PARAM_TABLE && !(p->touched = hd_calloc((size_t)p->rows / 8 + 1, 1)))
        k->failed = true;
}

void hd_params_each(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    m->arch->each_weight(m, fn, arg);
    if (m->draft_learns)
        m->arch->each_draft(m, fn, arg);
}

int hd_params_take(struct hd_params *ps, struct hd_model *m, struct hd_err *err)
{
    const json_t *config = m->store.config, *text = json_object_get(config, "text_config");
    struct taking k = {.ps = ps, .n_head = json_integer_value(json_object_get(json_is_object(text) ? text : config, "num_attention_heads"))};

    memset(ps, 0, sizeof *ps);
    hd_params_each(m, count, &k);
    ps->n_float = k.n_float;
    ps->p = hd_calloc(k.cap, sizeof *ps->p);
    ps->w = hd_pages_alloc(k.n_float * sizeof(float));
    ps->grad = hd_pages_alloc(k.n_float * sizeof(float));
    if (!ps->p || !ps->w || !ps->grad) {
        hd_params_release(ps);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu weights and their gradients", k.n_float);
    }
    k.n_float = 0;
    hd_params_each(m, take, &k);
    if (k.failed) {
        hd_params_release(ps);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the rows of tables");
    }
    return HD_OK;
}

void hd_params_release(struct hd_params *ps)
{
    for (int i = 0; i < ps->n; i++)
        hd_free(ps->p[i].touched);
    hd_free(ps->p);
    hd_pages_free(ps->w, ps->n_float * sizeof(float));
    hd_pages_free(ps->grad, ps->n_float * sizeof(float));
    hd_pages_free(ps->q, ps->n_float * sizeof(float));
    memset(ps, 0, sizeof *ps);
}

int64_t hd_params_bytes(const struct hd_model *m)
{
    struct taking k = {0};

    hd_params_each(m, count, &k);
    return (int64_t)(2 * k.n_float * sizeof(float));
}
