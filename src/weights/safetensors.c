/* safetensors.c: the header of a safetensors file.
 *
 * Format   8 bytes little-endian header length, a JSON object {name: {dtype, shape, data_offsets}, "__metadata__": {...}},
 *          then the bytes; offsets count from the end of the header; tensors tile the rest without gaps or overlaps
 * Reading  a small reader of this JSON subset walks the header once: 96,000 tensors cost no tree and no copies but names
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "weights/store.h"

struct reader {
    const char *p, *end;
    struct hd_err *err;
    char name[1024];              /* the tensor being read, for messages */
};

static int bad(struct reader *r, const char *what)
{
    return hd_err_set(r->err, HD_ERR_FORMAT, "header%s%s: %s", r->name[0] ? " of tensor " : "", r->name, what);
}

static void space(struct reader *r)
{
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\t' || *r->p == '\r'))
        r->p++;
}

static bool take(struct reader *r, char c)
{
    space(r);
    if (r->p < r->end && *r->p == c) {
        r->p++;
        return true;
    }
    return false;
}

static int hex4(const char *p)
{
    int v = 0;

    for (int i = 0; i < 4; i++) {
        int c = p[i], d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;

        if (d < 0)
            return -1;
        v = v << 4 | d;
    }
    return v;
}

/* A string of at most max bytes into out (with a NUL); its length or a status below zero. */
static int64_t string(struct reader *r, char *out, size_t max)
{
    size_t n = 0;

    if (!take(r, '"'))
        return bad(r, "not valid JSON: expected a string");
    for (;;) {
        unsigned char c;
        int len;

        if (r->p >= r->end)
            return bad(r, "not valid JSON: a string does not end");
        c = (unsigned char)*r->p;
        if (c == '"')
            break;
        if (n + 4 > max)
            return bad(r, "a string is too long");
        if (c < 0x20)
            return bad(r, "not valid JSON: a control character in a string");
        if (c == '\\') {
            static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
            const char *k;

            if (r->end - r->p < 2)
                return bad(r, "not valid JSON: a string does not end");
            if (r->p[1] == 'u') {
                int v = r->end - r->p >= 6 ? hex4(r->p + 2) : -1, lo;

                if (v >= 0xD800 && v < 0xDC00 && r->end - r->p >= 12 && r->p[6] == '\\' && r->p[7] == 'u' && (lo = hex4(r->p + 8)) >= 0xDC00 && lo < 0xE000) {
                    v = 0x10000 + (v - 0xD800) * 1024 + (lo - 0xDC00);
                    r->p += 6;
                }
                if (v <= 0 || (v >= 0xD800 && v < 0xE000))
                    return bad(r, "not valid JSON: a bad escape in a string");
                n += (size_t)hd_utf8_put(out + n, (uint32_t)v);
                r->p += 6;
                continue;
            }
            if (!r->p[1] || !(k = strchr(from, r->p[1])))
                return bad(r, "not valid JSON: a bad escape in a string");
            out[n++] = to[k - from];
            r->p += 2;
            continue;
        }
        if (hd_utf8_get(r->p, (size_t)(r->end - r->p), &len) < 0)
            return bad(r, "not valid JSON: malformed UTF-8");
        memcpy(out + n, r->p, (size_t)len);
        n += (size_t)len;
        r->p += len;
    }
    r->p++;
    out[n] = 0;
    return (int64_t)n;
}

/* A non-negative integer. */
static int number(struct reader *r, int64_t *out)
{
    int64_t v = 0;
    const char *start;

    space(r);
    for (start = r->p; r->p < r->end && *r->p >= '0' && *r->p <= '9'; r->p++)
        if (!hd_mul64(v, 10, &v) || !hd_add64(v, *r->p - '0', &v))
            return bad(r, "a number is too large");
    if (r->p == start || (r->p - start > 1 && *start == '0') || (r->p < r->end && (*r->p == '.' || *r->p == 'e' || *r->p == 'E')))
        return bad(r, "expected a non-negative integer");
    *out = v;
    return HD_OK;
}

/* [a, b, ...] of at most max numbers; how many. */
static int numbers(struct reader *r, int64_t *out, int max)
{
    int n = 0;

    if (!take(r, '['))
        return bad(r, "expected a list of numbers");
    if (take(r, ']'))
        return 0;
    do {
        if (n == max)
            return bad(r, "a list is longer than expected (shapes have at most 4 dimensions)");
        HD_TRY(number(r, &out[n]));
        n++;
    } while (take(r, ','));
    return take(r, ']') ? n : bad(r, "not valid JSON: expected , or ]");
}

