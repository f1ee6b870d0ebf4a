/* test_sparse.c: checkpoints of the published sizes, as files full of holes: names, shapes and formats of V4-Flash and V4.1-Flash.
 *
 * They must open, validate and plan without being read: the memory that this takes is held to a bound. */
#include "support.h"

#include <fcntl.h>
#include <sys/resource.h>

#include "base/str.h"
#include "engine/engine.h"

#define N_SHARD 48

struct shard {
    struct hd_str header;
    int64_t bytes;
};

struct writer {
    struct shard shard[N_SHARD];
    struct hd_str index;
    int64_t n;
};

static const char *file_name(int i)
{
    static char name[64];

    snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i + 1, N_SHARD);
    return name;
}

static void declare(struct writer *w, const char *name, const char *format, int n_dim, const int64_t *dim, int64_t bytes)
{
    struct shard *s = &w->shard[w->n * N_SHARD / 100000 % N_SHARD];
    char shape[96];

    hd_str_printf(&s->header, "%s\"%s\": {\"dtype\": \"%s\", \"shape\": %s, \"data_offsets\": [%lld, %lld]}", s->bytes ? ", " : "{", name, format, hd_shape_str(shape, n_dim, dim),
                  (long long)s->bytes, (long long)(s->bytes + bytes));
    s->bytes += bytes;
    hd_str_printf(&w->index, "%s\"%s\": \"%s\"", w->n ? ", " : "", name, file_name((int)(s - w->shard)));
    w->n++;
}

static void declare_weight(void *arg, const struct hd_tensor *t)
{
    int64_t dim[HD_MAX_DIM], scale[2] = {t->scale.n_row, t->scale.n_col};
    bool fp4 = t->type == HD_F4_E2M1;
    char name[256];

    memcpy(dim, t->dim, sizeof dim);
    if (fp4)
        dim[t->n_dim - 1] /= 2;
    declare(arg, t->name, fp4 ? "I8" : hd_dtypes[t->type].safetensors, t->n_dim, dim, hd_tensor_bytes(t));
    if (!t->scale.n_row)
        return;
    snprintf(name, sizeof name, "%.*s.scale", (int)strlen(t->name) - 7, t->name);
    declare(arg, name, hd_dtypes[t->scale.type].safetensors, 2, scale, scale[0] * hd_row_bytes(t->scale.type, scale[1]));
}

/* false: this file system has no room for holes. */
static bool write_shard(const char *dir, int i, struct shard *s)
{
    char path[600];
    uint64_t n;
    int fd;
    bool fits;

    if (!s->bytes)
        return true;
    hd_str_printf(&s->header, "}");
    while (s->header.n % 8)
        hd_str_printf(&s->header, " ");
    n = s->header.n;
    snprintf(path, sizeof path, "%s/%s", dir, file_name(i));
    fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, &n, 8), 8);
    assert_int_equal(write(fd, hd_str_get(&s->header), n), n);
    fits = ftruncate(fd, 8 + (int64_t)n + s->bytes) == 0;
    close(fd);
    return fits;
}

static bool make(const char *preset, const char *dir)
{
    static struct writer w;
    struct hd_model m;
    char path[600];
    size_t n;
    char *config;
    bool fits = true;

    memset(&w, 0, sizeof w);
    mkdir(dir, 0755);
    snprintf(path, sizeof path, "models/presets/%s", preset);
    assert_ok(hd_model_open(&m, path, HD_KV_AUTO, HD_STORE_PLAN, &test_err));
    hd_str_init(&w.index, 0);
    for (int i = 0; i < N_SHARD; i++)
        hd_str_init(&w.shard[i].header, 0);
    hd_str_printf(&w.index, "{\"weight_map\": {");
    m.arch->each_weight(&m, declare_weight, &w);
    m.arch->each_aside(&m, declare_weight, &w);
    hd_str_printf(&w.index, "}}");
    hd_model_close(&m);
    for (int i = 0; i < N_SHARD; i++) {
        fits = write_shard(dir, i, &w.shard[i]) && fits;
        hd_str_release(&w.shard[i].header);
    }
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    write_file(path, hd_str_get(&w.index), w.index.n);
    hd_str_release(&w.index);
    snprintf(path, sizeof path, "models/presets/%s/config.json", preset);
    assert_ok(hd_file_read(path, 1 << 20, &config, &n, &test_err));
    snprintf(path, sizeof path, "%s/config.json", dir);
    write_file(path, config, n);
    hd_free(config);
    return fits;
}

static void clear(const char *dir)
{
    static const char *const other[] = {"config.json", "model.safetensors.index.json"};
    char path[600];

    for (int i = 0; i < N_SHARD; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, file_name(i));
        unlink(path);
    }
    for (int i = 0; i < HD_LEN(other); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, other[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void test_published(void **state)
{
    static const char *const preset[] = {"v4-flash", "v41-flash"};

    for (int i = 0; i < HD_LEN(preset); i++) {
        struct hd_engine_options o = {.n_ctx = 8192, .chunk = 512};
        char *dir = tmp_path(preset[i]);
        struct rusage use;
        struct hd_counts c, p;
        struct hd_model m;
        struct hd_plan plan;
        bool fits = make(preset[i], dir);

        if (!fits) {
            clear(dir);
            print_message("# this file system takes no files with holes of that size\n");
            skip();
        }
        assert_ok(hd_model_open(&m, dir, HD_KV_AUTO, 0, &test_err));
        assert_false(m.planned);
        hd_model_count(&m, &c);
        assert_ok(hd_engine_plan(&m, &o, 1, &plan, &test_err));
        hd_model_close(&m);
        clear(dir);
        /* what lies there is what the config alone had announced */
        char path[64];
        snprintf(path, sizeof path, "models/presets/%s", preset[i]);
        assert_ok(hd_model_open(&m, path, HD_KV_AUTO, HD_STORE_PLAN, &test_err));
        hd_model_count(&m, &p);
        hd_model_close(&m);
        assert_memory_equal(&c, &p, sizeof c);
        getrusage(RUSAGE_SELF, &use);
        print_message("# %s: %lld tensors, %lld bytes; %ld MB of memory at most\n", preset[i], (long long)c.n_tensor, (long long)(c.bytes + c.aside_bytes), use.ru_maxrss >> 10);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        assert_true(use.ru_maxrss < 300 << 10);
#endif
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_published)};

    return cmocka_run_group_tests_name("sparse", tests, NULL, NULL);
}
