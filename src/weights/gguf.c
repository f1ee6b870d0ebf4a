/* gguf.c: GGUF v2 and v3, little endian.
 *
 * Format   magic "GGUF", version u32, n_tensor u64, n_kv u64; n_kv times: key string, type u32, value; n_tensor times: name,
 *          n_dim u32, dims u64 (innermost first), ggml type u32, offset u64; padding to general.alignment; the bytes
 * Reading  one pass with a bounded cursor; values stay in the map, arrays are checked here and decoded when asked for
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "weights/store.h"

#define KEY_MAX 65535
#define NAME_MAX_BYTES 255
#define KV_MAX ((uint64_t)1 << 20)
#define DEFAULT_ALIGNMENT 32

struct cursor {
    const unsigned char *p, *end;
};

static uint64_t load(const unsigned char *p, int n)
{
    uint64_t v = 0;

    for (int i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static bool get(struct cursor *c, int n, uint64_t *out)
{
    if (c->end - c->p < n)
        return false;
    *out = load(c->p, n);
    c->p += n;
    return true;
}

static bool get_string(struct cursor *c, struct hd_view *out)
{
    uint64_t n;

    if (!get(c, 8, &n) || n > (uint64_t)(c->end - c->p))
        return false;
    *out = (struct hd_view){(const char *)c->p, (size_t)n};
    c->p += n;
    return true;
}

static const int type_size[HD_N_GGUF] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static int get_value(struct cursor *c, struct hd_gguf_kv *kv, struct hd_err *err)
{
    int key_len = (int)(kv->key.n > 200 ? 200 : kv->key.n);
    struct hd_view s;
    uint64_t v;

    kv->p = c->p;
    kv->n = 1;
    if (kv->type == HD_GGUF_STR) {
        if (!get_string(c, &s))
            return hd_err_set(err, HD_ERR_FORMAT, "%.*s: the string ends behind the file", key_len, kv->key.p);
        return HD_OK;
    }
    if (kv->type != HD_GGUF_ARR) {
        if (!get(c, type_size[kv->type], &v))
            return hd_err_set(err, HD_ERR_FORMAT, "%.*s: the value ends behind the file", key_len, kv->key.p);
        return HD_OK;
    }
    if (!get(c, 4, &v) || !get(c, 8, &kv->n))
        return hd_err_set(err, HD_ERR_FORMAT, "%.*s: the array ends behind the file", key_len, kv->key.p);
    if (v >= HD_N_GGUF || v == HD_GGUF_ARR)
        return hd_err_set(err, HD_ERR_FORMAT, "%.*s: array of type %llu; expected numbers, booleans or strings", key_len, kv->key.p, (unsigned long long)v);
    kv->elem = (enum hd_gguf_type)v;
    kv->p = c->p;
    if (kv->elem == HD_GGUF_STR) {
        for (uint64_t i = 0; i < kv->n; i++)
            if (!get_string(c, &s))
                return hd_err_set(err, HD_ERR_FORMAT, "%.*s: string %llu of %llu ends behind the file", key_len, kv->key.p, (unsigned long long)i,
                                  (unsigned long long)kv->n);
        return HD_OK;
    }
    if (kv->n > (uint64_t)(c->end - c->p) / (uint64_t)type_size[kv->elem])
        return hd_err_set(err, HD_ERR_FORMAT, "%.*s: an array of %llu elements ends behind the file", key_len, kv->key.p, (unsigned long long)kv->n);
    c->p += kv->n * (uint64_t)type_size[kv->elem];
    return HD_OK;
}

static int compare_keys(const void *a, const void *b)
{
    const struct hd_gguf_kv *x = a, *y = b;
    size_t n = x->key.n < y->key.n ? x->key.n : y->key.n;
    int c = memcmp(x->key.p, y->key.p, n);

    return c ? c : x->key.n < y->key.n ? -1 : x->key.n > y->key.n;
}

static int parse_metadata(struct hd_store *st, struct cursor *c, uint64_t n_kv, struct hd_err *err)
{
    /* a key takes at least 8 + 4 + 1 bytes: a count that cannot fit is refused before memory is asked for */
    if (n_kv > KV_MAX || n_kv > (uint64_t)(c->end - c->p) / 13)
        return hd_err_set(err, HD_ERR_FORMAT, "%llu metadata keys do not fit into the file", (unsigned long long)n_kv);
    st->kv = hd_arena_alloc(&st->arena, (size_t)n_kv * sizeof *st->kv);
    if (!st->kv)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %llu metadata keys", (unsigned long long)n_kv);
    for (uint64_t i = 0; i < n_kv; i++) {
        struct hd_gguf_kv *kv = &st->kv[i];
        uint64_t type;

        memset(kv, 0, sizeof *kv);
        if (!get_string(c, &kv->key) || kv->key.n == 0 || kv->key.n > KEY_MAX || !get(c, 4, &type))
            return hd_err_set(err, HD_ERR_FORMAT, "metadata key %llu of %llu is malformed", (unsigned long long)i, (unsigned long long)n_kv);
        if (type >= HD_N_GGUF)
            return hd_err_set(err, HD_ERR_FORMAT, "%.*s: type %llu; expected 0 to 12", (int)(kv->key.n > 200 ? 200 : kv->key.n), kv->key.p,
                              (unsigned long long)type);
        kv->type = (enum hd_gguf_type)type;
        HD_TRY(get_value(c, kv, err));
    }
    st->n_kv = (size_t)n_kv;
    if (n_kv)
        qsort(st->kv, st->n_kv, sizeof *st->kv, compare_keys);
    for (size_t i = 1; i < st->n_kv; i++)
        if (!compare_keys(&st->kv[i - 1], &st->kv[i]))
            return hd_err_set(err, HD_ERR_FORMAT, "%.*s: found twice", (int)(st->kv[i].key.n > 200 ? 200 : st->kv[i].key.n), st->kv[i].key.p);
    return HD_OK;
}

