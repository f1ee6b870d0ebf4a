/* bind.c: see bind.h. */
#include "weights/bind.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Collects complaints of one kind: the first few names and how many there are. */
struct complaint {
    int n;
    char text[300];
};

static void complain(struct complaint *c, const char *fmt, ...)
{
    size_t used = strlen(c->text);
    va_list ap;

    if (c->n++ < 3 && used + 3 < sizeof c->text) {
        if (used)
            used += (size_t)snprintf(c->text + used, sizeof c->text - used, ", ");
        va_start(ap, fmt);
        vsnprintf(c->text + used, sizeof c->text - used, fmt, ap);
        va_end(ap);
    }
}

static int64_t symbol(const struct hd_weight_list *list, const char *name, size_t n)
{
    for (int i = 0; i < list->n_sym; i++)
        if (strlen(list->sym[i].name) == n && !memcmp(list->sym[i].name, name, n))
            return list->sym[i].value;
    HD_ASSERT(!"a weight list names a symbol that is not in its table");
    return 0;
}

/* "H*Dh,D" -> dims; how many. false when a product overflows. */
static bool eval_shape(const struct hd_weight_list *list, const char *s, int *n_dim, int64_t *dim)
{
    *n_dim = 0;
    while (*s) {
        int64_t v = 1;

        for (;;) {
            size_t n = strcspn(s, "*,");
            int64_t f = s[0] >= '0' && s[0] <= '9' ? strtoll(s, NULL, 10) : symbol(list, s, n);

            if (!hd_mul64(v, f, &v))
                return false;
            s += n;
            if (*s != '*')
                break;
            s++;
        }
        HD_ASSERT(*n_dim < HD_MAX_DIM);
        dim[(*n_dim)++] = v;
        if (*s == ',')
            s++;
    }
    return true;
}

/* The entry for a row: the first of its "a|b" names that exists; name gets the first one for messages. */
static struct hd_entry *find_entry(const struct hd_store *st, const struct hd_weight_list *list, const struct hd_weight_row *row, int64_t layer, int64_t expert,
                                   char name[256])
{
    const char *alt = st->kind == HD_STORE_GGUF ? row->gguf_name : row->st_name;
    struct hd_entry *e = NULL;

    name[0] = 0;
    while (alt && *alt && !e) {
        char pattern[256], full[256];
        size_t n = strcspn(alt, "|");
        bool prefix = alt[0] == '@';

        snprintf(pattern, sizeof pattern, "%s%.*s", prefix ? list->prefix : "", (int)n - prefix, alt + prefix);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(full, sizeof full, pattern, (int)(list->first_layer + layer), (int)expert);
#pragma GCC diagnostic pop
        if (!name[0])
            memcpy(name, full, sizeof full);
        e = hd_store_find(st, full);
        alt += n + (alt[n] == '|');
    }
    return e;
}

/* ---- scales that lie beside the data ---- */

static struct hd_entry *beside(const struct hd_store *st, const struct hd_entry *e, const char *const *suffix, int n_suffix)
{
    char name[512];
    int stem = (int)e->name.n;

    if (stem > 7 && !strcmp(e->name.p + stem - 7, ".weight"))
        stem -= 7;
    for (int i = 0; i < n_suffix; i++) {
        struct hd_entry *s;

        snprintf(name, sizeof name, "%.*s%s", stem, e->name.p, suffix[i]);
        if ((s = hd_store_find(st, name)))
            return s;
        snprintf(name, sizeof name, "%s%s", e->name.p, suffix[i]);     /* experts as one matrix: gate_up_proj_scale_inv */
        if ((s = hd_store_find(st, name)))
            return s;
    }
    return NULL;
}

static bool scale_at(const struct hd_scale *s, int64_t i, float *out)
{
    const unsigned char *p = s->data;
    uint32_t bits;

    switch (s->type) {
    case HD_F32: memcpy(out, p + 4 * i, 4); break;
    case HD_BF16:
        bits = (uint32_t)(p[2 * i] | p[2 * i + 1] << 8) << 16;
        memcpy(out, &bits, 4);
        break;
    case HD_F8_E8M0: return p[i] != 255;
    case HD_F8_E4M3: return (p[i] & 0x7F) != 0x7F;
    default: return false;
    }
    return isfinite(*out);
}

