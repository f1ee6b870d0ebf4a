/* fuzz_target.c: one entry for every format that comes from outside; libFuzzer, AFL++ and the replay call it.
 *
 * The first byte of the input says which reader gets the rest: s safetensors, g GGUF, c config.json (with llama's weights
 * absent: planning), t tokenizer.json, m messages.json, n snapshot, p a completion (its first byte: family, start, how it is cut), h the head of a request and a
 * chunked body, x a JSON Schema, e a regular expression, d training data as JSON lines, b text that a tokenizer is learned from, r a training run's configuration. A crash or a
 * sanitizer's report is a finding; errors are not.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mem.h"
#include "cache/cache.h"
#include "engine/engine.h"
#include "sample/schema.h"
#include "server/http_head.h"
#include "token/bpe_train.h"
#include "token/chat.h"
#include "token/parse.h"
#include "token/token.h"
#include "train/document.h"
#include "train/train_config.h"
#include "weights/gguf_deepseek.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A store around bytes in memory; a GGUF file's metadata also as a configuration. */
static void store(const uint8_t *p, size_t n, int (*parse)(struct hd_store *, int, struct hd_err *))
{
    struct hd_file_map map = {.data = p, .n = n, .fd = -1};
    struct hd_store st = {.kind = parse == hd_gguf_parse ? HD_STORE_GGUF : HD_STORE_DIR, .path = (char *)"fuzz", .files = &map, .n_file = 1};
    struct hd_err err;

    hd_arena_init(&st.arena, 0);
    if (parse(&st, 0, &err) == HD_OK) {
        for (size_t i = 0; i < st.n_entry; i++)
            hd_store_find(&st, st.entry[i].name.p);
        hd_gguf_deepseek_config(&st, &err);
    }
    json_decref(st.config);
    hd_free(st.entry);
    hd_free(st.hash);
    hd_arena_release(&st.arena);
}

/* A directory with a file of that name and nothing else, while fn looks at it. */
static void in_a_file(const char *name, const uint8_t *p, size_t n, void (*fn)(const char *dir, const char *path))
{
    char dir[] = "/tmp/hadal-fuzz-XXXXXX", path[64];
    FILE *f;

    if (!mkdtemp(dir))
        return;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if ((f = fopen(path, "wb"))) {
        fwrite(p, 1, n, f);
        fclose(f);
        fn(dir, path);
        unlink(path);
    }
    rmdir(dir);
}

static void config(const char *dir, const char *path)
{
    struct hd_engine_options o = {.kv = HD_KV_F32};
    struct hd_model m;
    struct hd_plan plan;
    struct hd_err err;

    if (hd_model_open(&m, dir, HD_KV_F32, HD_STORE_PLAN, &err) < 0)
        return;
    hd_engine_plan(&m, &o, 1, &plan, &err);
    hd_model_close(&m);
}

static void training(const char *dir, const char *path)
{
    struct hd_train_config c;
    struct hd_err err;

    hd_train_config_read(&c, path, &err);
    hd_train_config_release(&c);
}

static void tokenizer(const uint8_t *p, size_t n)
{
    static const char text[] = "the sea, \xe4\xb8\xad\xe6\x96\x87 <|end|> \xff\n  12345";
    struct hd_tokenizer *t;
    struct hd_ids ids = {0};
    struct hd_str out;
    struct hd_err err;

    if (hd_tokenizer_parse(&t, (const char *)p, n, "tokenizer.json", 0, &err) < 0)
        return;
    hd_str_init(&out, 0);
    if (hd_tokenize(t, text, sizeof text - 1, HD_TOK_SPECIAL, &ids, &err) == HD_OK)
        hd_detokenize(t, ids.id, ids.n, true, &out);
    hd_str_release(&out);
    hd_ids_release(&ids);
    hd_tokenizer_free(t);
}

/* One of every chat format. */
static struct hd_tokenizer *chatting(int k)
{
    static const char *const dirs[] = {"tests/golden/tokenizer/llama3", "tests/golden/tokenizer/qwen2", "tests/golden/tokenizer/deepseek", "tests/golden/chat/v4", "tests/golden/chat/v41"};
    static struct hd_tokenizer *t[HD_LEN(dirs)];
    struct hd_err err;

    if (k >= HD_LEN(dirs))
        return NULL;
    if (!t[k])
        HD_ASSERT(hd_tokenizer_open(&t[k], dirs[k], 0, &err) == HD_OK);
    return t[k];
}

