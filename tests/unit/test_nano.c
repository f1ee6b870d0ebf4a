/* test_nano.c: the model in the repository, trained here: it loads, answers in sentences, finds what it was told; its fast mode beside the exact one. */
#include <math.h>

#include "kl.h"
#include "support.h"

#include "base/json.h"
#include "engine/generate.h"
#include "engine/model_tokenizer.h"
#include "token/chat.h"

#define MODEL "models/nano"
#define ANSWER_MAX 160

static struct hd_engine engine;       /* exact */
static struct hd_tokenizer *tok;

static bool ready(void)
{
    if (hd_file_exists(MODEL "/model.safetensors"))
        return true;
    print_message("# " MODEL " holds no weights\n");
    return false;
}

static void open_engine(struct hd_engine *e, enum hd_exact exact)
{
    struct hd_engine_options o = {.exact = exact, .n_ctx = 2048, .kv = exact ? HD_KV_F32 : HD_KV_AUTO};

    assert_ok(hd_engine_open(e, MODEL, &o, &test_err));
}

static bool collect(void *arg, const char *text, size_t n, const struct hd_pick *pick)
{
    return hd_str_add(arg, text, n);
}

static void prompt_ids(const char *question, struct hd_ids *ids)
{
    json_t *doc = hd_chat_messages((const char *[]){"user"}, &question, 1);
    struct hd_chat_options opt = {0};
    struct hd_chat_text text;

    hd_chat_text_init(&text);
    assert_ok(hd_chat_render(tok, doc, &opt, &text, &test_err));
    assert_ok(hd_chat_ids(tok, &text, ids, &test_err));
    hd_chat_text_release(&text);
    json_decref(doc);
}

/* The greedy answer. */
static void answer(const char *question, struct hd_str *out)
{
    struct hd_sample_params params;
    struct hd_sampler sampler;
    struct hd_session ss;
    struct hd_ids ids = {0};

    hd_str_reset(out);
    hd_sample_defaults(&params);
    params.temperature = 0;
    params.n_logprob = -1;
    prompt_ids(question, &ids);
    assert_ok(hd_session_open(&ss, &engine, &test_err));
    assert_ok(hd_sampler_init(&sampler, &params, engine.model.hp.n_vocab, &test_err));
    struct hd_generate g = {.session = &ss, .tok = tok, .sampler = &sampler, .prompt = ids.id, .n_prompt = (int64_t)ids.n, .n_max = ANSWER_MAX, .text = collect, .arg = out};
    assert_ok(hd_generate(&g, &test_err));
    hd_sampler_release(&sampler);
    hd_session_close(&ss);
    hd_ids_release(&ids);
}

/* How many answers hold what they must. */
static int right(const char *const (*asked)[2], int n)
{
    struct hd_str out;
    int sum = 0;

    hd_str_init(&out, 1 << 16);
    for (int i = 0; i < n; i++) {
        bool found;

        answer(asked[i][0], &out);
        found = strstr(hd_str_get(&out), asked[i][1]) != NULL;
        if (!found)
            print_message("# \"%s\": found \"%s\"; expected %s\n", asked[i][0], hd_str_get(&out), asked[i][1]);
        sum += found;
    }
    hd_str_release(&out);
    return sum;
}

static void test_everyday(void **state)
{
    static const char *const asked[][2] = {
        {"Hello!", "!"}, {"Who are you?", "hadal-nano"}, {"What does a cow eat?", "grass"}, {"What is the opposite of big?", "mall"}, {"What color is snow?", "white"},
        {"Which day comes after Monday?", "Tuesday"}, {"What does a baker do?", "bread"}, {"Why is the sky blue?", "light"},
    };

    if (!ready())
        skip();
    assert_true(right(asked, HD_LEN(asked)) >= HD_LEN(asked) - 1);
}