/* {"a": "b", ...}: contents do not matter, well-formedness does. */
static int metadata(struct reader *r, char *buf, size_t max)
{
    if (!take(r, '{'))
        return bad(r, "__metadata__: expected an object of strings");
    if (take(r, '}'))
        return HD_OK;
    do {
        if (string(r, buf, max) < 0 || !take(r, ':') || string(r, buf, max) < 0)
            return bad(r, "__metadata__: expected an object of strings");
    } while (take(r, ','));
    return take(r, '}') ? HD_OK : bad(r, "not valid JSON: expected , or }");
}

struct fields {
    char dtype[32];
    int n_dim;                    /* -1: not seen */
    int64_t dim[HD_MAX_DIM];
    int64_t off[2];
    bool has_off;
};

static int tensor_fields(struct reader *r, struct fields *f)
{
    char key[32];

    memset(f, 0, sizeof *f);
    f->n_dim = -1;
    if (!take(r, '{'))
        return bad(r, "expected an object");
    do {
        if (string(r, key, sizeof key) < 0)
            return bad(r, "expected dtype, shape and data_offsets");
        if (!take(r, ':'))
            return bad(r, "not valid JSON: expected :");
        if (!strcmp(key, "dtype") && !f->dtype[0]) {
            if (string(r, f->dtype, sizeof f->dtype) < 0)
                return bad(r, "dtype: expected a short string");
        } else if (!strcmp(key, "shape") && f->n_dim < 0) {
            int n = numbers(r, f->dim, HD_MAX_DIM);

            if (n < 0)
                return n;
            f->n_dim = n;
        } else if (!strcmp(key, "data_offsets") && !f->has_off) {
            int n = numbers(r, f->off, 2);

            if (n != 2)
                return n < 0 ? n : bad(r, "data_offsets: expected two numbers");
            f->has_off = true;
        } else {
            return bad(r, "an unknown or repeated field; expected dtype, shape and data_offsets, once each");
        }
    } while (take(r, ','));
    if (!take(r, '}'))
        return bad(r, "not valid JSON: expected , or }");
    if (!f->dtype[0] || f->n_dim < 0 || !f->has_off)
        return bad(r, "dtype, shape or data_offsets is missing");
    return HD_OK;
}

static int add_tensor(struct hd_store *st, int file, struct reader *r, size_t name_len, const struct fields *f, const unsigned char *data, int64_t data_bytes)
{
    struct hd_entry *e;
    int64_t n = 1, bytes;
    int type = hd_dtype_of_safetensors(f->dtype);
    char shape[96];

    if (!strcmp(f->dtype, "F4"))
        type = HD_U8;             /* two values a byte; the shape counts values or bytes: bind.c looks */
    if (f->off[0] > f->off[1] || f->off[1] > data_bytes)
        return hd_err_set(r->err, HD_ERR_FORMAT, "tensor %s: data_offsets [%lld, %lld]; the file has %lld bytes of data", r->name, (long long)f->off[0],
                          (long long)f->off[1], (long long)data_bytes);
    for (int i = 0; i < f->n_dim; i++)
        if (!hd_mul64(n, f->dim[i], &n))
            return hd_err_set(r->err, HD_ERR_FORMAT, "tensor %s: the product of shape %s overflows", r->name, hd_shape_str(shape, f->n_dim, f->dim));
    bytes = f->off[1] - f->off[0];
    if (type >= 0 && (!hd_mul64(n, hd_dtypes[type].block_bytes, &n) || n != bytes) && strcmp(f->dtype, "F4"))
        return hd_err_set(r->err, HD_ERR_FORMAT, "tensor %s: found %lld bytes; %s %s needs %lld", r->name, (long long)bytes, f->dtype,
                          hd_shape_str(shape, f->n_dim, f->dim), (long long)n);
    if (type < 0 && strcmp(f->dtype, "F8_E5M2") && strcmp(f->dtype, "U16") && strcmp(f->dtype, "U32") && strcmp(f->dtype, "U64") && strcmp(f->dtype, "C64") &&
        strncmp(f->dtype, "F6_", 3))
        return hd_err_set(r->err, HD_ERR_FORMAT, "tensor %s: dtype: found \"%s\"; expected one of safetensors' names", r->name, f->dtype);
    if (!(e = hd_store_add(st, r->name, name_len, r->err)))
        return r->err ? r->err->code : HD_ERR_FORMAT;
    e->type = type;
    if (!(e->type_name = hd_arena_strdup(&st->arena, f->dtype, strlen(f->dtype))))
        return hd_err_set(r->err, HD_ERR_MEMORY, "no memory for the tensor directory");
    e->n_dim = f->n_dim;
    for (int i = 0; i < f->n_dim; i++)
        e->dim[i] = f->dim[i];
    e->bytes = bytes;
    e->data = data + f->off[0];
    e->file = file;
    return HD_OK;
}