/* Block size along one axis: what the config says where it fits, otherwise the smallest power of two >= 16 that does. */
static int block_of(int64_t n, int64_t n_scale, int64_t want)
{
    if (want > 0 && (n + want - 1) / want == n_scale)
        return (int)want;
    for (int b = 1; b <= 1 << 20; b *= 2)
        if ((n + b - 1) / b == n_scale)
            return b;
    return 0;
}

static const json_t *quantization(const struct hd_store *st)
{
    const json_t *q = json_object_get(st->config, "quantization_config");

    return q ? q : json_object_get(json_object_get(st->config, "text_config"), "quantization_config");
}

static void config_blocks(const struct hd_store *st, int64_t want[2])
{
    const json_t *b = json_object_get(quantization(st), "weight_block_size");

    want[0] = want[1] = 128;
    if (json_is_array(b) && json_array_size(b) == 2)
        for (size_t i = 0; i < 2; i++)
            if (json_is_integer(json_array_get(b, i)) && json_integer_value(json_array_get(b, i)) > 0)
                want[i] = json_integer_value(json_array_get(b, i));
}

/* Not finite: refused by block. As many as the store's budget allows, since scales of a whole checkpoint may be gigabytes on a disk. */
static int check_scales(struct hd_store *st, const struct hd_entry *s, const struct hd_scale *scale, struct hd_err *err)
{
    int64_t n = scale->n_row * scale->n_col;
    float v;

    if (!s->data || n > st->check_left)
        return HD_OK;
    st->check_left -= n;
    for (int64_t i = 0; i < n; i++)
        if (!scale_at(scale, i, &v))
            return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: block [%lld, %lld] has a scale that is not finite", s->name.p, (long long)(i / scale->n_col),
                              (long long)(i % scale->n_col));
    return HD_OK;
}

static int bind_scale(struct hd_store *st, const struct hd_entry *e, struct hd_tensor *t, struct hd_err *err)
{
    static const char *const names[] = {".weight_scale_inv", ".scale", ".weight_scale", "_scale_inv"};
    static const char *const global_names[] = {".weight_scale_2"};
    struct hd_entry *s = beside(st, e, names, 4), *g = beside(st, e, global_names, 1);
    int64_t want[2], rows = hd_rows(t), cols = hd_cols(t), s_rows, s_cols;

    if (!s)
        return t->type == HD_F8_E4M3 ? HD_OK        /* plain fp8, scale 1 */
                                     : hd_err_set(err, HD_ERR_FORMAT, "tensor %s: its block scales are missing (expected %.*s.scale or .weight_scale)", e->name.p,
                                                  (int)(e->name.n > 7 ? e->name.n - 7 : e->name.n), e->name.p);
    s->used = true;
    t->scale.type = s->type == HD_U8 && t->type == HD_F4_E2M1 ? HD_F8_E8M0 : (enum hd_dtype)s->type;
    if (s->type == HD_U8)
        t->scale.type = HD_F8_E8M0;
    if (s->type < 0 || (t->scale.type != HD_F32 && t->scale.type != HD_BF16 && t->scale.type != HD_F8_E8M0 && t->scale.type != HD_F8_E4M3))
        return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: found format %s; expected scales in f32, bf16, e8m0 or e4m3", s->name.p, s->type_name);
    s_cols = s->n_dim >= 2 ? s->dim[s->n_dim - 1] : 1;
    s_rows = 1;
    for (int i = 0; i < s->n_dim - (s->n_dim >= 2); i++)
        s_rows *= s->dim[i];
    config_blocks(st, want);
    if (t->type == HD_F4_E2M1) {
        want[0] = 1;
        want[1] = s->type == HD_F8_E4M3 ? 16 : 32;
    }
    t->scale.data = s->data;
    t->scale.n_row = s_rows;
    t->scale.n_col = s_cols;
    t->scale.block_rows = block_of(rows, s_rows, want[0]);
    t->scale.block_cols = block_of(cols, s_cols, want[1]);
    t->scale.global = 1;
    if (!t->scale.block_rows || !t->scale.block_cols) {
        char a[96], b[96];

        return hd_err_set(err, HD_ERR_SHAPE, "tensor %s: found shape %s; expected scales for blocks of %s %s", s->name.p, hd_shape_str(a, s->n_dim, s->dim), e->name.p,
                          hd_shape_str(b, t->n_dim, t->dim));
    }
    HD_TRY(check_scales(st, s, &t->scale, err));
    if (g && t->type == HD_F4_E2M1 && s->type == HD_F8_E4M3) {
        g->used = true;
        if (g->type != HD_F32 || g->bytes != 4)
            return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: expected one f32", g->name.p);
        memcpy(&t->scale.global, g->data, 4);
        if (!isfinite(t->scale.global))
            return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: is not finite", g->name.p);
    }
    return HD_OK;
}