/* Things said in the context, which no training text has said so. */
static void test_recall(void **state)
{
    static const char *const asked[][2] = {
        {"My name is Lily. What is my name?", "Lily"},
        {"The secret number is 47. What is the secret number?", "47"},
        {"The ball is in the barn. Where is the ball?", "barn"},
        {"The lamp is green. What color is the lamp?", "green"},
        {"I have a dog named Biscuit. What is the name of my dog?", "Biscuit"},
        {"Tom has a drum. Mia has a kite. What does Mia have?", "kite"},
        {"The hat is red. The cup is under the bed. My favorite color is blue. Where is the cup?", "under the bed"},
        {"My name is Omar. The kite is yellow. The book is in the kitchen. What is my name?", "Omar"},
    };

    if (!ready())
        skip();
    assert_true(right(asked, HD_LEN(asked)) >= HD_LEN(asked) - 2);
}

/* A story has sentences, names its hero, and ends by itself. */
static void test_story(void **state)
{
    struct hd_str out;
    int sentences = 0;

    if (!ready())
        skip();
    hd_str_init(&out, 1 << 16);
    answer("Tell me a story about a boy named Sam.", &out);
    for (const char *p = hd_str_get(&out); *p; p++)
        sentences += *p == '.' || *p == '!' || *p == '?';
    print_message("# %s\n", hd_str_get(&out));
    assert_true(sentences >= 4);
    assert_non_null(strstr(hd_str_get(&out), "Sam"));
    hd_str_release(&out);
}

/* ---- the fast mode ---- */

static const char told[] = "Once upon a time there was a little girl named Lily. She lived in a small house near the sea. One day she lost her red ball. She looked under the bed, but it was not "
                           "there. Then her friend Tom came and helped her. \"Here it is!\" he said. What did Lily lose?";

static float *all_logits(struct hd_engine *e, const struct hd_ids *ids)
{
    struct hd_step_item it = {.ids = ids->id, .n_tok = (int64_t)ids->n, .want = HD_WANT_ALL};
    size_t bytes = ids->n * (size_t)e->model.hp.n_vocab * sizeof(float);
    struct hd_session ss;
    float *out = hd_malloc(bytes);

    assert_non_null(out);
    assert_ok(hd_session_open(&ss, e, &test_err));
    it.session = &ss;
    assert_ok(hd_engine_step(e, &it, 1, &test_err));
    memcpy(out, it.logits, bytes);
    hd_session_close(&ss);
    return out;
}

static void test_fast(void **state)
{
    struct hd_ids ids = {0};
    struct hd_engine fast;
    float *p, *q;
    double sum = 0;
    int same = 0;
    int64_t v;

    if (!ready())
        skip();
    open_engine(&fast, HD_EXACT_NONE);
    v = fast.model.hp.n_vocab;
    prompt_ids(told, &ids);
    p = all_logits(&engine, &ids);
    q = all_logits(&fast, &ids);
    for (size_t i = 0; i < ids.n; i++) {
        sum += kl(p + (int64_t)i * v, q + (int64_t)i * v, v);
        same += argmax(p + (int64_t)i * v, v) == argmax(q + (int64_t)i * v, v);
    }
    print_message("# fast beside exact, %zu positions: mean KL %.2e, same first choice %d\n", ids.n, sum / (double)ids.n, same);
    assert_true(sum / (double)ids.n <= 0.05);
    assert_true(same >= (int)ids.n * 90 / 100);
    hd_free(p);
    hd_free(q);
    hd_ids_release(&ids);
    hd_engine_close(&fast);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_everyday), cmocka_unit_test(test_recall), cmocka_unit_test(test_story), cmocka_unit_test(test_fast)};
    int rc;

    hd_json_init();
    assert_ok(hd_backend_cpu_init(NULL, &test_err));
    if (ready()) {
        open_engine(&engine, HD_EXACT_F32);
        assert_ok(hd_model_tokenizer(&tok, MODEL, &test_err));
    }
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    if (ready()) {
        hd_tokenizer_free(tok);
        hd_engine_close(&engine);
    }
    return rc;
}