static void messages(const uint8_t *p, size_t n)
{
    struct hd_chat_options opt = {0};
    struct hd_chat_text c;
    struct hd_ids ids = {0};
    struct hd_tokenizer *t;
    struct hd_err err;
    json_t *doc;

    if (!(doc = hd_json_parse((const char *)p, n, "messages", &err)))
        return;
    for (int k = 0; (t = chatting(k)); k++) {
        hd_chat_text_init(&c);
        if (hd_chat_render(t, doc, &opt, &c, &err) == HD_OK)
            hd_chat_ids(t, &c, &ids, &err);
        hd_ids_release(&ids);
        hd_chat_text_release(&c);
    }
    json_decref(doc);
}

static int read_document(void *arg, const json_t *line, const char *what, struct hd_err *err)
{
    struct hd_document d = {0};
    struct hd_tokenizer *t;

    for (int k = 0; (t = chatting(k)); k++)
        if (hd_document_read(&d, t, line, k % 2, err) == HD_OK)
            for (size_t i = 0; i < d.ids.n; i++)
                HD_ASSERT(d.skip[i] <= 1 && d.ids.id[i] >= 0);
    hd_document_release(&d);
    return HD_OK;
}

static void documents(const uint8_t *p, size_t n)
{
    struct hd_err err;

    hd_jsonl_each((const char *)p, n, "lines", read_document, NULL, &err);
}

/* What was learned spells every text that it was learned from. */
static void learning(const uint8_t *p, size_t n)
{
    static const char *const special[] = {"<|end|>", "ab"};
    bool used = n % 5 == 0;                   /* as train_run.c asks for them */
    struct hd_bpe_hp hp = {.n_vocab = !used && n % 3 ? 258 + (int64_t)n % 40 : 0, .used_bytes = used, .special = special, .n_special = used ? 0 : (int)(n % 3)};
    struct hd_bpe_trainer *t;
    struct hd_tokenizer *tok;
    struct hd_ids ids = {0};
    struct hd_str json, text;
    struct hd_err err;
    int64_t n_vocab;

    hd_str_init(&json, 0);
    hd_str_init(&text, 0);
    HD_ASSERT(hd_bpe_trainer_create(&t, &err) == HD_OK);
    if (hd_bpe_trainer_add(t, (const char *)p, n, &err) == HD_OK && hd_bpe_trainer_finish(t, &hp, &json, &n_vocab, &err) == HD_OK) {
        HD_ASSERT(hd_tokenizer_parse(&tok, hd_str_get(&json), json.n, "learned", 0, &err) == HD_OK);
        HD_ASSERT(hd_tokenize(tok, (const char *)p, n, 0, &ids, &err) == HD_OK);
        hd_detokenize(tok, ids.id, ids.n, true, &text);
        HD_ASSERT(text.n == n && !memcmp(hd_str_get(&text), p, n));
        hd_tokenizer_free(tok);
    }
    hd_bpe_trainer_free(t);
    hd_ids_release(&ids);
    hd_str_release(&json);
    hd_str_release(&text);
}

static void schema(const uint8_t *p, size_t n)
{
    struct hd_grammar *g = NULL;
    struct hd_err err;
    json_t *j = hd_json_parse((const char *)p, n, "schema", &err);

    if (j && hd_schema_compile(&g, j, &err) == HD_OK)
        hd_grammar_release(g);
    if (j && hd_schema_compile_choice(&g, j, &err) == HD_OK)
        hd_grammar_release(g);
    json_decref(j);
}

static void regex(const uint8_t *p, size_t n)
{
    char *text = strndup((const char *)p, n);
    struct hd_grammar *g;
    struct hd_err err;

    if (hd_schema_compile_regex(&g, text, &err) == HD_OK)
        hd_grammar_release(g);
    free(text);
}

/* The bytes of a chunked body and where it ends, fed piece by piece. */
static int body(const uint8_t *p, size_t n, size_t piece, struct hd_str *out, size_t *end)
{
    struct hd_chunked c = {0};
    int rc = 0;

    hd_str_init(out, 0);
    for (*end = 0; *end < n && !rc;) {
        struct hd_view data = {0};
        size_t used = 0;

        rc = hd_chunked_feed(&c, (const char *)p + *end, n - *end < piece ? n - *end : piece, &used, &data);
        HD_ASSERT(rc || used || data.n);
        if (data.n)
            hd_str_add(out, data.p, data.n);
        *end += used;
    }
    return rc;
}