static int compare_data(const void *a, const void *b)
{
    const struct hd_entry *x = a, *y = b;

    return x->data < y->data ? -1 : x->data > y->data ? 1 : x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* Tensors must tile the data: no gap, no overlap, nothing behind the last. */
static int check_tiling(const struct hd_store *st, size_t first, const unsigned char *data, int64_t data_bytes, struct hd_err *err)
{
    size_t n = st->n_entry - first;
    struct hd_entry *sorted = hd_malloc((n + 1) * sizeof *sorted);
    int64_t at = 0;
    int rc = HD_OK;

    if (!sorted)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory to check %zu tensors", n);
    if (n) {
        memcpy(sorted, st->entry + first, n * sizeof *sorted);
        qsort(sorted, n, sizeof *sorted, compare_data);
    }
    for (size_t i = 0; i < n && rc == HD_OK; i++) {
        int64_t off = (const unsigned char *)sorted[i].data - data;

        if (off != at)
            rc = hd_err_set(err, HD_ERR_FORMAT, "tensor %s: begins at %lld, %s; expected %lld", sorted[i].name.p, (long long)off,
                            off < at ? "inside the tensor before it" : "after a gap", (long long)at);
        at = off + sorted[i].bytes;
    }
    if (rc == HD_OK && at != data_bytes)
        rc = hd_err_set(err, HD_ERR_FORMAT, "the file has %lld bytes of data; its tensors cover %lld", (long long)data_bytes, (long long)at);
    hd_free(sorted);
    return rc;
}

int hd_safetensors_parse(struct hd_store *st, int file, struct hd_err *err)
{
    const unsigned char *base = st->files[file].data, *data;
    int64_t size = (int64_t)st->files[file].n, data_bytes;
    struct reader r = {.err = err};
    size_t first = st->n_entry;
    uint64_t header = 0;
    char *meta;
    int rc;

    if (size < 8)
        return hd_err_set(err, HD_ERR_FORMAT, "found %lld bytes; a safetensors file has at least 8", (long long)size);
    for (int i = 0; i < 8; i++)
        header |= (uint64_t)base[i] << (8 * i);
    if (header > (uint64_t)HD_HEADER_MAX || (int64_t)header > size - 8)
        return hd_err_set(err, HD_ERR_FORMAT, "header of %llu bytes; the file has %lld and headers at most %lld", (unsigned long long)header, (long long)size,
                          (long long)HD_HEADER_MAX);
    r.p = (const char *)base + 8;
    r.end = r.p + header;
    data = base + 8 + header;
    data_bytes = size - 8 - (int64_t)header;
    if (header == 0 || *r.p != '{')
        return hd_err_set(err, HD_ERR_FORMAT, "header does not begin with {");
    r.p++;
    if (!take(&r, '}')) {
        do {
            struct fields f;
            int64_t n;

            r.name[0] = 0;
            if ((n = string(&r, r.name, sizeof r.name)) < 0)
                return (int)n;
            if (!take(&r, ':'))
                return bad(&r, "not valid JSON: expected :");
            if (!strcmp(r.name, "__metadata__")) {
                if (!(meta = hd_malloc((size_t)1 << 20)))
                    return hd_err_set(err, HD_ERR_MEMORY, "no memory for the metadata");
                rc = metadata(&r, meta, (size_t)1 << 20);
                hd_free(meta);
            } else {
                rc = tensor_fields(&r, &f);
                if (rc == HD_OK)
                    rc = add_tensor(st, file, &r, (size_t)n, &f, data, data_bytes);
            }
            if (rc < 0)
                return rc;
        } while (take(&r, ','));
        r.name[0] = 0;
        if (!take(&r, '}'))
            return bad(&r, "not valid JSON: expected , or }");
    }
    space(&r);
    if (r.p != r.end)
        return bad(&r, "bytes follow the JSON object");
    return check_tiling(st, first, data, data_bytes, err);
}
