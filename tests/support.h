/* support.h: what the tests share: golden files, distances, temporary paths. */
#ifndef HD_TESTS_SUPPORT_H
#define HD_TESTS_SUPPORT_H

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"
#include "engine/engine.h"

#define RUN_TESTS(tests) \
    int main(void) { return cmocka_run_group_tests(tests, NULL, NULL); }

#define assert_ok(call) assert_ok_at((call), #call, __LINE__)

static struct hd_err test_err;

static inline void assert_ok_at(int rc, const char *what, int line)
{
    if (rc < 0)
        fail_msg("line %d: %s: %s", line, what, test_err.msg);
}

/* A safetensors file on its own, opened as a store. */
static inline void open_tensors(struct hd_store *st, const char *path)
{
    memset(st, 0, sizeof *st);
    hd_arena_init(&st->arena, 0);
    st->files = hd_calloc(1, sizeof *st->files);
    st->file_names = hd_calloc(1, sizeof *st->file_names);
    assert_ok(hd_file_map(&st->files[0], path, &test_err));
    st->file_names[0] = hd_strdup(path);
    st->n_file = 1;
    assert_ok(hd_safetensors_parse(st, 0, &test_err));
}

static inline const struct hd_entry *get_tensor(const struct hd_store *st, const char *name)
{
    const struct hd_entry *e = hd_store_find(st, name);

    if (!e)
        fail_msg("golden file: no tensor %s", name);
    return e;
}

/* max |a - b| / max |b|, and where the largest is. */
static inline double rel_distance(const float *a, const float *b, int64_t n)
{
    double d = 0, m = 0;

    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)a[i] - b[i]);

        d = e > d || isnan(e) ? e : d;
        m = fabs((double)b[i]) > m ? fabs((double)b[i]) : m;
    }
    return d / (m > 0 ? m : 1);
}

static inline int64_t argmax(const float *x, int64_t n)
{
    int64_t best = 0;

    for (int64_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* A path in the test run's own directory. */
static inline char *tmp_path(const char *name)
{
    static char buf[8][512];
    static int at;
    const char *dir = getenv("HD_TEST_OUT");
    char *p = buf[at++ % 8];

    snprintf(p, sizeof buf[0], "%s/%s", dir ? dir : "build", name);
    return p;
}

static inline void write_file(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

#endif