static void request(const uint8_t *p, size_t n)
{
    struct hd_http_head h;
    struct hd_str a, b;
    size_t seen = 0, at = 0, end[2];
    const char *why;
    int len = 0, rc[2];

    while (!len && at < n) {                  /* as it comes in */
        at += n - at < 7 ? n - at : 7;
        len = hd_http_head_end((const char *)p, at, &seen);
    }
    if (len <= 0)
        return;
    HD_ASSERT((size_t)len <= n);
    if (hd_http_head_parse(&h, (const char *)p, (size_t)len, &why))
        HD_ASSERT(why);
    else
        hd_http_head_get(&h, "content-type");
    rc[0] = body(p + len, n - (size_t)len, n, &a, &end[0]);
    rc[1] = body(p + len, n - (size_t)len, 3, &b, &end[1]);
    HD_ASSERT(rc[0] == rc[1] && (rc[0] < 0 || (end[0] == end[1] && a.n == b.n && !memcmp(hd_str_get(&a), hd_str_get(&b), a.n))));
    hd_str_release(&a);
    hd_str_release(&b);
}

static void snapshot(const uint8_t *p, size_t n)
{
    static const struct hd_cache_part part[] = {{.name = "k", .kind = HD_PART_PAGED, .type = HD_F32, .row_len = 4, .ratio = 1},
                                                {.name = "w", .kind = HD_PART_WINDOW, .type = HD_F32, .row_len = 2, .ratio = 1, .window = 8, .slack = 2}};
    static const struct hd_cache_spec spec = {2, part};
    struct hd_cache c;
    struct hd_seq *s;
    const void *blob;
    size_t n_blob;
    struct hd_err err;

    if (hd_cache_init(&c, &spec, 512, &err) < 0)
        return;
    if (hd_seq_create(&c, &s, &err) == HD_OK) {
        hd_seq_load(s, p, n, &blob, &n_blob, &err);
        hd_seq_free(s);
    }
    hd_cache_release(&c);
}

static int gather(void *arg, const struct hd_parse_event *e, struct hd_err *err)
{
    for (size_t i = 0; i < e->text.n;) {
        int len;

        HD_ASSERT(hd_utf8_get(e->text.p + i, e->text.n - i, &len) >= 0);
        i += (size_t)len;
    }
    return hd_parse_gather(arg, e, err);
}

static json_t *parsed(const struct hd_parse_options *opt, const char *s, size_t n, size_t piece)
{
    struct hd_parse_options o = *opt;
    struct hd_parse_message m;
    struct hd_parse p;
    struct hd_err err;
    json_t *out;

    hd_parse_message_init(&m);
    o.event = gather;
    o.arg = &m;
    hd_parse_init(&p, &o);
    for (size_t at = 0; at < n; at += piece)
        hd_parse_feed(&p, s + at, n - at < piece ? n - at : piece, false, &err);
    hd_parse_finish(&p, false, &err);
    HD_ASSERT(out = hd_parse_message_json(&m));
    hd_parse_message_release(&m);
    return out;
}

/* The same message however it is cut. */
static void completion(const uint8_t *p, size_t n)
{
    struct hd_parse_options o = {.family = (enum hd_parse_family)(n ? p[0] % 5 : 0), .start = (enum hd_parse_start)(n ? p[0] / 8 % 4 : 0)};
    json_t *a, *b;

    if (!n)
        return;
    o.no_tools = p[0] >> 7;
    a = parsed(&o, (const char *)p + 1, n - 1, 16);
    b = parsed(&o, (const char *)p + 1, n - 1, 1 + p[0] % 16);
    HD_ASSERT(json_equal(a, b));
    json_decref(a);
    json_decref(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t *copy;

    if (n < 1)
        return 0;
    /* an own block of exactly the right size: the sanitizer sees a read beyond it. 16-byte aligned like a map. */
    copy = malloc(n - 1 ? n - 1 : 1);
    memcpy(copy, data + 1, n - 1);
    switch (data[0]) {
    case 's': store(copy, n - 1, hd_safetensors_parse); break;
    case 'g': store(copy, n - 1, hd_gguf_parse); break;
    case 'c': in_a_file("config.json", copy, n - 1, config); break;
    case 'r': in_a_file("run.json", copy, n - 1, training); break;
    case 't': tokenizer(copy, n - 1); break;
    case 'm': messages(copy, n - 1); break;
    case 'n': snapshot(copy, n - 1); break;
    case 'p': completion(copy, n - 1); break;
    case 'h': request(copy, n - 1); break;
    case 'x': schema(copy, n - 1); break;
    case 'e': regex(copy, n - 1); break;
    case 'd': documents(copy, n - 1); break;
    case 'b': learning(copy, n - 1); break;
    }
    free(copy);
    return 0;
}