/* Names of ggml types that hadal has no decoder for, so that messages can say them. */
static const char *stranger(uint32_t type)
{
    static const struct {
        uint32_t type;
        const char *name;
    } known[] = {{9, "q8_1"},     {15, "q8_k"},   {16, "iq2_xxs"}, {17, "iq2_xs"}, {18, "iq3_xxs"}, {19, "iq1_s"}, {20, "iq4_nl"},
                 {21, "iq3_s"},   {22, "iq2_s"},  {23, "iq4_xs"},  {29, "iq1_m"},  {34, "tq1_0"},   {35, "tq2_0"}, {40, "nvfp4"}};

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].type == type)
            return known[i].name;
    return "unknown";
}

static int parse_tensor(struct hd_store *st, struct cursor *c, int file, uint64_t *offset, struct hd_err *err)
{
    struct hd_view name;
    struct hd_entry *e;
    uint64_t n_dim, dim, type;
    int64_t n = 1;

    if (!get_string(c, &name) || name.n == 0 || name.n > NAME_MAX_BYTES || memchr(name.p, 0, name.n))
        return hd_err_set(err, HD_ERR_FORMAT, "the name of tensor %zu is malformed", st->n_entry);
    if (!get(c, 4, &n_dim) || n_dim < 1 || n_dim > HD_MAX_DIM)
        return hd_err_set(err, HD_ERR_FORMAT, "tensor %.*s: expected 1 to 4 dimensions", (int)name.n, name.p);
    if (!(e = hd_store_add(st, name.p, name.n, err)))
        return HD_ERR_FORMAT;
    e->n_dim = (int)n_dim;
    e->file = file;
    for (int i = 0; i < e->n_dim; i++) {
        if (!get(c, 8, &dim))
            return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: its description ends behind the file", e->name.p);
        if (dim > (uint64_t)INT64_MAX || !hd_mul64(n, (int64_t)dim, &n))
            return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: the product of its dimensions overflows", e->name.p);
        e->dim[e->n_dim - 1 - i] = (int64_t)dim;
    }
    if (!get(c, 4, &type) || !get(c, 8, offset))
        return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: its description ends behind the file", e->name.p);
    e->type = hd_dtype_of_gguf((uint32_t)type);
    if (e->type < 0) {
        char text[48];
        int len = snprintf(text, sizeof text, "%s (%u)", stranger((uint32_t)type), (uint32_t)type);

        if (!(e->type_name = hd_arena_strdup(&st->arena, text, (size_t)len)))
            return hd_err_set(err, HD_ERR_MEMORY, "no memory for the tensor directory");
        return HD_OK;
    }
    e->type_name = hd_dtypes[e->type].name;
    if (e->dim[e->n_dim - 1] % hd_dtypes[e->type].block_len)
        return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: rows of %lld values; %s needs a multiple of %d", e->name.p, (long long)e->dim[e->n_dim - 1], e->type_name,
                          hd_dtypes[e->type].block_len);
    if (!hd_mul64(n / hd_dtypes[e->type].block_len, hd_dtypes[e->type].block_bytes, &e->bytes))
        return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: its size overflows", e->name.p);
    return HD_OK;
}

struct place {
    uint64_t off;
    struct hd_entry *e;
};

static int compare_places(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    return x->off < y->off ? -1 : x->off > y->off ? 1 : x->e->bytes < y->e->bytes ? -1 : x->e->bytes > y->e->bytes;
}