/* ---- rows ---- */

static bool same_dims(const struct hd_entry *e, int n_dim, const int64_t *dim)
{
    bool same = e->n_dim == n_dim;

    for (int i = 0; same && i < n_dim; i++)
        same = e->dim[i] == dim[i];
    return same;
}

/* GGUF's writers disagree whether matrices of heads or groups are one matrix: [H, n, D] or [H n, D]; the bytes are the same. */
static bool same_rows(const struct hd_entry *e, int n_dim, const int64_t *dim)
{
    int64_t have = 1, want = 1;

    for (int i = 0; i < e->n_dim - 1; i++)
        have *= e->dim[i];                            /* the product was checked when the file was parsed */
    for (int i = 0; i < n_dim - 1; i++)
        want *= dim[i];
    return e->n_dim > 1 && n_dim > 1 && have == want && e->dim[e->n_dim - 1] == dim[n_dim - 1];
}

static void set_shape(struct hd_tensor *t, enum hd_dtype type, int n_dim, const int64_t *dim)
{
    t->type = type;
    t->n_dim = n_dim;
    for (int i = 0; i < HD_MAX_DIM; i++)
        t->dim[i] = i < n_dim ? dim[i] : 1;
    t->row_bytes = hd_row_bytes(type, dim[n_dim - 1]);
}

static int finite_vector(struct hd_store *st, const struct hd_entry *e, const float *x, int64_t n, struct hd_err *err)
{
    if (n > st->check_left)
        return HD_OK;
    st->check_left -= n;
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: value %lld is not finite", e->name.p, (long long)i);
    return HD_OK;
}

/* A float vector of any format becomes f32; one that is stays where it lies. */
static int bind_vector(struct hd_store *st, const struct hd_entry *e, struct hd_tensor *t, int n_dim, const int64_t *dim, struct hd_arena *arena, struct hd_err *err)
{
    int64_t n = 1, cols = dim[n_dim - 1];
    float *out;

    for (int i = 0; i < n_dim; i++)
        n *= dim[i];
    set_shape(t, HD_F32, n_dim, dim);
    t->data = (void *)e->data;
    if (e->type == HD_F32 && (uintptr_t)e->data % sizeof(float) == 0)
        return finite_vector(st, e, e->data, n, err);
    if (!(out = hd_arena_alloc(arena, (size_t)n * sizeof *out)))
        return hd_err_set(err, HD_ERR_MEMORY, "tensor %s: no memory for %lld values", e->name.p, (long long)n);
    for (int64_t r = 0; r < n / cols; r++)
        hd_decode_row((enum hd_dtype)e->type, e->data, hd_row_bytes((enum hd_dtype)e->type, cols), NULL, r, cols, out + r * cols);
    t->data = out;
    return finite_vector(st, e, out, n, err);
}

