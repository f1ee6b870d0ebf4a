/* ref_io.c: config.json, safetensors (one file or sharded), number formats to double, ids, and the memory of it all.
 *
 * How to read  only if you wonder how bytes become doubles: the table of formats and ref_mat(). Errors end the program with a
 *              line: this is a tool for people who compare numbers.
 */
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ref.h"

void die(const char *format, ...)
{
    va_list a;

    fprintf(stderr, "ref: ");
    va_start(a, format);
    vfprintf(stderr, format, a);
    va_end(a);
    fputc('\n', stderr);
    exit(1);
}

/* ---- memory: a stack of blocks ---- */

static void **held;
static int64_t n_held, cap_held;

void *space(int64_t n, int64_t bytes)
{
    if (n_held == cap_held) {
        cap_held = 2 * cap_held + 64;
        if (!(held = realloc(held, (size_t)cap_held * sizeof *held)))
            die("no memory");
    }
    if (!(held[n_held] = calloc((size_t)(n > 0 ? n : 1), (size_t)bytes)))
        die("no memory for %lld values", (long long)n);
    return held[n_held++];
}

double *array(int64_t n)
{
    return space(n, sizeof(double));
}

int64_t mark(void)
{
    return n_held;
}

void release(int64_t to)
{
    while (n_held > to)
        free(held[--n_held]);
    if (!n_held) {
        free(held);
        held = NULL;
        cap_held = 0;
    }
}

/* ---- number formats ---- */

static double get_f32(const uint8_t *p, int64_t i)
{
    float f;

    memcpy(&f, p + 4 * i, 4);
    return f;
}

static double get_bf16(const uint8_t *p, int64_t i)
{
    uint32_t b = (uint32_t)(p[2 * i] | p[2 * i + 1] << 8) << 16;
    float f;

    memcpy(&f, &b, 4);
    return f;
}

/* Sign, exponent field e, fraction: 2^(e - bias) 1.fraction, or 2^(1 - bias) 0.fraction where e is 0. */
static double get_small(unsigned code, int exp_bits, int man_bits, int bias)
{
    int e = (int)(code >> man_bits & ((1u << exp_bits) - 1));
    double man = ldexp(code & ((1u << man_bits) - 1), -man_bits), v = e ? ldexp(1 + man, e - bias) : ldexp(man, 1 - bias);

    return code >> (exp_bits + man_bits) & 1 ? -v : v;
}

static double get_f16(const uint8_t *p, int64_t i)
{
    unsigned c = (unsigned)(p[2 * i] | p[2 * i + 1] << 8);

    return (c >> 10 & 31) == 31 ? (c & 1023 ? NAN : c >> 15 ? -INFINITY : INFINITY) : get_small(c, 5, 10, 15);
}

static double get_e4m3(const uint8_t *p, int64_t i)
{
    return (p[i] & 0x7F) == 0x7F ? NAN : get_small(p[i], 4, 3, 7);
}

static double get_e8m0(const uint8_t *p, int64_t i)
{
    return p[i] == 255 ? NAN : ldexp(1, p[i] - 127);
}

static double get_e2m1(const uint8_t *p, int64_t i)       /* two a byte, the low half first */
{
    return get_small(i % 2 ? p[i / 2] >> 4 : p[i / 2] & 15u, 2, 1, 1);
}

static double get_i64(const uint8_t *p, int64_t i)
{
    int64_t v;

    memcpy(&v, p + 8 * i, 8);
    return (double)v;
}

static double get_i32(const uint8_t *p, int64_t i)
{
    int32_t v;

    memcpy(&v, p + 4 * i, 4);
    return v;
}

static double get_u8(const uint8_t *p, int64_t i)
{
    return p[i];
}

static const struct format {
    const char *name;
    int64_t bytes;
    double (*get)(const uint8_t *p, int64_t i);
} formats[] = {{"F32", 4, get_f32},       {"BF16", 2, get_bf16}, {"F16", 2, get_f16}, {"F8_E4M3", 1, get_e4m3}, {"F8_E8M0", 1, get_e8m0},
               {"I64", 8, get_i64},       {"I32", 4, get_i32},   {"I8", 1, get_u8},   {"U8", 1, get_u8}};
static const struct format packed_fp4 = {"FP4", 0, get_e2m1};

/* ---- safetensors: u64 length of a JSON header, the header, the bytes ---- */

struct ref_file {
    char *path;
    uint8_t *map;
    size_t size, data;                /* data: where the header ends */
    json_t *header;
};

struct entry {
    const struct format *format;
    int64_t n_out, n_in;
    const uint8_t *data;
};