/* Binds offsets to bytes: aligned, inside the file, without overlap. */
static int place_tensors(struct place *pl, size_t n, const unsigned char *data, uint64_t data_bytes, uint64_t align, struct hd_err *err)
{
    uint64_t end = 0;

    qsort(pl, n, sizeof *pl, compare_places);
    for (size_t i = 0; i < n; i++) {
        struct hd_entry *e = pl[i].e;

        if (pl[i].off % align)
            return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: offset %llu; expected a multiple of the alignment %llu", e->name.p, (unsigned long long)pl[i].off,
                              (unsigned long long)align);
        if (pl[i].off > data_bytes || (uint64_t)e->bytes > data_bytes - pl[i].off)
            return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: %lld bytes at offset %llu end behind the file (%llu bytes of data)", e->name.p, (long long)e->bytes,
                              (unsigned long long)pl[i].off, (unsigned long long)data_bytes);
        if (pl[i].off < end)
            return hd_err_set(err, HD_ERR_FORMAT, "tensor %s: begins at %llu, inside the tensor before it", e->name.p, (unsigned long long)pl[i].off);
        end = pl[i].off + (uint64_t)e->bytes;
        e->data = data + pl[i].off;
    }
    return HD_OK;
}

int hd_gguf_parse(struct hd_store *st, int file, struct hd_err *err)
{
    const unsigned char *base = st->files[file].data;
    struct cursor c = {base, base + st->files[file].n};
    uint64_t version = 0, n_tensor = 0, n_kv = 0, head;
    size_t first = st->n_entry;
    int64_t align;
    struct place *pl;
    int rc = HD_OK;

    if (st->files[file].n < 24 || memcmp(base, "GGUF", 4))
        return hd_err_set(err, HD_ERR_FORMAT, "is not a GGUF file (and not a directory with config.json)");
    c.p += 4;
    get(&c, 4, &version);
    if (version == 0x02000000 || version == 0x03000000)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "is a big-endian GGUF file; expected little endian");
    if (version != 2 && version != 3)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "GGUF version %llu; expected 2 or 3", (unsigned long long)version);
    get(&c, 8, &n_tensor);
    get(&c, 8, &n_kv);
    HD_TRY(parse_metadata(st, &c, n_kv, err));
    HD_TRY(hd_gguf_int_or(st, "general.alignment", 1, (int64_t)1 << 20, DEFAULT_ALIGNMENT, &align, err));
    if (align & (align - 1))
        return hd_err_set(err, HD_ERR_FORMAT, "general.alignment: found %lld; expected a power of two", (long long)align);
    /* a description takes at least 8 + 1 + 4 + 8 + 4 + 8 bytes */
    if (n_tensor > HD_ENTRY_MAX || n_tensor > (uint64_t)(c.end - c.p) / 33)
        return hd_err_set(err, HD_ERR_FORMAT, "%llu tensors do not fit into the file", (unsigned long long)n_tensor);
    uint64_t *offsets = hd_malloc((size_t)n_tensor * sizeof *offsets);

    pl = hd_malloc((size_t)n_tensor * sizeof *pl);
    if (!offsets || !pl)
        rc = hd_err_set(err, HD_ERR_MEMORY, "no memory for %llu tensors", (unsigned long long)n_tensor);
    for (uint64_t i = 0; i < n_tensor && rc == HD_OK; i++)
        rc = parse_tensor(st, &c, file, &offsets[i], err);
    if (rc == HD_OK) {
        head = ((uint64_t)(c.p - base) + (uint64_t)align - 1) & ~((uint64_t)align - 1);
        if (head > st->files[file].n)
            head = st->files[file].n;
        for (size_t i = 0; i < n_tensor; i++)             /* entries no longer move: this file's are complete */
            pl[i] = (struct place){offsets[i], &st->entry[first + i]};
        rc = place_tensors(pl, (size_t)n_tensor, base + head, st->files[file].n - head, (uint64_t)align, err);
    }
    hd_free(offsets);
    hd_free(pl);
    return rc;
}

/* ---- metadata ---- */

const struct hd_gguf_kv *hd_gguf_find(const struct hd_store *st, const char *key)
{
    struct hd_gguf_kv want = {.key = {key, strlen(key)}};

    return st->n_kv ? bsearch(&want, st->kv, st->n_kv, sizeof *st->kv, compare_keys) : NULL;
}

static double real_of(enum hd_gguf_type type, const unsigned char *p)
{
    uint64_t v = load(p, type_size[type]);

    if (type == HD_GGUF_F32) {
        uint32_t bits = (uint32_t)v;
        float f;

        memcpy(&f, &bits, 4);
        return (double)f;
    }
    if (type == HD_GGUF_F64) {
        double d;

        memcpy(&d, &v, 8);
        return d;
    }
    switch (type) {
    case HD_GGUF_I8: return (double)(int8_t)v;
    case HD_GGUF_I16: return (double)(int16_t)v;
    case HD_GGUF_I32: return (double)(int32_t)v;
    case HD_GGUF_I64: return (double)(int64_t)v;
    default: return (double)v;
    }
}