static int bind_row(struct hd_store *st, const struct hd_weight_row *row, struct hd_entry *e, struct hd_tensor *t, int n_dim, const int64_t *dim,
                    struct hd_arena *arena, struct complaint *shape, struct hd_err *err)
{
    enum hd_dtype type = (enum hd_dtype)e->type;
    char a[96], b[96];
    bool packed = false;

    t->name = e->name.p;
    e->used = true;
    if (e->type < 0)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "tensor %s: found format %s; expected one that hadal reads", e->name.p, e->type_name);
    /* fp4: two values a byte */
    if (row->class == HD_W_MATRIX && (type == HD_I8 || type == HD_U8) && e->n_dim == n_dim && e->dim[n_dim - 1] * 2 == dim[n_dim - 1]) {
        packed = true;
        for (int i = 0; i < n_dim - 1; i++)
            packed = packed && e->dim[i] == dim[i];
    }
    if (row->class == HD_W_MATRIX && !strcmp(e->type_name, "F4") && same_dims(e, n_dim, dim) && dim[n_dim - 1] % 2 == 0)
        packed = true;
    if (!packed && !same_dims(e, n_dim, dim) && !(st->kind == HD_STORE_GGUF && row->class == HD_W_MATRIX && same_rows(e, n_dim, dim))) {
        complain(shape, "%s: found %s, expected %s", e->name.p, hd_shape_str(a, e->n_dim, e->dim), hd_shape_str(b, n_dim, dim));
        return HD_OK;
    }
    if (packed)
        type = HD_F4_E2M1;
    if (row->class == HD_W_TABLE ? type != HD_I32 && type != HD_I64 : !hd_dtype_is_float(type))
        return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: found format %s; expected %s", e->name.p, e->type_name,
                          row->class == HD_W_TABLE ? "i32 or i64" : "a float or a quantised one");
    if (dim[n_dim - 1] % hd_dtypes[type].block_len)
        return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: rows of %lld values; %s needs a multiple of %d", e->name.p, (long long)dim[n_dim - 1],
                          hd_dtypes[type].name, hd_dtypes[type].block_len);
    if (row->class == HD_W_VECTOR && e->data)
        return bind_vector(st, e, t, n_dim, dim, arena, err);
    set_shape(t, type, n_dim, dim);
    t->data = (void *)e->data;
    if (type == HD_F8_E4M3 || type == HD_F4_E2M1)
        return bind_scale(st, e, t, err);
    return HD_OK;
}

static bool row_exists(const struct hd_weight_list *list, const struct hd_weight_row *row, int64_t layer)
{
    return !row->when || (list->exists ? list->exists(list->arg, row->when, list->first_layer + layer) : symbol(list, row->when, strlen(row->when)) != 0);
}

static struct hd_tensor *row_field(const struct hd_weight_list *list, const struct hd_weight_row *row, int64_t layer)
{
    char *base = row->flags & HD_W_GLOBAL ? list->globals : (char *)list->layers + (size_t)layer * list->layer_bytes;

    return row->flags & HD_W_EXPERT ? *(struct hd_tensor **)(base + row->field) : (struct hd_tensor *)(base + row->field);
}

static bool make_experts(const struct hd_weight_list *list, const struct hd_weight_row *row, int64_t layer, struct hd_arena *arena)
{
    char *base = (char *)list->layers + (size_t)layer * list->layer_bytes;
    struct hd_tensor **field = (struct hd_tensor **)(base + row->field);

    return *field || (*field = hd_arena_zalloc(arena, (size_t)list->n_expert * sizeof **field));
}

struct bound {
    struct hd_store *st;
    struct hd_arena *arena;
    bool plan;
    struct complaint missing, shape;
};

