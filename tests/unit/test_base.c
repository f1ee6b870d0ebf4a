/* test_base.c: the ground: errors, strings, files, JSON, arenas, workers, number formats of the command line. */
#include "support.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "base/arena.h"
#include "base/json.h"
#include "base/pool.h"
#include "base/str.h"

static void test_err_line(void **state)
{
    struct hd_err e;

    assert_int_equal(hd_err_set(&e, HD_ERR_FORMAT, "a\nb\x01\xff%s", "\xc3\xa9"), HD_ERR_FORMAT);
    assert_string_equal(e.msg, "a?b??\xc3\xa9");
    hd_err_prepend(&e, "file %d", 7);
    assert_string_equal(e.msg, "file 7: a?b??\xc3\xa9");
    assert_int_equal(e.code, HD_ERR_FORMAT);
    for (int i = 0; i < 200; i++)
        hd_err_prepend(&e, "long prefix");
    assert_true(strlen(e.msg) < sizeof e.msg);
    assert_int_equal(hd_err_set(NULL, HD_ERR_IO, "nobody listens"), HD_ERR_IO);
}

static void test_str(void **state)
{
    struct hd_str s;
    char text[] = {'a', '"', '\\', '\n', 1, (char)0xff, (char)0xe4, 0};

    hd_str_init(&s, 64);
    assert_string_equal(hd_str_get(&s), "");
    hd_str_json(&s, text, 8);
    assert_string_equal(hd_str_get(&s), "\"a\\\"\\\\\\n\\u0001\xef\xbf\xbd\xef\xbf\xbd\\u0000\"");
    for (int i = 0; i < 100; i++)
        hd_str_puts(&s, "xxxx");
    assert_true(s.failed);
    assert_true(s.n <= 64);
    hd_str_release(&s);
    assert_int_equal(hd_utf8_whole("a\xe4\xb8", 3), 1);
    assert_int_equal(hd_utf8_whole("a\xe4\xb8\xad", 4), 4);
    assert_int_equal(hd_utf8_whole("\xff\xff", 2), 2);
    assert_int_equal(hd_utf8_whole("\xf0\x9f\x91", 3), 0);
}

static void test_numbers(void **state)
{
    static const char *const bad[] = {"", " 1", "1 ", "1x", "0x10", "--1", "99999999999999999999", "nan", "1e3"};
    int64_t i;
    double d;

    assert_true(hd_parse_i64("-5", -5, 5, &i) && i == -5);
    assert_false(hd_parse_i64("6", -5, 5, &i));
    for (int k = 0; k < HD_LEN(bad); k++)
        assert_false(hd_parse_i64(bad[k], INT64_MIN, INT64_MAX, &i));
    assert_true(hd_parse_f64("1e3", 0, 1e9, &d) && d == 1000);
    assert_false(hd_parse_f64("nan", 0, 1e9, &d));
    assert_false(hd_parse_f64("inf", 0, 1e9, &d));
    assert_false(hd_parse_f64("1,5", 0, 1e9, &d));
}

static void test_json(void **state)
{
    json_t *j = hd_json_parse("{\"n\": 5, \"x\": null, \"r\": 2, \"s\": \"t\"}", 37, "f", &test_err);
    int64_t n;
    double r;

    assert_non_null(j);
    assert_ok(hd_json_int(j, "n", 1, 5, &n, "f", &test_err));
    assert_int_equal(n, 5);
    assert_true(hd_json_int(j, "n", 1, 4, &n, "f", &test_err) < 0);
    assert_string_equal(test_err.msg, "f: n: found 5; expected an integer from 1 to 4");
    assert_true(hd_json_int(j, "x", 1, 4, &n, "f", &test_err) < 0);
    assert_ok(hd_json_int_or(j, "x", 1, 4, 3, &n, "f", &test_err));
    assert_int_equal(n, 3);
    assert_ok(hd_json_real_or(j, "r", 0, 4, 3, &r, "f", &test_err));
    assert_true(r == 2);
    assert_true(hd_json_real_or(j, "s", 0, 4, 3, &r, "f", &test_err) < 0);
    json_decref(j);
    assert_null(hd_json_parse("{\"a\": 1, \"a\": 2}", 16, "f", &test_err));
    assert_null(hd_json_parse("[1] 2", 5, "f", &test_err));
}

static void test_arena(void **state)
{
    struct hd_arena a;
    struct hd_arena_mark m;
    char *p, *q;

    hd_arena_init(&a, 100000);
    assert_true(hd_arena_reserve(&a, 4096));
    p = hd_arena_alloc(&a, 10);
    m = hd_arena_mark(&a);
    q = hd_arena_alloc(&a, 50000);
    assert_true(((uintptr_t)p & 63) == 0 && ((uintptr_t)q & 63) == 0);
    memset(q, 7, 50000);
    assert_null(hd_arena_alloc(&a, 60000));
    hd_arena_rewind(&a, m);
    assert_non_null(hd_arena_alloc(&a, 60000));
    assert_null(hd_arena_alloc(&a, SIZE_MAX - 10));
    assert_string_equal(hd_arena_strdup(&a, "abc", 2), "ab");
    hd_arena_release(&a);
}

