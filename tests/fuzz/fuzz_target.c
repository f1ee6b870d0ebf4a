/* fuzz_target.c: one entry for every format that comes from outside; libFuzzer, AFL++ and the replay call it.
 *
 * The first byte of the input says which reader gets the rest: s safetensors, g GGUF, c config.json (with llama's weights
 * absent: planning), t tokenizer.json, m messages.json, n snapshot, p a completion (its first byte: family, start, how it is cut). A crash or a sanitizer's report is a finding; errors are not.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mem.h"
#include "cache/cache.h"
#include "engine/engine.h"
#include "token/chat.h"
#include "token/parse.h"
#include "token/token.h"
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

static void config(const uint8_t *p, size_t n)
{
    char dir[] = "/tmp/hadal-fuzz-XXXXXX", path[64];
    struct hd_engine_options o = {.kv = HD_KV_F32};
    struct hd_model m;
    struct hd_plan plan;
    struct hd_err err;
    FILE *f;

    if (!mkdtemp(dir))
        return;
    snprintf(path, sizeof path, "%s/config.json", dir);
    if ((f = fopen(path, "wb"))) {
        fwrite(p, 1, n, f);
        fclose(f);
        if (hd_model_open(&m, dir, HD_KV_F32, HD_STORE_PLAN, &err) == HD_OK) {
            hd_engine_plan(&m, &o, 1, &plan, &err);
            hd_model_close(&m);
        }
        unlink(path);
    }
    rmdir(dir);
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

static void messages(const uint8_t *p, size_t n)
{
    static struct hd_tokenizer *t;
    struct hd_chat_options opt = {0};
    struct hd_chat_text c;
    struct hd_ids ids = {0};
    struct hd_err err;
    json_t *doc;

    if (!t && hd_tokenizer_open(&t, "tests/golden/tokenizer/llama3", 0, &err) < 0)
        return;
    if (!(doc = hd_json_parse((const char *)p, n, "messages", &err)))
        return;
    hd_chat_text_init(&c);
    if (hd_chat_render(t, doc, &opt, &c, &err) == HD_OK)
        hd_chat_ids(t, &c, &ids, &err);
    hd_ids_release(&ids);
    hd_chat_text_release(&c);
    json_decref(doc);
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
    case 'c': config(copy, n - 1); break;
    case 't': tokenizer(copy, n - 1); break;
    case 'm': messages(copy, n - 1); break;
    case 'n': snapshot(copy, n - 1); break;
    case 'p': completion(copy, n - 1); break;
    }
    free(copy);
    return 0;
}