/* The format that a matrix of a checkpoint that is not there would have. */
static void plan_matrix(const struct hd_store *st, const struct hd_weight_row *row, struct hd_tensor *t, int n_dim, const int64_t *dim)
{
    const json_t *q = quantization(st);
    const char *method = json_string_value(json_object_get(q, "quant_method")), *scale = json_string_value(json_object_get(q, "scale_fmt"));
    const char *expert = json_string_value(json_object_get(q, "expert_dtype"));
    int64_t want[2], cols = dim[n_dim - 1];
    bool fp4;

    if (!expert)
        expert = json_string_value(json_object_get(st->config, "expert_dtype"));
    fp4 = row->flags & HD_W_EXPERT && expert && !strcmp(expert, "fp4") && cols % 32 == 0;
    if (!method || strcmp(method, "fp8") || !(row->flags & (HD_W_FP8 | HD_W_FP8_ROWS | HD_W_EXPERT))) {
        set_shape(t, HD_BF16, n_dim, dim);
        return;
    }
    config_blocks(st, want);
    set_shape(t, fp4 ? HD_F4_E2M1 : HD_F8_E4M3, n_dim, dim);
    if (row->flags & HD_W_FP8_ROWS)
        want[0] = 1;
    if (fp4) {
        want[0] = 1;
        want[1] = 32;
    }
    t->scale = (struct hd_scale){.type = fp4 || (scale && !strcmp(scale, "ue8m0")) ? HD_F8_E8M0 : HD_F32, .block_rows = (int)want[0], .block_cols = (int)want[1], .global = 1,
                                 .n_row = (hd_rows(t) + want[0] - 1) / want[0], .n_col = (cols + want[1] - 1) / want[1]};
}

static int bind_one(struct bound *b, const struct hd_weight_list *list, const struct hd_weight_row *row, int64_t layer, int64_t expert, int n_dim, const int64_t *dim,
                    struct hd_err *err)
{
    char name[256];
    struct hd_entry *e = find_entry(b->st, list, row, layer, expert, name);
    struct hd_tensor *t;

    if (row->flags & HD_W_STORED_ONLY) {
        if (e)
            e->used = true;
        return HD_OK;
    }
    t = row_field(list, row, layer) + expert;
    if (e)
        return bind_row(b->st, row, e, t, n_dim, dim, b->arena, &b->shape, err);
    if (b->plan && !b->st->n_entry && name[0] && (!(row->flags & HD_W_OPTIONAL) || row->flags & HD_W_PLANNED)) {
        if (row->class == HD_W_MATRIX)
            plan_matrix(b->st, row, t, n_dim, dim);
        else
            set_shape(t, row->class == HD_W_VECTOR ? HD_F32 : HD_I64, n_dim, dim);
        t->name = hd_arena_strdup(b->arena, name, strlen(name));
    } else if (name[0] && !(row->flags & HD_W_OPTIONAL)) {
        complain(&b->missing, "%s", name);
    }
    return HD_OK;
}

/* GGUF keeps a layer's experts in one tensor [E, ...]: every expert becomes a view. */
static int bind_stack(struct bound *b, const struct hd_weight_list *list, const struct hd_weight_row *row, int64_t layer, int n_dim, const int64_t *dim, struct hd_err *err)
{
    char name[256];
    struct hd_entry *e = find_entry(b->st, list, row, layer, 0, name);
    struct hd_tensor all = {0}, *t = row_field(list, row, layer);
    int64_t stack[HD_MAX_DIM] = {list->n_expert};

    if (!e) {
        if (name[0] && !(row->flags & HD_W_OPTIONAL))
            complain(&b->missing, "%s", name);
        return HD_OK;
    }
    HD_ASSERT(n_dim < HD_MAX_DIM);
    memcpy(stack + 1, dim, (size_t)n_dim * sizeof *dim);
    HD_TRY(bind_row(b->st, row, e, &all, n_dim + 1, stack, b->arena, &b->shape, err));
    for (int64_t x = 0; all.n_dim && x < list->n_expert; x++) {
        int len = snprintf(name, sizeof name, "%.230s[%lld]", e->name.p, (long long)x);

        t[x] = all;
        set_shape(&t[x], all.type, n_dim, dim);
        if (all.data)
            t[x].data = (char *)all.data + x * hd_tensor_bytes(&t[x]);
        if (!(t[x].name = hd_arena_strdup(b->arena, name, (size_t)len)))
            return hd_err_set(err, HD_ERR_MEMORY, "tensor %s: no memory for %lld experts", e->name.p, (long long)list->n_expert);
    }
    return HD_OK;
}

