/* test_engram.c: the constants of DeepSeek-V4.1's Engram as they were published, the rows that its hashes name, and classes of tokens. */
#include "support.h"

#include "backend/backend.h"
#include "base/json.h"
#include "model/engram.h"
#include "token/token_classes.h"

static void published(struct hd_engram *e, const char *vocab, int n_layer, const char *layers)
{
    char text[400];
    json_t *c;

    snprintf(text, sizeof text,
             "{\"engram_layer_ids\": %s, \"engram_max_ngram_size\": %d, \"engram_n_heads\": 8, \"engram_head_dim\": 256, \"engram_vocab_size\": %s,"
             "\"engram_compressed_vocab_size\": %d, \"engram_pad_token_id\": 2}", layers, vocab[0] == '1' ? 4 : 3, vocab, vocab[0] == '1' ? 99092 : 98627);
    assert_non_null(c = hd_json_parse(text, strlen(text), "test", &test_err));
    memset(e, 0, sizeof *e);
    assert_ok(hd_engram_config(e, c, n_layer, 129280, false, "test", &test_err));
    json_decref(c);
}

static void test_constants(void **state)
{
    static const int64_t mult[2][4] = {{76632096046245, 4839876093313, 35959672319349, 73987337458391}, {67716810739261, 51510806800915, 30921347202721, 82619226485591}};
    static const int64_t first[2][3] = {{16000057, 16000189, 16000339}, {16000477, 16000667, 16000781}}, demo[2][3] = {{76993395940407, 4862694818241, 36129212583461},
                                                                                                             {29055444938695, 56284491166079, 54183298291715}};
    struct hd_engram e;

    published(&e, "16000000", 40, "[1, 14]");
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < 4; j++)
            assert_true(e.mult[i][j] == mult[i][j]);
        for (int o = 0; o < 3; o++)
            assert_true(e.prime[i][8 * o] == first[i][o]);
    }
    assert_true(e.prime[0][23] == 16000463 && e.prime[1][23] == 16000889);
    assert_true(e.rows[0] == 384006168 && e.rows[1] == 384016682);
    published(&e, "[646400, 646400]", 30, "[1, 15]");         /* the paper's demo */
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++)
            assert_true(e.mult[i][j] == demo[i][j]);
    assert_true(e.rows[0] == 10344164 && e.rows[1] == 10348242);
}

/* Rows of seven tokens whose classes are given, in one step and with the first tokens in the cache. */
static void test_rows(void **state)
{
    static const int32_t class[7] = {0, 1, 2, 3, 100, 99091, 5};
    static const int64_t first[24] = {5702652, 8393127, 7183165, 13503566, 14984167, 10144335, 7724419, 9475835, 3475837, 8384857, 4142376, 15597694,
                                      6143841, 9417185, 14327381, 7479691, 1517251, 11537031, 685789, 11260657, 2310206, 12885188, 15859958, 12060488};
    static const int64_t last[24] = {743092, 2407532, 9667964, 1697505, 6669453, 5307029, 7750255, 12348763, 11506080, 14131836, 10085133, 3644272,
                                     10128654, 7096346, 9430074, 12852687, 10861149, 2748844, 7153074, 4999, 7416684, 10280737, 7511069, 12057138};
    static const int32_t ids[7] = {0, 1, 2, 3, 4, 5, 6}, pos[7] = {0, 1, 2, 3, 4, 5, 6};
    struct hd_span span = {.n_tok = 7};
    struct hd_paged ring = {.ring = 1};
    struct hd_ragged b = {.n_tok = 7, .n_seq = 1, .ids = ids, .pos = pos, .span = &span, .part = &ring, .n_part = 1, .max_pos = 7};
    struct hd_engram e;
    struct hd_backend be;
    struct hd_arena arena, step;
    struct hd_stream s;
    struct hd_pool *pool;

    hd_arena_init(&arena, 0);
    hd_arena_init(&step, 0);
    published(&e, "16000000", 40, "[1, 14]");
    assert_ok(hd_engram_classes(&e, &arena, class, 7, 99092, "test", &test_err));
    assert_ok(hd_backend_cpu_init(NULL, &test_err));
    assert_ok(hd_pool_create(&pool, 1, &test_err));
    assert_ok(hd_backend_cpu_create(&be, pool, &test_err));
    hd_stream_init(&s, &be, &step, HD_EXACT_F32);
    for (int l = 0; l < 2; l++) {
        struct hd_tensor *rows = hd_new(&s, HD_I32, 7, 24), *c = hd_new(&s, HD_I32, 7, 1);
        const int64_t *want = l ? last : first;

        hd_ngram_rows(&s, rows, c, &b, 0, &e.ngram[l]);
        for (int k = 0; k < 24; k++)
            assert_int_equal(((const int32_t *)((char *)rows->data + (l ? 6 : 0) * rows->row_bytes))[k], e.offset[l][k] + want[k]);
    }
    assert_ok(hd_stream_end(&s, &test_err));
    hd_backend_cpu_free(&be);
    hd_pool_free(pool);
    hd_arena_release(&step);
    hd_arena_release(&arena);
}

/* Case, accents and spaces do not count; tokens that hold U+FFFD keep their spelling, so that a space before it does. */
static void test_classes(void **state)
{
    static const char text[] = "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"A\": 0, \"a\": 1, \"\\u0120a\": 2, \"\\u00c3\\u012b\": 3, \"\\u00c3\\u00a9\": 4, \"e\": 5, \"\\u0120\": 6,"
                               "\"\\u0120\\u0120\": 7, \"\\u00ef\\u00bf\\u00bd\": 8, \"\\u0120\\u00ef\\u00bf\\u00bd\": 9, \"\\u00ef\": 10, \"E\": 11}, \"merges\": []},"
                               "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"decoder\": {\"type\": \"ByteLevel\"}, \"added_tokens\": []}";
    static const int32_t want[12] = {0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 1};
    char *dir = tmp_path("classes"), path[600];
    struct hd_tokenizer *t;
    int32_t map[12];
    int64_t n;

    mkdir(dir, 0755);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    write_file(path, text, sizeof text - 1);
    assert_ok(hd_tokenizer_open(&t, dir, 0, &test_err));
    assert_ok(hd_token_classes(t, 12, map, &n, &test_err));
    for (int i = 0; i < 12; i++)
        if (map[i] != want[i])
            fail_msg("token %d: class %d; expected %d", i, map[i], want[i]);
    assert_int_equal(n, 6);
    hd_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_constants), cmocka_unit_test(test_rows), cmocka_unit_test(test_classes)};

    return cmocka_run_group_tests_name("engram", tests, NULL, NULL);
}