/* false when the value is no integer that fits int64. */
static bool int_of(enum hd_gguf_type type, const unsigned char *p, int64_t *out)
{
    uint64_t v;
    double d;

    switch (type) {
    case HD_GGUF_STR:
    case HD_GGUF_ARR: return false;
    case HD_GGUF_F32:
    case HD_GGUF_F64:
        d = real_of(type, p);
        if (!(fabs(d) < 9e15) || d != floor(d))
            return false;
        *out = (int64_t)d;
        return true;
    default: break;
    }
    v = load(p, type_size[type]);
    if (type == HD_GGUF_U64 && v > (uint64_t)INT64_MAX)
        return false;
    *out = type == HD_GGUF_I8 ? (int8_t)v : type == HD_GGUF_I16 ? (int16_t)v : type == HD_GGUF_I32 ? (int32_t)v : (int64_t)v;
    return true;
}

int hd_gguf_int(const struct hd_store *st, const char *key, int64_t lo, int64_t hi, int64_t *out, struct hd_err *err)
{
    const struct hd_gguf_kv *kv = hd_gguf_find(st, key);
    int64_t v;

    if (!kv)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: found nothing; expected an integer from %lld to %lld", key, (long long)lo, (long long)hi);
    if (!int_of(kv->type, kv->p, &v))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: found no integer; expected one from %lld to %lld", key, (long long)lo, (long long)hi);
    if (v < lo || v > hi)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: found %lld; expected an integer from %lld to %lld", key, (long long)v, (long long)lo, (long long)hi);
    *out = v;
    return HD_OK;
}

int hd_gguf_int_or(const struct hd_store *st, const char *key, int64_t lo, int64_t hi, int64_t dflt, int64_t *out, struct hd_err *err)
{
    if (hd_gguf_find(st, key))
        return hd_gguf_int(st, key, lo, hi, out, err);
    *out = dflt;
    return HD_OK;
}

int hd_gguf_real_or(const struct hd_store *st, const char *key, double lo, double hi, double dflt, double *out, struct hd_err *err)
{
    const struct hd_gguf_kv *kv = hd_gguf_find(st, key);
    double v;

    if (!kv) {
        *out = dflt;
        return HD_OK;
    }
    if (kv->type == HD_GGUF_STR || kv->type == HD_GGUF_ARR)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: found no number; expected one from %g to %g", key, lo, hi);
    v = real_of(kv->type, kv->p);
    if (!(v >= lo && v <= hi))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: found %g; expected a number from %g to %g", key, v, lo, hi);
    *out = v;
    return HD_OK;
}

bool hd_gguf_bool_or(const struct hd_store *st, const char *key, bool dflt)
{
    const struct hd_gguf_kv *kv = hd_gguf_find(st, key);

    return kv && kv->type == HD_GGUF_BOOL ? *kv->p != 0 : dflt;
}

bool hd_gguf_str(const struct hd_store *st, const char *key, struct hd_view *out)
{
    const struct hd_gguf_kv *kv = hd_gguf_find(st, key);

    if (!kv || kv->type != HD_GGUF_STR)
        return false;
    *out = (struct hd_view){(const char *)kv->p + 8, (size_t)load(kv->p, 8)};
    return true;
}

bool hd_gguf_next_str(const struct hd_gguf_kv *kv, uint64_t *at, const unsigned char **cursor, struct hd_view *out)
{
    if (kv->type != HD_GGUF_ARR || kv->elem != HD_GGUF_STR || *at >= kv->n)
        return false;
    if (*at == 0)
        *cursor = kv->p;
    *out = (struct hd_view){(const char *)*cursor + 8, (size_t)load(*cursor, 8)};
    *cursor += 8 + out->n;
    ++*at;
    return true;
}

int64_t hd_gguf_elem_int(const struct hd_gguf_kv *kv, uint64_t i)
{
    int64_t v = 0;

    HD_ASSERT(kv->type == HD_GGUF_ARR && kv->elem != HD_GGUF_STR && i < kv->n);
    return int_of(kv->elem, kv->p + i * (uint64_t)type_size[kv->elem], &v) ? v : 0;
}

double hd_gguf_elem_real(const struct hd_gguf_kv *kv, uint64_t i)
{
    HD_ASSERT(kv->type == HD_GGUF_ARR && kv->elem != HD_GGUF_STR && i < kv->n);
    return real_of(kv->elem, kv->p + i * (uint64_t)type_size[kv->elem]);
}