static int bind_all(struct bound *b, const struct hd_weight_list *list, struct hd_err *err)
{
    for (int r = 0; r < list->n_row; r++) {
        const struct hd_weight_row *row = &list->row[r];
        int n_dim = 0;
        int64_t dim[HD_MAX_DIM];

        if (!(row->flags & HD_W_STORED_ONLY) && (list->exists || row_exists(list, row, 0)) && !eval_shape(list, row->shape, &n_dim, dim))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: shape %s overflows", row->st_name ? row->st_name : row->gguf_name, row->shape);
        for (int64_t layer = 0; layer < (row->flags & HD_W_GLOBAL ? 1 : list->n_layer); layer++) {
            if (!(row->flags & HD_W_STORED_ONLY) && !row_exists(list, row, layer))
                continue;
            if (row->flags & HD_W_EXPERT && !make_experts(list, row, layer, b->arena))
                return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %lld experts", b->st->path, (long long)list->n_expert);
            if (row->flags & HD_W_EXPERT && b->st->kind == HD_STORE_GGUF) {
                HD_TRY(bind_stack(b, list, row, layer, n_dim, dim, err));
                continue;
            }
            for (int64_t x = 0; x < (row->flags & HD_W_EXPERT ? list->n_expert : 1); x++)
                HD_TRY(bind_one(b, list, row, layer, x, n_dim, dim, err));
        }
    }
    return HD_OK;
}

int hd_bind_lists(struct hd_store *st, const struct hd_weight_list *list, int n_list, struct hd_arena *arena, bool plan, struct hd_err *err)
{
    struct bound b = {.st = st, .arena = arena, .plan = plan};
    struct complaint extra = {0};
    char text[480] = "";
    size_t n = 0;

    for (int i = 0; i < n_list; i++)
        HD_TRY(bind_all(&b, &list[i], err));
    for (size_t i = 0; i < st->n_entry; i++)
        if (!st->entry[i].used)
            complain(&extra, "%s", st->entry[i].name.p);
    struct {
        const struct complaint *c;
        const char *what;
    } all[] = {{&b.missing, "missing"}, {&b.shape, "misshapen"}, {&extra, "unknown"}};

    for (int i = 0; i < 3; i++)
        if (all[i].c->n && n < sizeof text)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%d tensor%s %s: %.*s%s", n ? "; " : "", all[i].c->n, all[i].c->n > 1 ? "s" : "", all[i].what,
                                  n ? 90 : 250, all[i].c->text, all[i].c->n > 3 ? ", ..." : "");
    return n ? hd_err_set(err, HD_ERR_FORMAT, "%s: %s", st->path, text) : HD_OK;
}

int hd_bind(struct hd_store *st, const struct hd_weight_list *list, struct hd_arena *arena, bool plan, struct hd_err *err)
{
    return hd_bind_lists(st, list, 1, arena, plan, err);
}

void hd_bind_each(const struct hd_weight_list *list, void (*fn)(void *arg, const struct hd_tensor *w), void *arg)
{
    for (int r = 0; r < list->n_row; r++) {
        const struct hd_weight_row *row = &list->row[r];

        if (row->flags & HD_W_STORED_ONLY)
            continue;
        for (int64_t layer = 0; layer < (row->flags & HD_W_GLOBAL ? 1 : list->n_layer); layer++) {
            const struct hd_tensor *t;

            if (!row_exists(list, row, layer) || !(t = row_field(list, row, layer)))
                continue;
            for (int64_t x = 0; x < (row->flags & HD_W_EXPERT ? list->n_expert : 1); x++)
                if (t[x].n_dim)
                    fn(arg, &t[x]);
        }
    }
}