static void open_file(struct ref_file *f, const char *dir, const char *name)
{
    struct stat st;
    uint64_t n;
    int fd;
    json_error_t e;

    if (asprintf(&f->path, "%s%s%s", dir, *dir ? "/" : "", name) < 0)
        die("no memory");
    fd = open(f->path, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) || st.st_size < 8)
        die("%s: cannot be read, or is no safetensors file", f->path);
    f->size = (size_t)st.st_size;
    f->map = mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (f->map == MAP_FAILED)
        die("%s: cannot be mapped", f->path);
    memcpy(&n, f->map, 8);
    if (n > f->size - 8)
        die("%s: the header is longer than the file", f->path);
    f->data = 8 + (size_t)n;
    if (!(f->header = json_loadb((const char *)f->map + 8, (size_t)n, 0, &e)))
        die("%s: header: %s", f->path, e.text);
}

static void close_file(struct ref_file *f)
{
    json_decref(f->header);
    munmap(f->map, f->size);
    free(f->path);
}

static bool find_in(const struct ref_file *f, const char *name, struct entry *e)
{
    const json_t *t = json_object_get(f->header, name), *shape = json_object_get(t, "shape"), *at = json_object_get(t, "data_offsets");
    const char *dtype = get_str(t, "dtype", "");
    int64_t begin = json_integer_value(json_array_get(at, 0)), end = json_integer_value(json_array_get(at, 1));
    size_t n_dim = json_array_size(shape);
    int64_t total;

    if (!t)
        return false;
    *e = (struct entry){.n_out = 1, .n_in = 1};
    for (size_t i = 0; i < n_dim; i++) {
        int64_t d = json_integer_value(json_array_get(shape, i));

        if (d < 0 || d > INT32_MAX || e->n_out > INT32_MAX)
            die("%s: %s: the shape is absurd", f->path, name);
        *(i + 1 < n_dim ? &e->n_out : &e->n_in) *= d;
    }
    if (__builtin_mul_overflow(e->n_out, 8 * e->n_in, &total))
        die("%s: %s: the shape is absurd", f->path, name);
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (!strcmp(formats[i].name, dtype))
            e->format = &formats[i];
    if (!e->format)
        die("%s: %s: format %s is not known here", f->path, name, dtype);
    if (begin < 0 || end - begin != e->n_out * e->n_in * e->format->bytes || (uint64_t)end > f->size - f->data)
        die("%s: %s: its bytes do not fit its shape or the file", f->path, name);
    e->data = f->map + f->data + begin;
    return true;
}

/* What save_pretrained of transformers calls V4's tensors: "model." before, and some ends replaced. */
static const char *const renamed[][2] = {{"", ""},
                                         {"embed.weight", "embed_tokens.weight"},
                                         {"attn.kv_norm.weight", "attn.norm.weight"},
                                         {"hc_head_fn", "hc_head.hc_fn"},
                                         {"hc_head_base", "hc_head.hc_base"},
                                         {"hc_head_scale", "hc_head.hc_scale"}};

static bool find(const struct ref *m, const char *name, struct entry *e)
{
    char other[256];

    for (int i = 0; i < m->n_file; i++)
        if (find_in(&m->file[i], name, e))
            return true;
    for (size_t k = 0; k < sizeof renamed / sizeof *renamed; k++) {
        size_t n = strlen(name), end = strlen(renamed[k][0]);

        if (n < end || strcmp(name + n - end, renamed[k][0]))
            continue;
        snprintf(other, sizeof other, "model.%.*s%s", (int)(n - end), name, renamed[k][1]);
        for (int i = 0; i < m->n_file; i++)
            if (find_in(&m->file[i], other, e))
                return true;
    }
    return false;
}

#define NAME(buf, format)                        \
    do {                                         \
        va_list args_;                           \
        va_start(args_, format);                 \
        vsnprintf(buf, sizeof buf, format, args_); \
        va_end(args_);                           \
    } while (0)

bool ref_has(const struct ref *m, const char *format, ...)
{
    struct entry e;
    char name[256];

    NAME(name, format);
    return find(m, name, &e);
}

/* The scales of X.weight: X.scale, X.weight_scale_inv or X.weight_scale. */
static bool find_scale(const struct ref *m, const char *name, struct entry *e)
{
    static const char *const end[] = {".scale", ".weight_scale_inv", ".weight_scale"};
    size_t n = strlen(name);
    char other[300];

    for (int i = 0; i < 3 && n > 7 && !strcmp(name + n - 7, ".weight"); i++) {
        snprintf(other, sizeof other, "%.*s%s", (int)(n - 7), name, end[i]);
        if (find(m, other, e))
            return true;
    }
    return false;
}