static void count_range(void *arg, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        atomic_fetch_add((_Atomic int *)arg + i, 1);
}

/* Every index exactly once, whatever the team, the grain, or how often; teams come and go. */
static void test_pool(void **state)
{
    static _Atomic int hit[1000];

    for (int n_thread = 1; n_thread <= 9; n_thread += 2) {
        struct hd_pool *pool;

        assert_ok(hd_pool_create(&pool, n_thread, &test_err));
        assert_int_equal(hd_pool_threads(pool), n_thread);
        for (int rep = 0; rep < 300; rep++) {
            int64_t n = rep * 7 % 1000, grain = 1 + rep % 13;

            for (int i = 0; i < 1000; i++)
                atomic_store(&hit[i], 0);
            hd_pool_for(pool, n, grain, count_range, hit);
            for (int i = 0; i < 1000; i++)
                assert_int_equal(atomic_load(&hit[i]), i < n);
            if (rep % 100 == 50)
                usleep(3000);                  /* let them fall asleep */
        }
        hd_pool_free(pool);
    }
}

static void test_files(void **state)
{
    char *path = tmp_path("base.out"), *data;
    struct hd_file_map m;
    struct hd_out o;
    struct stat st;
    size_t n;

    unlink(path);
    assert_ok(hd_out_open(&o, path, &test_err));
    hd_out_write(&o, "hello", 5);
    hd_out_abort(&o);
    assert_int_equal(stat(path, &st), -1);
    assert_ok(hd_out_open(&o, path, &test_err));
    for (int i = 0; i < 100000; i++)
        hd_out_write(&o, "0123456789", 10);
    assert_int_equal(stat(path, &st), -1);     /* not before it is complete */
    assert_ok(hd_out_commit(&o, &test_err));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 1000000);
    assert_ok(hd_file_map(&m, path, &test_err));
    assert_int_equal(m.n, 1000000);
    hd_file_unmap(&m);
    assert_true(hd_file_read(path, 999999, &data, &n, &test_err) < 0);
    assert_true(hd_file_map(&m, "/dev/zero", &test_err) < 0);
    assert_true(hd_file_map(&m, "tests", &test_err) < 0);
    assert_true(hd_out_open(&o, "/nonexistent/x", &test_err) < 0);
    if (access("/dev/full", W_OK) == 0)
        assert_true(hd_out_open(&o, "/dev/full", &test_err) < 0 || hd_out_commit(&o, &test_err) < 0);
    unlink(path);
}

static int n_like(const char *dir, const char *begin)
{
    DIR *d = opendir(dir);
    int n = 0;

    assert_non_null(d);
    for (struct dirent *de; (de = readdir(d));)
        n += !strncmp(de->d_name, begin, strlen(begin));
    closedir(d);
    return n;
}

/* Whoever is killed while it writes leaves what was there, and nothing else where files may be without names. */
static void test_killed(void **state)
{
    char *dir = tmp_path("base-killed"), path[600];
    struct hd_out o;
    char *data;
    int left;
    size_t n;

    mkdir(dir, 0755);
    snprintf(path, sizeof path, "%s/out", dir);
    assert_ok(hd_out_open(&o, path, &test_err));
    hd_out_write(&o, "whole", 5);
    assert_ok(hd_out_commit(&o, &test_err));
    assert_int_equal(n_like(dir, "out"), 1);
    for (int i = 0; i < 2; i++) {
        int status;
        pid_t pid = fork();

        if (!pid) {
            if (hd_out_open(&o, path, &test_err) == HD_OK)
                for (int k = 0; k < 300000; k++)
                    hd_out_write(&o, "0123456789", 10);
            kill(getpid(), SIGKILL);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
    }
    assert_ok(hd_out_open(&o, path, &test_err));
    left = o.named ? 2 : 0;
    hd_out_abort(&o);
    assert_int_equal(n_like(dir, "out"), 1 + left);
    assert_ok(hd_file_read(path, 100, &data, &n, &test_err));
    assert_true(n == 5 && !memcmp(data, "whole", 5));
    hd_free(data);
}

static void test_formats(void **state)
{
    char b[32];

    assert_string_equal(hd_fmt_bytes(b, 512), "512 B");
    assert_string_equal(hd_fmt_count(b, 284300000000), "284.3B");
    assert_string_equal(hd_fmt_count(b, 999), "999");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_err_line), cmocka_unit_test(test_str),   cmocka_unit_test(test_numbers),
                                       cmocka_unit_test(test_json),     cmocka_unit_test(test_arena), cmocka_unit_test(test_pool),
                                       cmocka_unit_test(test_files),    cmocka_unit_test(test_killed), cmocka_unit_test(test_formats)};

    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
