/* disk.h: golden checkpoints with experts on disk: what the tests of reading and of packing share. */
#ifndef HD_TESTS_DISK_H
#define HD_TESTS_DISK_H

#include "golden.h"

static inline void same(const float *a, const float *b, int64_t n, const char *what)
{
    if (memcmp(a, b, (size_t)n * sizeof *a))
        fail_msg("%s: other bits than in memory", what);
}

static inline struct hd_engine_options options(const struct golden *g, enum hd_exact exact, int n_thread)
{
    return (struct hd_engine_options){.n_thread = n_thread, .exact = exact, .n_ctx = 2 * g->n + 256, .kv = HD_KV_F32, .chunk = 512};
}

static inline float *in_memory(const struct golden *g, enum hd_exact exact)
{
    struct hd_engine_options o = options(g, exact, 2);
    struct hd_engine e;
    float *x;

    assert_ok(hd_engine_open(&e, g->file, &o, &test_err));
    assert_null(e.experts);
    x = golden_forward(&e, g, 0);
    hd_engine_close(&e);
    return x;
}

static inline void copy_file(const char *from, const char *to)
{
    struct hd_file_map m;
    FILE *f = fopen(to, "wb");

    assert_non_null(f);
    assert_ok(hd_file_map(&m, from, &test_err));
    assert_int_equal(fwrite(m.data, 1, m.n, f), m.n);
    assert_int_equal(fclose(f), 0);
    hd_file_unmap(&m);
}

/* Every golden checkpoint, loaded: how many take() took. */
static inline int each_golden(bool (*take)(const struct golden *g))
{
    DIR *d = opendir("tests/golden");
    struct dirent *de;
    int n = 0;

    assert_non_null(d);
    while ((de = readdir(d))) {
        struct golden g = {0};

        if (!golden_numbers(de->d_name, g.numbers))
            continue;
        snprintf(g.path, sizeof g.path, "tests/golden/%.200s", de->d_name);
        golden_load(&g);
        n += take(&g);
        golden_unload(&g);
    }
    closedir(d);
    return n;
}

/* A golden checkpoint whose files may be harmed. */
static inline void load_copy(struct golden *g, char file[600])
{
    static char dir[512];
    static const char *const files[] = {"config.json", "model.safetensors"};

    *g = (struct golden){.bound = 1};
    assert_true(golden_numbers("v4-f32-a", g->numbers));
    snprintf(g->path, sizeof g->path, "tests/golden/v4-f32-a");
    golden_load(g);
    snprintf(dir, sizeof dir, "%.500s", tmp_path("disk-model"));
    mkdir(dir, 0755);
    for (int i = 0; i < HD_LEN(files); i++) {
        char from[600];

        snprintf(from, sizeof from, "%s/%s", g->path, files[i]);
        snprintf(file, 600, "%s/%s", dir, files[i]);
        unlink(file);
        copy_file(from, file);
    }
    hd_free((void *)g->file);
    g->file = hd_strdup(dir);
}

#endif
