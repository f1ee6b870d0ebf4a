/* test_fault.c: the n-th allocation, read or write fails, for every n: a message, no crash, no leak, nothing left behind. */
#include "support.h"

#include "engine/model_tokenizer.h"
#include "sample/sample.h"

/* Everything a program does with a model, in small. */
static int job(void)
{
    struct hd_engine_options o = {.n_thread = 2, .kv = HD_KV_F32, .n_ctx = 128};
    static const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7};
    struct hd_session a = {0}, b = {0};
    struct hd_engine e;
    struct hd_tokenizer *t = NULL;
    struct hd_sampler s = {0};
    struct hd_sample_params p;
    struct hd_ids out = {0};
    struct hd_pick pick;
    const float *lg;
    int rc;

    HD_TRY(hd_engine_open(&e, "tests/golden/llama-b", &o, &test_err));
    hd_sample_defaults(&p);
    if ((rc = hd_model_tokenizer(&t, "tests/golden/tokenizer/llama3", &test_err)) >= 0 && (rc = hd_tokenize(t, "the deep sea, <|end|>", 21, 1, &out, &test_err)) >= 0 &&
        (rc = hd_session_open(&a, &e, &test_err)) >= 0 && (rc = hd_session_feed(&a, ids, 7, NULL, NULL, &lg, &test_err)) >= 0 &&
        (rc = hd_sampler_init(&s, &p, e.model.hp.n_vocab, &test_err)) >= 0 && (rc = hd_sampler_pick(&s, lg, ids, 7, &pick, &test_err)) >= 0 &&
        (rc = hd_session_save(&a, tmp_path("fault.snapshot"), &test_err)) >= 0 && (rc = hd_session_fork(&b, &a, &test_err)) >= 0 &&
        (rc = hd_session_feed(&b, ids, 3, NULL, NULL, &lg, &test_err)) >= 0)
        rc = hd_session_load(&b, tmp_path("fault.snapshot"), &test_err);
    hd_sampler_release(&s);
    hd_ids_release(&out);
    hd_session_close(&b);
    hd_session_close(&a);
    hd_tokenizer_free(t);
    hd_engine_close(&e);
    return rc;
}

/* A configuration made of metadata, parts of a file, stacks of experts. */
static int open_deepseek(void)
{
    struct hd_engine_options o = {.n_thread = 1, .kv = HD_KV_F32, .n_ctx = 64};
    struct hd_engine e;

    HD_TRY(hd_engine_open(&e, "tests/golden/gguf-v4-f32-mini/model-00001-of-00002.gguf", &o, &test_err));
    hd_engine_close(&e);
    return HD_OK;
}

static void no_leftovers(void)
{
    char *dir = tmp_path("");
    DIR *d = opendir(dir);
    struct dirent *de;

    while (d && (de = readdir(d)))
        if (strstr(de->d_name, "fault.snapshot.") || (strstr(de->d_name, "fault") && strstr(de->d_name, "tmp")))
            fail_msg("%s was left behind", de->d_name);
    if (d)
        closedir(d);
}

static void every(int (*run)(void), enum hd_fault_kind kind, int least)
{
    int n = 0, rc;

    do {
        test_err = (struct hd_err){0};
        unlink(tmp_path("fault.snapshot"));
        hd_fault_arm(kind, n);
        rc = run();
        hd_fault_disarm();
        if (rc < 0 && !test_err.msg[0])
            fail_msg("failure %d without a message", n);
        no_leftovers();
        n++;
    } while (rc < 0 && n < 20000);
    assert_int_equal(rc, HD_OK);
    print_message("# %d failures survived\n", n - 1);
    assert_true(n > least);
}

static void test_alloc(void **state)
{
    every(job, HD_FAULT_ALLOC, 100);
    every(open_deepseek, HD_FAULT_ALLOC, 100);
}

static void test_read(void **state)
{
    every(job, HD_FAULT_READ, 8);
}

static void test_write(void **state)
{
    every(job, HD_FAULT_WRITE, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_alloc), cmocka_unit_test(test_read), cmocka_unit_test(test_write)};

    return cmocka_run_group_tests_name("fault", tests, NULL, NULL);
}