/* How many rows or columns share a scale. n = 130 of block 128 have two scales: the block cannot be had by division. */
static int64_t scale_block(const char *name, int64_t n, int64_t n_scale, int64_t said)
{
    int64_t block[] = {said, 128, 32, 16, 1};

    if (n_scale == n)
        return 1;
    for (int i = 0; i < 5; i++)
        if (block[i] > 0 && (n + block[i] - 1) / block[i] == n_scale)
            return block[i];
    die("%s: %lld scales for %lld values", name, (long long)n_scale, (long long)n);
}

/* w[o][i] = code(o, i) scale[o / rows][i / cols] (global scale, where there is one) */
static struct mat load(const struct ref *m, const char *name)
{
    struct entry e, s, global;
    struct mat w;
    double *out, more = 1;
    char other[300];

    if (!find(m, name, &e))
        die("%s: tensor %s is missing", m->dir, name);
    w = (struct mat){e.n_out, e.n_in, NULL, find_scale(m, name, &s)};
    if (w.quantised && e.format->get == get_u8) {
        e.format = &packed_fp4;
        w.n_in *= 2;
    }
    w.w = out = array(w.n_out * w.n_in);
    for (int64_t i = 0; i < w.n_out * w.n_in; i++)
        out[i] = e.format->get(e.data, i);
    if (!w.quantised)
        return w;
    snprintf(other, sizeof other, "%s_scale_2", name);
    if (find(m, other, &global))
        more = global.format->get(global.data, 0);

    int64_t rb = scale_block(name, w.n_out, s.n_out, m->block[0]), cb = scale_block(name, w.n_in, s.n_in, m->block[1]);

    for (int64_t o = 0; o < w.n_out; o++)
        for (int64_t i = 0; i < w.n_in; i++)
            out[o * w.n_in + i] *= s.format->get(s.data, o / rb * s.n_in + i / cb) * more;
    return w;
}

struct mat ref_mat(const struct ref *m, int64_t n_out, int64_t n_in, const char *format, ...)
{
    char name[256];
    struct mat w;

    NAME(name, format);
    w = load(m, name);
    if (w.n_out != n_out || w.n_in != n_in)
        die("%s: %s: found [%lld, %lld]; expected [%lld, %lld]", m->dir, name, (long long)w.n_out, (long long)w.n_in, (long long)n_out, (long long)n_in);
    return w;
}

const double *ref_vec(const struct ref *m, int64_t n, const char *format, ...)
{
    char name[256];
    struct mat w;

    NAME(name, format);
    w = load(m, name);
    if (w.n_out * w.n_in != n)
        die("%s: %s: found %lld values; expected %lld", m->dir, name, (long long)(w.n_out * w.n_in), (long long)n);
    return w.w;
}

void embed(const struct ref *m, int64_t T, const int64_t *id, int64_t D, double *x, const char *name)
{
    int64_t start = mark();
    struct mat w = ref_mat(m, m->n_vocab, D, "%s", name);

    for (int64_t t = 0; t < T; t++)
        memcpy(x + t * D, w.w + id[t] * D, (size_t)D * sizeof *x);
    release(start);
}

struct mat rows(const struct mat *w, int64_t first, int64_t n)
{
    return (struct mat){n, w->n_in, w->w + first * w->n_in, w->quantised};
}

struct mat ref_read(const char *path, const char *name)
{
    struct ref_file f;
    struct ref m = {.dir = path, .file = &f, .n_file = 1};
    struct mat w;

    open_file(&f, "", path);
    w = load(&m, name);
    close_file(&f);
    return w;
}

void ref_write(const char *path, const double *logits, int64_t n_tok, int64_t n_vocab)
{
    char header[256];
    int n = snprintf(header, sizeof header, "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%lld,%lld],\"data_offsets\":[0,%lld]}}", (long long)n_tok, (long long)n_vocab,
                     (long long)(4 * n_tok * n_vocab));
    uint64_t len = (uint64_t)(n + 7) / 8 * 8;
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(&len, 8, 1, f) == 1 && fprintf(f, "%-*s", (int)len, header) == (int)len;

    for (int64_t i = 0; i < n_tok * n_vocab && ok; i++) {
        float v = (float)logits[i];

        ok = fwrite(&v, 4, 1, f) == 1;
    }
    if (!f || fclose(f) || !ok)
        die("%s: cannot be written", path);
}

/* ---- config.json ---- */

json_t *ref_json(const char *dir, const char *name, bool required)
{
    char path[4096];
    json_error_t e;
    json_t *j;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (!(j = json_load_file(path, 0, &e)) && required)
        die("%s: %s", path, e.text);
    return j;
}

