/* test_train_data.c: what a trainer reads and what stands beside its loss: documents, an n-gram model, events, time. */
#include "support.h"

#include <signal.h>
#include <sys/resource.h>

#include "base/json.h"
#include "token/bpe_train.h"
#include "train/average.h"
#include "train/data.h"
#include "train/document.h"
#include "train/gain.h"
#include "train/lr_schedule.h"
#include "train/model_dir.h"
#include "train/ngram_loss.h"
#include "train/recall.h"
#include "train/tb_events.h"

/* Conversations: what the assistant says is a target, its end token too, and nothing else; other shapes of line come to the same ids. */
static struct hd_tokenizer *tiny_chat_tokenizer(void)
{
    static const char *const special[] = {"<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "</think>"};
    static const char config[] = "{\"model_type\": \"deepseek_v41\", \"bos_token_id\": 0, \"eos_token_id\": 1}";
    struct hd_bpe_hp hp = {.special = special, .n_special = HD_LEN(special)};
    char *dir = tmp_path("chat-tokenizer");
    struct hd_bpe_trainer *t;
    struct hd_tokenizer *tok;
    struct hd_str json;
    int64_t n;

    assert_ok(hd_bpe_trainer_create(&t, &test_err));
    hd_str_init(&json, 0);
    assert_ok(hd_bpe_trainer_finish(t, &hp, &json, &n, &test_err));
    assert_ok(hd_make_dir(dir, &test_err));
    assert_ok(hd_write_file(dir, "tokenizer.json", json.s, json.n, &test_err));
    assert_ok(hd_write_file(dir, "config.json", config, sizeof config - 1, &test_err));
    assert_ok(hd_tokenizer_open(&tok, dir, 0, &test_err));
    hd_str_release(&json);
    hd_bpe_trainer_free(t);
    return tok;
}

static void document(struct hd_document *d, struct hd_tokenizer *tok, const char *line, bool all)
{
    json_t *j = hd_json_parse(line, strlen(line), "line", &test_err);

    assert_non_null(j);
    assert_ok(hd_document_read(d, tok, j, all, &test_err));
    json_decref(j);
}

static void learned_text(const struct hd_document *d, const struct hd_tokenizer *tok, struct hd_str *out)
{
    hd_str_reset(out);
    for (size_t i = 0; i < d->ids.n; i++)
        if (!d->skip[i])
            hd_detokenize(tok, &d->ids.id[i], 1, true, out);
}

static void test_documents(void **state)
{
    static const char *const same[] = {
        "{\"conversations\": [{\"from\": \"human\", \"value\": \"Hi\"}, {\"from\": \"gpt\", \"value\": \"Hello you\"}]}",
        "{\"instruction\": \"Hi\", \"input\": \"\", \"output\": \"Hello you\"}",
    };
    static const char chat[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Hello you\"}]}";
    static const char two[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"bad\", \"weight\": 0}, "
                              "{\"role\": \"user\", \"content\": \"b\"}, {\"role\": \"assistant\", \"content\": \"good\"}]}";
    static const char *const wrong[] = {"[1]", "{\"prompt\": \"x\"}", "{\"completion\": 3, \"prompt\": \"x\"}", "{\"messages\": []}", "{\"text\": 4}",
                                        "{\"conversations\": [{\"from\": \"nobody\", \"value\": \"x\"}]}", "{\"instruction\": \"x\"}"};
    struct hd_document d = {.skip = NULL}, e = {.skip = NULL};
    struct hd_tokenizer *tok = tiny_chat_tokenizer();
    struct hd_str text;

    hd_str_init(&text, 0);
    document(&d, tok, chat, false);
    learned_text(&d, tok, &text);
    assert_string_equal(hd_str_get(&text), "Hello you<\uff5cend\u2581of\u2581sentence\uff5c>");
    for (int i = 0; i < HD_LEN(same); i++) {
        document(&e, tok, same[i], false);
        assert_int_equal(e.ids.n, d.ids.n);
        assert_memory_equal(e.ids.id, d.ids.id, d.ids.n * sizeof *d.ids.id);
        assert_memory_equal(e.skip, d.skip, d.ids.n);
    }
    document(&d, tok, two, false);
    learned_text(&d, tok, &text);
    assert_string_equal(hd_str_get(&text), "good<\uff5cend\u2581of\u2581sentence\uff5c>");
    document(&d, tok, chat, true);
    for (size_t i = 0; i < d.ids.n; i++)
        assert_int_equal(d.skip[i], 0);
    document(&d, tok, "{\"prompt\": \"1 + 1 = \", \"completion\": \"2\"}", false);
    learned_text(&d, tok, &text);
    assert_string_equal(hd_str_get(&text), "2<\uff5cend\u2581of\u2581sentence\uff5c>");
    document(&d, tok, "{\"instruction\": \"a\\u0000b\", \"input\": \"c\\u0000d\", \"output\": \"e\"}", true);       /* a NUL ends no text */
    learned_text(&d, tok, &text);
    assert_non_null(memmem(hd_str_get(&text), text.n, "a\0b\n\nc\0d", 8));
    for (int i = 0; i < HD_LEN(wrong); i++) {
        json_t *j = hd_json_parse(wrong[i], strlen(wrong[i]), "line", &test_err);

        assert_true(hd_document_read(&d, tok, j, false, &test_err) < 0);
        json_decref(j);
    }
    hd_document_release(&d);
    hd_document_release(&e);
    hd_str_release(&text);
    hd_tokenizer_free(tok);
}

/* A special token that text spells too: no merge makes it, and what came out can be read. */
static void test_special_words(void **state)
{
    static const char text[] = "the cat sat on the mat, the cat sat, the the the";
    static const char *const special[] = {"<|end|>", "the", "cat"}, *const twice[] = {"the", "cat", "the"}, *const byte[] = {"<|end|>", "a"};
    static const struct hd_bpe_hp wrong[] = {{300, false, twice, 3}, {300, false, byte, 2}, {0, true, byte, 2}};
    struct hd_bpe_hp hp = {.n_vocab = 290, .special = special, .n_special = 3};
    struct hd_bpe_trainer *t;
    struct hd_tokenizer *tok;
    struct hd_ids ids = {0};
    struct hd_str json, back;
    int64_t n;

    hd_str_init(&json, 0);
    hd_str_init(&back, 0);
    assert_ok(hd_bpe_trainer_create(&t, &test_err));
    assert_ok(hd_bpe_trainer_add(t, text, sizeof text - 1, &test_err));
    assert_ok(hd_bpe_trainer_finish(t, &hp, &json, &n, &test_err));
    assert_true(n > 259);             /* others were made */
    assert_ok(hd_tokenizer_parse(&tok, hd_str_get(&json), json.n, "learned", 0, &test_err));
    assert_ok(hd_tokenize(tok, text, sizeof text - 1, 0, &ids, &test_err));
    for (size_t i = 0; i < ids.n; i++)
        assert_true(ids.id[i] >= 3);
    hd_detokenize(tok, ids.id, ids.n, true, &back);
    assert_true(back.n == sizeof text - 1 && !memcmp(hd_str_get(&back), text, back.n));
    hd_tokenizer_free(tok);
    hd_bpe_trainer_free(t);
    for (int i = 0; i < HD_LEN(wrong); i++) {
        assert_ok(hd_bpe_trainer_create(&t, &test_err));
        assert_ok(hd_bpe_trainer_add(t, text, sizeof text - 1, &test_err));
        assert_int_equal(hd_bpe_trainer_finish(t, &wrong[i], &json, &n, &test_err), HD_ERR_USAGE);
        hd_bpe_trainer_free(t);
    }
    hd_ids_release(&ids);
    hd_str_release(&json);
    hd_str_release(&back);
}

/* Kneser-Ney by hand: of "ab ab ac", after a: b twice, c once. */
static void test_ngram_loss(void **state)
{
    static int32_t train_id[] = {0, 1, 0, 1, 0, 2}, val_id[] = {0, 1};
    static int64_t train_doc[] = {0, 2, 4, 6}, val_doc[] = {0, 2};
    struct hd_data train = {.id = train_id, .n = 6, .doc = train_doc, .n_doc = 3}, val = {.id = val_id, .n = 2, .doc = val_doc, .n_doc = 1};
    double loss;

    /* bigrams ab 2, ac 1: D = 1 / (1 + 2); unigrams: a three times at begins, b and c one continuation each: n1 = 2, n2 = 0, D = 0.5.
     * p1(b) = (1 - 0.5) / 5 + 0.5 * 3 / 5 / 3, p(b | a) = (2 - D) / 3 + D * 2 / 3 * p1(b) */
    assert_ok(hd_ngram_loss(&train, &val, 2, 3, &loss, &test_err));
    assert_true(fabs(exp(-loss) - ((2 - 1 / 3.0) / 3 + 1 / 3.0 * 2 / 3 * (0.5 / 5 + 0.5 * 3 / 5 / 3))) < 1e-12);
    val.n_doc = 0;
    assert_int_equal(hd_ngram_loss(&train, &val, 2, 3, &loss, &test_err), HD_ERR_FORMAT);
}

/* The check value of CRC-32C (RFC 3720, B.4), and a record of TensorBoard's taken apart. */
static void test_events(void **state)
{
    struct hd_str out;
    uint64_t n;

    assert_int_equal(hd_crc32c("123456789", 9), 0xe3069283u);
    hd_str_init(&out, 0);
    hd_tb_begin(&out, 1);
    memcpy(&n, out.s, 8);
    assert_int_equal(out.n, n + 16);
    assert_memory_equal(out.s + 12 + n - 13, "brain.Event:2", 13);
    hd_tb_scalar(&out, 2, 300, "loss", 1.5f);
    assert_memory_equal(out.s + out.n - 4 - 4 - 1 - 4, "loss\x15", 5);
    hd_str_release(&out);
}

/* By time or by steps, whichever is nearer its end. */
static void test_schedule_minutes(void **state)
{
    struct hd_schedule s = {HD_SCHEDULE_COSINE, 1, 0.1, 1000, 0, 0, 10};

    assert_true(fabs(hd_schedule_done(&s, 100, 0) - 0.1) < 1e-12 && fabs(hd_schedule_done(&s, 100, 300) - 0.5) < 1e-12 && hd_schedule_done(&s, 1, 601) == 1);
    assert_true(fabs(hd_schedule_lr(&s, 100, 300) - 0.55) < 1e-12 && fabs(hd_schedule_lr(&s, 1, 601) - 0.1) < 1e-12);
}

/* By hand: d is 2/11 after the first step, then 3/12. */
static void test_average(void **state)
{
    float w[3] = {1, 2, 3};
    struct hd_params ps = {.w = w, .n_float = 3};
    struct hd_average a;
    struct hd_pool *pool;

    assert_ok(hd_pool_create(&pool, 2, &test_err));
    assert_ok(hd_average_init(&a, 0.99, &ps, &test_err));
    w[0] = 12;
    hd_average_update(&a, &ps, 1, pool);
    assert_true(fabs(a.w[0] - (1 + 9.0 / 11 * 11)) < 1e-5 && a.w[1] == 2);
    w[0] = 30;
    hd_average_update(&a, &ps, 2, pool);
    assert_true(fabs(a.w[0] - (10 + 9.0 / 12 * 20)) < 1e-5);
    hd_average_swap(&a, &ps);
    assert_true(a.w[0] == 30 && fabs(w[0] - 25) < 1e-5);
    hd_average_release(&a);
    assert_ok(hd_average_init(&a, 0, &ps, &test_err));
    assert_null(a.w);
    hd_average_update(&a, &ps, 3, pool);
    hd_average_swap(&a, &ps);
    hd_pool_free(pool);
}

/* The recall task with few symbols in keys: only so many of them, other ones in another sequence, all keys different, and every question's answer is its
 * record's; what has no room is refused. */
static void test_recall_keys(void **state)
{
    static const struct hd_recall task = {200, 50};
    struct hd_recall_size n = {200, 16, 10, 200, 4};
    int32_t id[200], target[200], most[2] = {0, 0}, used[2][200] = {{0}};
    int64_t place[10];
    struct hd_rng rng;

    hd_rng_seed(&rng, 7);
    for (int s = 0; s < 2; s++) {
        bool key[200 * 200] = {false};
        int n_record = 0, q = 0;

        assert_ok(hd_recall_make(&task, &rng, &n, id, target, place, &test_err));
        for (int i = 0; i < 200 - 3 * 10; i++)
            if (id[i] == 250) {
                assert_false(key[id[i + 1] * 200 + id[i + 2]]);
                key[id[i + 1] * 200 + id[i + 2]] = true;
                used[s][id[i + 1]] = used[s][id[i + 2]] = 1;
                n_record++;
            }
        assert_int_equal(n_record, 16);
        for (int i = 0; i < 200; i++) {
            most[s] += used[s][i];
            if (target[i] < 0)
                continue;
            assert_int_equal(id[i - 2], 251);
            assert_int_equal(id[place[q] + 1], id[i - 1]);
            assert_int_equal(id[place[q] + 2], id[i]);
            assert_int_equal(id[place[q++] + 3], target[i]);
        }
        assert_int_equal(q, 10);
        assert_int_equal(most[s], 4);                 /* 16 keys of 4 symbols: all of them */
    }
    assert_memory_not_equal(used[0], used[1], sizeof used[0]);
    n.n_key = 3;
    assert_int_equal(hd_recall_make(&task, &rng, &n, id, target, place, &test_err), HD_ERR_USAGE);
    n.n_key = 201;
    assert_int_equal(hd_recall_make(&task, &rng, &n, id, target, place, &test_err), HD_ERR_USAGE);
}

/* Composite gains by hand: [2 0; 0 1] [1 1; 0 1] = [2 2; 0 1], rows 4 and 1, columns 2 and 3; a permutation stays 1. Other names, and mixes with other
 * rows (a draft's), do not count. */
static void test_gain(void **state)
{
    float first[2][8] = {{9, 9, 9, 9, 2, 0, 0, 1}, {9, 9, 9, 9, 0, 1, 1, 0}}, second[2][8] = {{9, 9, 9, 9, 1, 1, 0, 1}, {9, 9, 9, 9, 0, -1, 1, 0}};
    struct hd_tensor a = hd_view2(HD_F32, first, 2, 8), b = hd_view2(HD_F32, second, 2, 8), one = hd_view2(HD_F32, first, 1, 8);
    struct hd_gain g = {0};

    assert_true(hd_gain_mean(&g) == 0);
    hd_gain_take(&g, "layers.0.attn_mix", &a);
    hd_gain_take(&g, "layers.0.stream", &a);
    hd_gain_take(&g, "streams_mix", &b);
    hd_gain_take(&g, "layers.1.attn_mix", &one);
    assert_true(fabs(hd_gain_mean(&g) - (4 + 1) / 2.0) < 1e-12);
    hd_gain_release(&g);
}

/* Ids on disk are the same data: at once, half-way, and split; a disk that is full is an error that leaves them as they were. */
static void read_all(struct hd_data *d, struct hd_data *val, const char *dir, size_t from, const char *const *path, int n)
{
    d->spill_dir = val->spill_dir = dir;
    d->spill_from = val->spill_from = from;
    for (int i = 0; i < n; i++)
        assert_ok(hd_data_add(d, path[i], NULL, 65536, &test_err));
    assert_ok(hd_data_split(d, val, 0.25, &test_err));
    hd_data_seal(d, NULL);
    hd_data_seal(val, NULL);
}

static void test_stream(void **state)
{
    enum { N = 300000, FILES = 3 };
    uint16_t *ids = hd_malloc(N * sizeof *ids);
    const char *path[FILES];
    struct hd_data plain = {0}, plain_val = {0}, d, val;
    char *dir = tmp_path("spilled"), name[32];
    struct rlimit old, little;
    uint64_t hash;

    assert_ok(hd_make_dir(dir, &test_err));
    for (int f = 0; f < FILES; f++) {
        for (int i = 0; i < N; i++)
            ids[i] = (uint16_t)(i * (f + 3) % 65521);
        snprintf(name, sizeof name, "shard-%d.bin", f);
        path[f] = tmp_path(name);
        write_file(path[f], (const char *)ids, N * sizeof *ids);
    }
    read_all(&plain, &plain_val, NULL, 0, path, FILES);
    assert_false(plain.id_file.open);
    for (size_t from = 0; from <= 3000000; from += 3000000) {         /* at once; in the second file */
        d = val = (struct hd_data){0};
        read_all(&d, &val, dir, from, path, FILES);
        assert_true(d.id_file.open && d.n == plain.n && d.n_doc == FILES && d.hash == plain.hash && val.n == plain_val.n && val.hash == plain_val.hash);
        assert_int_equal(val.id_file.open, from == 0);
        hd_data_release(&d);
        hd_data_release(&val);
    }
    d = val = (struct hd_data){0};
    d.spill_dir = dir;
    assert_ok(hd_data_add(&d, path[0], NULL, 65536, &test_err));
    hd_data_seal(&d, NULL);
    hash = d.hash;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    little = (struct rlimit){(rlim_t)5 << 20, old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    assert_int_equal(hd_data_add(&d, path[1], NULL, 65536, &test_err) + hd_data_add(&d, path[1], NULL, 65536, &test_err) + hd_data_add(&d, path[2], NULL, 65536, &test_err) +
                         hd_data_add(&d, path[2], NULL, 65536, &test_err) < 0, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(test_err.code, HD_ERR_IO);
    d.n_doc = 1;
    d.n = N;
    hd_data_seal(&d, NULL);
    assert_true(d.hash == hash);
    hd_data_release(&d);
    hd_data_release(&plain);
    hd_data_release(&plain_val);
    hd_free(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stream), cmocka_unit_test(test_documents), cmocka_unit_test(test_special_words), cmocka_unit_test(test_ngram_loss), cmocka_unit_test(test_events), cmocka_unit_test(test_schedule_minutes), cmocka_unit_test(test_average),
                                       cmocka_unit_test(test_recall_keys), cmocka_unit_test(test_gain)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