void ref_open(struct ref *m, const char *dir)
{
    json_t *index, *map, *file, *block_size;
    const json_t *text;
    const char *name, *key;

    *m = (struct ref){.dir = dir, .config = ref_json(dir, "config.json", true)};
    text = json_object_get(m->config, "text_config");
    m->n_vocab = need_int(text ? text : m->config, "vocab_size");
    block_size = json_object_get(json_object_get(m->config, "quantization_config"), "weight_block_size");
    for (size_t i = 0; i < 2; i++)
        m->block[i] = json_integer_value(json_array_get(block_size, i));
    if (m->block[1] <= 0)
        m->block[0] = m->block[1] = 128;
    index = ref_json(dir, "model.safetensors.index.json", false);
    map = json_object_get(index, "weight_map");
    m->file = calloc(json_object_size(map) + 1, sizeof *m->file);
    if (!m->file)
        die("no memory");
    if (!map)
        open_file(&m->file[m->n_file++], dir, "model.safetensors");
    json_object_foreach(map, key, file)
    {
        char path[4096];
        int i = 0;

        name = json_string_value(file);
        snprintf(path, sizeof path, "%s/%s", dir, name ? name : "");
        while (i < m->n_file && strcmp(m->file[i].path, path))
            i++;
        if (i == m->n_file)
            open_file(&m->file[m->n_file++], dir, name ? name : "");
    }
    json_decref(index);
}

void ref_close(struct ref *m)
{
    for (int i = 0; i < m->n_file; i++)
        close_file(&m->file[i]);
    free(m->file);
    json_decref(m->config);
}

int64_t get_int(const json_t *c, const char *key, int64_t otherwise)
{
    const json_t *v = json_object_get(c, key);

    return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

int64_t need_int(const json_t *c, const char *key)
{
    int64_t v = get_int(c, key, INT64_MIN);

    if (v < 0 || v > INT32_MAX)
        die("config.json: %s: expected a number", key);
    return v;
}

double get_real(const json_t *c, const char *key, double otherwise)
{
    const json_t *v = json_object_get(c, key);

    return json_is_number(v) ? json_number_value(v) : otherwise;
}

bool get_bool(const json_t *c, const char *key, bool otherwise)
{
    const json_t *v = json_object_get(c, key);

    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

const char *get_str(const json_t *c, const char *key, const char *otherwise)
{
    const json_t *v = json_object_get(c, key);

    return json_is_string(v) ? json_string_value(v) : otherwise;
}

bool listed(const json_t *c, const char *key, int64_t id)
{
    const json_t *a = json_object_get(c, key);

    for (size_t i = 0; i < json_array_size(a); i++)
        if (json_integer_value(json_array_get(a, i)) == id)
            return true;
    return false;
}

/* ---- ids ---- */

static int64_t parse_ids(const char *text, int64_t *id)
{
    int64_t n = 0;

    while (*text) {
        char *end;

        id[n] = strtoll(text, &end, 10);
        if (end == text || id[n] < 0)
            die("ids: expected numbers with commas between");
        n++;
        text = end + strspn(end, ", \t\r\n");
    }
    return n;
}

int64_t ref_ids(const char *text, int64_t **out)
{
    const char *end = strrchr(text, '.');
    int64_t n;

    if (text[0] == '@' && end && !strcmp(end, ".safetensors")) {
        struct mat t = ref_read(text + 1, "tokens");

        n = t.n_out * t.n_in;
        *out = space(n, sizeof **out);
        for (int64_t i = 0; i < n; i++)
            (*out)[i] = (int64_t)t.w[i];
    } else if (text[0] == '@' && end && !strcmp(end, ".json")) {
        json_error_t e;
        json_t *j = json_load_file(text + 1, 0, &e), *a = json_object_get(j, "tokens");

        n = (int64_t)json_array_size(a);
        *out = space(n, sizeof **out);
        for (int64_t i = 0; i < n; i++)
            (*out)[i] = json_integer_value(json_array_get(a, (size_t)i));
        json_decref(j);
    } else if (text[0] == '@') {
        FILE *f = fopen(text + 1, "rb");
        char *all = space(1, 1 << 20);

        if (!f)
            die("%s: cannot be read", text + 1);
        all[fread(all, 1, (1 << 20) - 1, f)] = 0;
        fclose(f);
        *out = space((int64_t)strlen(all) + 1, sizeof **out);
        n = parse_ids(all, *out);
    } else {
        *out = space((int64_t)strlen(text) + 1, sizeof **out);
        n = parse_ids(text, *out);
    }
    if (!n)
        die("%s: no ids", text);
    return n;
}
