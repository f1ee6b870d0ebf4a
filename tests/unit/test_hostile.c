/* test_hostile.c: files that lie. Every one must be refused with one line that names what is wrong, or be harmless.
 *
 * A golden checkpoint is copied, one thing in it is broken, and it is opened. Then the same with random damage: whatever the
 * answer, no crash and no unbounded memory (run under asan and ubsan by check-all).
 */
#include "support.h"

#include <limits.h>

#include "base/rng.h"
#include "engine/model_tokenizer.h"
#include "weights/gguf_deepseek.h"

static char dir[400];

static void put(const char *name, const void *p, size_t n)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    write_file(path, p, n);
}

static void clear_dir(void)
{
    DIR *d;
    struct dirent *de;
    char path[800];

    snprintf(dir, sizeof dir, "%s", tmp_path("hostile"));
    mkdir(dir, 0700);
    d = opendir(dir);
    while (d && (de = readdir(d))) {
        snprintf(path, sizeof path, "%s/%s", dir, de->d_name);
        unlink(path);
    }
    if (d)
        closedir(d);
}

static char *slurp(const char *path, size_t *n)
{
    char *p = NULL;

    assert_ok(hd_file_read(path, (size_t)1 << 26, &p, n, &test_err));
    return p;
}

/* A fresh copy of llama-a (single file), config edited by replacing the first from by to. */
static void fresh(const char *from, const char *to)
{
    size_t n;
    char *config = slurp("tests/golden/llama-a/config.json", &n), *w, *at;

    clear_dir();
    if (from) {
        char *edited = hd_malloc(n + strlen(to) + 1);

        if (!(at = strstr(config, from)))
            fail_msg("config.json does not have %s", from);
        snprintf(edited, n + strlen(to) + 1, "%.*s%s%s", (int)(at - config), config, to, at + strlen(from));
        put("config.json", edited, strlen(edited));
        hd_free(edited);
    } else {
        put("config.json", config, n);
    }
    hd_free(config);
    w = slurp("tests/golden/llama-a/model.safetensors", &n);
    put("model.safetensors", w, n);
    hd_free(w);
}

static int try_open(const char *path)
{
    struct hd_engine_options o = {.n_thread = 1, .kv = HD_KV_F32};
    struct hd_engine e;
    int rc;

    test_err = (struct hd_err){0};
    rc = hd_engine_open(&e, path, &o, &test_err);
    if (rc == HD_OK)
        hd_engine_close(&e);
    return rc;
}

static void refused(const char *path, const char *says, const char *what)
{
    int rc = try_open(path);

    if (rc >= 0)
        fail_msg("%s: was taken", what);
    if (!strstr(test_err.msg, says))
        fail_msg("%s: \"%s\" does not say \"%s\"", what, test_err.msg, says);
    assert_null(strchr(test_err.msg, '\n'));
}

static void test_config(void **state)
{
    static const struct {
        const char *from, *to, *says;
    } bad[] = {
        {"\"model_type\": \"llama\"", "\"model_type\": \"llamma\"", "llamma"},
        {"\"model_type\": \"llama\"", "\"model_type\": 7", "model_type"},
        {"\"model_type\": \"llama\",", "", "model_type"},
        {"\"hidden_size\": 64", "\"hidden_size\": 0", "hidden_size"},
        {"\"hidden_size\": 64", "\"hidden_size\": -64", "hidden_size"},
        {"\"hidden_size\": 64", "\"hidden_size\": 1e300", "hidden_size"},
        {"\"hidden_size\": 64", "\"hidden_size\": 9223372036854775807", "hidden_size"},
        {"\"hidden_size\": 64", "\"hidden_size\": 99999999999999999999999999", ""},
        {"\"hidden_size\": 64", "\"hidden_size\": \"64\"", "hidden_size"},
        {"\"hidden_size\": 64", "\"hidden_size\": [64]", "hidden_size"},
        {"\"hidden_size\": 64", "\"hidden_size\": 128", "misshapen"},
        {"\"hidden_size\": 64", "\"hidden_size\": 64, \"hidden_size\": 64", ""},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "layers.2"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1", "unknown"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1000000000", "num_hidden_layers"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "num_attention_heads"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 5", ""},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "multiple"},
        {"\"vocab_size\": 128", "\"vocab_size\": 129", "misshapen"},
        {"\"intermediate_size\": 96", "\"intermediate_size\": 97", "misshapen"},
        {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1", "rms_norm_eps"},
        {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": null", ""},
        {"\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "gelu"},
        {"\"rope_type\": \"llama3\"", "\"rope_type\": \"magic\"", "magic"},
        {"\"factor\": 8.0", "\"factor\": 0", "factor"},
        {"\"max_position_embeddings\": 256", "\"max_position_embeddings\": 0", "max_position_embeddings"},
        {"\"tie_word_embeddings\": false", "\"tie_word_embeddings\": 3", "tie_word_embeddings"},
        {"{", "{{", ""},
        {"{", "", ""},
    };

    for (int i = 0; i < HD_LEN(bad); i++) {
        fresh(bad[i].from, bad[i].to);
        if (!strcmp(bad[i].to, "\"rms_norm_eps\": null"))
            try_open(dir);                     /* null counts as absent: either answer will do */
        else
            refused(dir, bad[i].says, bad[i].to);
    }
    fresh(NULL, NULL);
    assert_ok(try_open(dir));
    clear_dir();
    refused(dir, "config.json", "empty directory");
    put("config.json", "", 0);
    refused(dir, "config.json", "empty config");
    put("config.json", "{\"model_type\": \"llama\xff\"}", 24);
    refused(dir, "", "malformed UTF-8");
    {
        size_t n = (size_t)4 << 20;
        char *deep = hd_malloc(n);

        memset(deep, '[', n);
        put("config.json", deep, n);
        refused(dir, "config.json", "deep JSON");
        hd_free(deep);
    }
}

/* A safetensors file from a header text and n zero bytes of data. */
static void put_header(const char *header, uint64_t claimed, size_t n_data)
{
    size_t n = strlen(header);
    char *file = hd_calloc(1, 8 + n + n_data);

    for (int i = 0; i < 8; i++)
        file[i] = (char)((claimed ? claimed : n) >> 8 * i);
    memcpy(file + 8, header, n);
    put("model.safetensors", file, 8 + n + n_data);
    hd_free(file);
}

static void test_safetensors(void **state)
{
    static const struct {
        const char *header;
        uint64_t claimed;
        size_t n_data;
        const char *says;
    } bad[] = {
        {"{}", (uint64_t)1 << 63, 0, "header"},
        {"{}", UINT64_MAX, 0, "header"},
        {"{}", 3, 0, "header"},
        {"", 0, 0, ""},
        {"[]", 0, 0, "header"},
        {"{\"a\": 5}", 0, 0, "a"},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 4]}}", 0, 4, "8"},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}}", 0, 4, "data"},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 0, 8, "cover"},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 8]}}", 0, 8, "begins"},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [2], \"data_offsets\": [0, 8]}, \"b\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 8]}}", 0, 8, "begins"},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [8, 4]}}", 0, 8, ""},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [-1], \"data_offsets\": [0, 4]}}", 0, 4, ""},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [4294967296, 4294967296], \"data_offsets\": [0, 4]}}", 0, 4, "overflow"},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [9223372036854775808], \"data_offsets\": [0, 4]}}", 0, 4, ""},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 1e3]}}", 0, 4, ""},
        {"{\"a\": {\"dtype\": \"F33\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 0, 4, "F33"},
        {"{\"a\": {\"shape\": [1], \"data_offsets\": [0, 4]}}", 0, 4, ""},
        {"{\"a\": {\"dtype\": \"F32\", \"data_offsets\": [0, 4]}}", 0, 4, ""},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1]}}", 0, 4, ""},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0]}}", 0, 4, ""},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}, \"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [4, 8]}}", 0, 8, "twice"},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}", 0, 4, ""},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}} x", 0, 4, ""},
        {"{\"a\\u0000b\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 0, 4, ""},
        {"{\"\xff\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 0, 4, ""},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1], \"data_offsets\": [0, 4]}}", 0, 4, ""},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}}", 0, 4, "missing"},
    };

    fresh(NULL, NULL);
    for (int i = 0; i < HD_LEN(bad); i++) {
        put_header(bad[i].header, bad[i].claimed, bad[i].n_data);
        refused(dir, bad[i].says, bad[i].header);
    }
    put("model.safetensors", "", 0);
    refused(dir, "8", "empty file");
    put("model.safetensors", "1234567", 7);
    refused(dir, "8", "seven bytes");
    {
        size_t n = (size_t)2 << 20;
        char *deep = hd_malloc(n + 1);

        memset(deep, '{', n);
        for (size_t i = 0; i + 5 < n; i += 5)
            memcpy(deep + i, "{\"a\":", 5);
        deep[n] = 0;
        put_header(deep, 0, 0);
        refused(dir, "", "deep header");
        hd_free(deep);
    }
    /* cut anywhere, the file is refused */
    fresh(NULL, NULL);
    {
        char path[512];
        size_t n;
        char *w;

        snprintf(path, sizeof path, "%s/model.safetensors", dir);
        w = slurp(path, &n);
        for (size_t cut = 0; cut < n; cut += n / 60 + 1) {
            put("model.safetensors", w, cut);
            refused(dir, "", "truncated");
        }
        hd_free(w);
    }
}

static void test_index(void **state)
{
    static const struct {
        const char *index, *says;
    } bad[] = {
        {"{}", "weight_map"},
        {"{\"weight_map\": {}}", "weight_map"},
        {"{\"weight_map\": []}", "weight_map"},
        {"{\"weight_map\": {\"a\": 5}}", "a"},
        {"{\"weight_map\": {\"a\": \"../model.safetensors\"}}", "inside the directory"},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "inside the directory"},
        {"{\"weight_map\": {\"a\": \"..\"}}", "inside the directory"},
        {"{\"weight_map\": {\"a\": \"\"}}", "inside the directory"},
        {"{\"weight_map\": {\"a\": \"x\\u0000y\"}}", ""},
        {"{\"weight_map\": {\"a\": \"missing.safetensors\"}}", "missing.safetensors"},
        {"{\"weight_map\": {\"nobody\": \"model.safetensors\"}}", "nobody"},
        {"{\"weight_map\": {\"a\": \"config.json\"}}", "config.json"},
        {"nonsense", "index"},
    };

    fresh(NULL, NULL);
    for (int i = 0; i < HD_LEN(bad); i++) {
        put("model.safetensors.index.json", bad[i].index, strlen(bad[i].index));
        refused(dir, bad[i].says, bad[i].index);
    }
}

static void test_not_files(void **state)
{
    char path[600], target[PATH_MAX];

    fresh(NULL, NULL);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    refused(dir, "model.safetensors", "a pipe");
    unlink(path);
    assert_int_equal(symlink("/dev/zero", path), 0);
    refused(dir, "model.safetensors", "a device");
    unlink(path);
    assert_int_equal(symlink("model.safetensors", path), 0);
    refused(dir, "model.safetensors", "a loop");
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    refused(dir, "model.safetensors", "a directory");
    rmdir(path);
    /* download caches link checkpoint files: that is fine */
    assert_non_null(realpath("tests/golden/llama-a/model.safetensors", target));
    assert_int_equal(symlink(target, path), 0);
    assert_ok(try_open(dir));
    unlink(path);
    refused("/dev/null", "", "a device as MODEL");
    refused("/nonexistent/model", "/nonexistent/model", "nothing");
}

/* Weights that do not fit their description. */
static void test_weights(void **state)
{
    size_t n;
    char *w = slurp("tests/golden/llama-a/model.safetensors", &n), *at;

    fresh(NULL, NULL);
    at = memmem(w, n, "\"F32\"", 5);
    memcpy(at, "\"I32\"", 5);
    put("model.safetensors", w, n);
    refused(dir, "I32", "an integer matrix");
    memcpy(at, "\"F32\"", 5);
    at = memmem(w, n, "model.norm.weight", 17);
    at[0] = 'M';
    put("model.safetensors", w, n);
    refused(dir, "Model.norm.weight", "a misnamed tensor");
    refused(dir, "model.norm.weight", "a misnamed tensor");
    hd_free(w);
    /* a norm that is not a number */
    fresh(NULL, NULL);
    w = slurp("tests/golden/llama-a/model.safetensors", &n);
    {
        struct hd_store st;
        const struct hd_entry *e;

        open_tensors(&st, "tests/golden/llama-a/model.safetensors");
        e = get_tensor(&st, "model.norm.weight");
        memset(w + ((const char *)e->data - (const char *)st.files[0].data) + 8, 0xFF, 4);
        hd_store_close(&st);
    }
    put("model.safetensors", w, n);
    refused(dir, "model.norm.weight", "NaN in a norm");
    hd_free(w);
}

/* Damage at random places: any answer but a crash. Damaged weights may load; then they must also run. */
static void damage(const char *source, const char *name, bool tokenizer)
{
    size_t n, span;
    char *w = slurp(source, &n), *copy = hd_malloc(n);
    struct hd_rng rng;
    char path[600];

    hd_rng_seed(&rng, 99);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    for (int k = 0; k < 300; k++) {
        int hits = 1 + (int)(hd_rng_next(&rng) % 4);

        memcpy(copy, w, n);
        span = k % 3 && n > 4096 ? 4096 : n;          /* mostly the header */
        for (int h = 0; h < hits; h++)
            copy[hd_rng_next(&rng) % span] = k % 2 ? (char)hd_rng_next(&rng) : "0123456789-,:[]{}\"\\ \x7f\xff"[hd_rng_next(&rng) % 21];
        put(name, copy, k % 5 ? n : hd_rng_next(&rng) % n);
        if (tokenizer) {
            struct hd_tokenizer *t;

            if (hd_model_tokenizer(&t, strstr(name, ".gguf") ? path : dir, &test_err) == HD_OK)
                hd_tokenizer_free(t);
        } else {
            try_open(strstr(name, ".gguf") ? path : dir);
        }
    }
    hd_free(copy);
    hd_free(w);
}

static void test_damage(void **state)
{
    fresh(NULL, NULL);
    damage("tests/golden/llama-a/model.safetensors", "model.safetensors", false);
    fresh(NULL, NULL);
    damage("tests/golden/llama-a/config.json", "config.json", false);
    damage("tests/golden/gguf-legacy/model.gguf", "m.gguf", false);
    damage("tests/golden/gguf-v32-a/model.gguf", "m.gguf", false);
    damage("tests/golden/gguf-v4-mx/model.gguf", "m.gguf", false);
    damage("tests/golden/gguf-qwen2/model.gguf", "m.gguf", true);
    damage("tests/golden/tokenizer/llama3/tokenizer.json", "tokenizer.json", true);
}

/* GGUF fields, one by one. */
static void test_gguf(void **state)
{
    static const struct {
        size_t at;
        uint64_t value;
        int bytes;
        const char *says;
    } bad[] = {{0, 0x47475546, 4, ""},       {4, 1, 4, "version"},         {4, 4, 4, "version"},        {4, 0x03000000, 4, "big-endian"},
               {8, 1ull << 62, 8, "tensors"}, {8, UINT64_MAX, 8, "tensors"}, {16, 1ull << 62, 8, "keys"}, {16, UINT64_MAX, 8, "keys"},
               {24, 1ull << 63, 8, ""},       {24, 0, 8, ""},                {8, 0, 8, ""},              {16, 1, 8, ""}};
    size_t n;
    char *w = slurp("tests/golden/gguf-legacy/model.gguf", &n), *copy = hd_malloc(n), path[600];

    clear_dir();
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    for (int i = 0; i < HD_LEN(bad); i++) {
        memcpy(copy, w, n);
        memcpy(copy + bad[i].at, &bad[i].value, (size_t)bad[i].bytes);
        put("m.gguf", copy, n);
        refused(path, bad[i].says, "GGUF field");
    }
    for (size_t cut = 0; cut < n; cut += n / 80 + 1) {
        put("m.gguf", w, cut);
        refused(path, "", "truncated GGUF");
    }
    hd_free(copy);
    hd_free(w);
}

/* DeepSeek files whose metadata or tensors lie, are gone or contradict each other. */
static void test_gguf_deepseek(void **state)
{
    /* VALUE: a number; ELEM: the first of a list; DIM0, DIM1: of a tensor, innermost first; GONE: the name's last letter changes */
    enum { VALUE = 4, ELEM = 16, DIM0 = 4, DIM1 = 12, GONE = -1 };
    static const struct {
        const char *model, *name;
        int at, bytes;
        uint64_t value;
        const char *says;
    } bad[] = {
        {"v3-a", "deepseek2.attention.kv_lora_rank", GONE, 1, 'x', "deepseek2.attention.kv_lora_rank: found nothing"},
        {"v3-a", "deepseek2.attention.kv_lora_rank", VALUE, 4, 33, "deepseek2.attention.key_length: found 48; expected 49"},
        {"v3-a", "deepseek2.attention.kv_lora_rank", VALUE, 4, 5000, "kv_lora_rank: found 5000"},
        {"v3-a", "deepseek2.attention.key_length_mla", VALUE, 4, 16, "key_length_mla: found 16; expected more than"},
        {"v3-a", "deepseek2.attention.key_length_mla", VALUE, 4, 41, "misshapen"},
        {"v3-a", "deepseek2.attention.value_length_mla", VALUE, 4, 0, "value_length_mla: found 0"},
        {"v3-a", "deepseek2.embedding_length", VALUE, 4, 65, "misshapen"},
        {"v3-a", "deepseek2.block_count", VALUE, 4, 4, "blk.3."},
        {"v3-a", "deepseek2.block_count", VALUE, 4, 2, "unknown: blk.2."},
        {"v3-a", "deepseek2.block_count", VALUE, 4, 0xFFFFFFFF, "block_count: found"},
        {"v3-k", "deepseek2.nextn_predict_layers", VALUE, 4, 2, "nextn_predict_layers: found 2"},
        {"v3-k", "deepseek2.nextn_predict_layers", VALUE, 4, 0, "blk.1."},
        {"v3-a", "deepseek2.leading_dense_block_count", VALUE, 4, 2, "blk.1.ffn_"},
        {"v3-a", "deepseek2.expert_count", VALUE, 4, 12, "misshapen: blk.1."},
        {"v3-a", "deepseek2.expert_used_count", VALUE, 4, 9, "deepseek2.expert_used_count: found 9"},
        {"v3-a", "deepseek2.expert_group_count", VALUE, 4, 3, "deepseek2.expert_used_count"},
        {"v3-a", "deepseek2.expert_gating_func", VALUE, 4, 4, "expert_gating_func: found 4; expected 1 (softmax) or 2 (sigmoid)"},
        {"v3-a", "deepseek2.expert_gating_func", VALUE, 4, 1, "deepseek2.expert_weights_norm"},
        {"v3-a", "deepseek2.rope.scaling.factor", VALUE, 4, 0x7FC00000, "rope.scaling.factor"},
        {"v3-a", "deepseek2.rope.scaling.factor", GONE, 1, 'x', "rope.scaling.factor: found nothing"},
        {"v3-a", "blk.1.ffn_gate_exps.weight", DIM0, 4, 40, "misshapen: blk.1.ffn_gate_exps.weight: found [8, 40, 40]"},
        {"v3-a", "blk.0.attn_k_b.weight", DIM1, 4, 8, "misshapen: blk.0.attn_k_b.weight: found [4, 8, 24]"},
        {"v3-a", "blk.0.attn_v_b.weight", GONE, 1, 'x', "missing: blk.0.attn_v_b.weight"},
        {"v3-a", "blk.1.exp_probs_b.bias", GONE, 1, 'x', "missing: blk.1.exp_probs_b.bias"},
        {"v32-a", "deepseek32.attention.indexer.top_k", GONE, 1, 'x', "deepseek32.attention.indexer.top_k"},
        {"v32-a", "deepseek32.attention.q_lora_rank", GONE, 1, 'x', "deepseek32.attention.q_lora_rank"},
        {"v32-a", "deepseek32.expert_gating_func", VALUE, 4, 1, "expected 2 (sigmoid)"},
        {"v4-mx", "deepseek4.hyper_connection.count", GONE, 1, 'x', "deepseek4.hyper_connection.count"},
        {"v4-mx", "deepseek4.hyper_connection.count", VALUE, 4, 3, "misshapen"},
        {"v4-mx", "deepseek4.attention.value_length", VALUE, 4, 31, "value_length: found 31; expected 32"},
        {"v4-mx", "deepseek4.attention.compress_ratios", ELEM, 4, 5, "deepseek4.attention.compress_ratios: found 5 for layer 0"},
        {"v4-mx", "deepseek4.attention.compress_ratios", ELEM, 4, 4, "missing: blk.0.attn_compressor"},
        {"v4-mx", "deepseek4.attention.compress_ratios", ELEM, 4, 0xFFFFFFFF, "compress_ratios"},
        {"v4-mx", "deepseek4.swiglu_clamp_shexp", ELEM, 4, 0x40400000, "swiglu_clamp_shexp: found 3 and 2"},
        {"v4-mx", "deepseek4.attention.output_group_count", VALUE, 4, 3, "deepseek4.attention.output_group_count: found 3"},
        {"v4-mx", "deepseek4.hash_layer_count", VALUE, 4, 9, "deepseek4.hash_layer_count"},
        {"v4-mx", "deepseek4.hash_layer_count", VALUE, 4, 2, "missing: blk.1.ffn_gate_tid2eid.weight"},
        {"v4-mx", "output_hc_fn.weight", GONE, 1, 'x', "missing: output_hc_fn.weight"},
    };
    char path[600], file[200];

    clear_dir();
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    for (int i = 0; i < HD_LEN(bad); i++) {
        size_t n;
        char *w, *at;

        snprintf(file, sizeof file, "tests/golden/gguf-%s/model.gguf", bad[i].model);
        w = slurp(file, &n);
        if (!(at = memmem(w, n, bad[i].name, strlen(bad[i].name))))
            fail_msg("%s does not have %s", file, bad[i].name);
        memcpy(at + (int)strlen(bad[i].name) + bad[i].at, &bad[i].value, (size_t)bad[i].bytes);
        put("m.gguf", w, n);
        refused(path, bad[i].says, bad[i].name);
        hd_free(w);
    }
}

/* Files of V3 from before the keys of expert groups: the model's groups count. */
static void test_gguf_groups(void **state)
{
    static const struct {
        const char *name;
        int at;
        uint32_t value;
    } edit[] = {{"deepseek2.block_count", 4, 61},
                {"deepseek2.expert_count", 4, 256},
                {"deepseek2.expert_group_count", -4, 0x78787878},
                {"deepseek2.expert_group_used_count", -4, 0x78787878}};
    struct hd_store st;
    char path[600], *w, *at;
    size_t n;

    clear_dir();
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    w = slurp("tests/golden/gguf-v3-a/model.gguf", &n);
    for (int i = 0; i < HD_LEN(edit); i++) {
        assert_non_null(at = memmem(w, n, edit[i].name, strlen(edit[i].name)));
        memcpy(at + (int)strlen(edit[i].name) + edit[i].at, &edit[i].value, 4);
    }
    put("m.gguf", w, n);
    assert_ok(hd_store_open(&st, path, 0, &test_err));
    assert_ok(hd_gguf_deepseek_config(&st, &test_err));
    assert_int_equal(json_integer_value(json_object_get(st.config, "n_group")), 8);
    assert_int_equal(json_integer_value(json_object_get(st.config, "topk_group")), 4);
    hd_store_close(&st);
    hd_free(w);
}

/* A GGUF model in parts that are gone, or not what they say. */
static void test_gguf_parts(void **state)
{
    size_t n[2];
    char *w[2], *at, path[600];

    clear_dir();
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "tests/golden/gguf-v4-f32-mini/model-0000%d-of-00002.gguf", i + 1);
        w[i] = slurp(path, &n[i]);
    }
    put("m-00002-of-00002.gguf", w[1], n[1]);
    snprintf(path, sizeof path, "%s/m-00002-of-00002.gguf", dir);
    refused(path, "is part 2 of 2", "the second part");
    put("m.gguf", w[0], n[0]);
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    refused(path, "-00001-of-00002.gguf", "a renamed part");
    put("m-00001-of-00002.gguf", w[0], n[0]);
    snprintf(path, sizeof path, "%s/m-00001-of-00002.gguf", dir);
    assert_ok(try_open(path));
    put("m-00002-of-00002.gguf", w[0], n[0]);
    refused(path, "m-00002-of-00002.gguf: tensor", "the first part twice");
    assert_non_null(at = memmem(w[1], n[1], "split.no", 8));
    at[12] = 0;
    put("m-00002-of-00002.gguf", w[1], n[1]);
    refused(path, "split.no: found 0", "a part that says it is the first");
    at[12] = 1;
    assert_non_null(at = memmem(w[0], n[0], "split.tensors.count", 19));
    at[23]++;
    put("m-00001-of-00002.gguf", w[0], n[0]);
    put("m-00002-of-00002.gguf", w[1], n[1]);
    refused(path, "split.tensors.count", "another number of tensors");
    snprintf(path, sizeof path, "%s/m-00002-of-00002.gguf", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/m-00001-of-00002.gguf", dir);
    refused(path, "m-00002-of-00002.gguf", "a missing part");
    hd_free(w[0]);
    hd_free(w[1]);
}

/* A hash table that names an expert that is not there. */
static void test_gguf_table(void **state)
{
    struct hd_store st;
    const struct hd_entry *e;
    char path[600], *w;
    int32_t expert = 6;
    size_t n;

    clear_dir();
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    w = slurp("tests/golden/gguf-v4-mx/model.gguf", &n);
    assert_ok(hd_store_open(&st, "tests/golden/gguf-v4-mx/model.gguf", 0, &test_err));
    assert_non_null(e = hd_store_find(&st, "blk.0.ffn_gate_tid2eid.weight"));
    memcpy(w + ((const char *)e->data - (const char *)st.files[0].data) + 20, &expert, sizeof expert);
    hd_store_close(&st);
    put("m.gguf", w, n);
    refused(path, "blk.0.ffn_gate_tid2eid.weight: found expert 6 for token 2; expected 0 to 5", "a hash table");
    hd_free(w);
}

/* A model that could never fit: the plan says no before anything is read or allocated. */
static void test_memory(void **state)
{
    struct hd_engine_options o = {.n_thread = 1, .kv = HD_KV_F32, .n_ctx = (int64_t)1 << 40};
    struct hd_engine e;

    assert_int_equal(hd_engine_open(&e, "tests/golden/llama-a", &o, &test_err), HD_ERR_MEMORY);
    assert_non_null(strstr(test_err.msg, "not enough memory"));
    assert_non_null(strstr(test_err.msg, "cache"));
}

static void test_requests(void **state)
{
    struct hd_engine_options o = {.n_thread = 1, .kv = HD_KV_F32, .n_ctx = 64};
    struct hd_engine e;
    struct hd_session s;
    int32_t ids[300] = {0};
    const float *lg;

    assert_ok(hd_engine_open(&e, "tests/golden/llama-a", &o, &test_err));
    assert_ok(hd_session_open(&s, &e, &test_err));
    ids[5] = 128;
    assert_true(hd_session_feed(&s, ids, 10, NULL, NULL, &lg, &test_err) < 0);
    assert_non_null(strstr(test_err.msg, "128"));
    ids[5] = -1;
    assert_true(hd_session_feed(&s, ids, 10, NULL, NULL, &lg, &test_err) < 0);
    ids[5] = 0;
    assert_int_equal(s.n, 0);
    assert_true(hd_session_feed(&s, ids, 200, NULL, NULL, &lg, &test_err) < 0);
    assert_ok(hd_session_rewind(&s, 0, &test_err));
    assert_ok(hd_session_feed(&s, ids, 64, NULL, NULL, &lg, &test_err));
    assert_int_equal(s.n, 64);
    assert_true(hd_session_rewind(&s, 65, &test_err) < 0);
    hd_session_close(&s);
    hd_engine_close(&e);
}

/* ---- configs of every DeepSeek family ---- */

static const char *family_dir;        /* where links to a golden's weights lie */

static void link_family(const char *golden)
{
    char from[900], to[700], here[500];
    DIR *d = opendir(golden);

    assert_non_null(getcwd(here, sizeof here));
    family_dir = tmp_path("family");
    mkdir(family_dir, 0755);
    for (struct dirent *de; d && (de = readdir(d));) {
        if (!strstr(de->d_name, ".safetensors") && strcmp(de->d_name, "tokenizer.json"))
            continue;
        snprintf(from, sizeof from, "%s/%s/%.200s", here, golden, de->d_name);
        snprintf(to, sizeof to, "%s/%.200s", family_dir, de->d_name);
        unlink(to);
        assert_int_equal(symlink(from, to), 0);
    }
    closedir(d);
}

static void unlink_family(void)
{
    DIR *d = opendir(family_dir);
    char path[900];

    for (struct dirent *de; d && (de = readdir(d));) {
        snprintf(path, sizeof path, "%s/%.200s", family_dir, de->d_name);
        unlink(path);
    }
    closedir(d);
    rmdir(family_dir);
}

/* Loads with that config, and runs it dry where it was taken: nothing may abort, and a refusal is one line. */
static int load_with(const json_t *config)
{
    struct hd_engine_options o = {.n_thread = 1, .n_ctx = 64, .chunk = 16};
    char path[700], *text = json_dumps(config, 0);
    struct hd_model m;
    struct hd_plan p;
    int rc;

    snprintf(path, sizeof path, "%s/config.json", family_dir);
    write_file(path, text, strlen(text));
    free(text);
    test_err = (struct hd_err){0};
    rc = hd_model_open(&m, family_dir, HD_KV_AUTO, 0, &test_err);
    if (rc == HD_OK) {
        rc = hd_engine_plan(&m, &o, 2, &p, &test_err);
        hd_model_close(&m);
    }
    assert_true(rc == HD_OK || test_err.msg[0]);
    assert_null(strchr(test_err.msg, '\n'));
    return rc;
}

/* Every field of o, one at a time, as everything it should not be. */
static int damage_fields(json_t *root, json_t *o)
{
    static const char *const values[] = {"0", "-1", "1", "2", "3", "7", "1000000", "4611686018427387904", "1e300", "0.5", "true", "null", "\"x\"", "[]", "[0]", "[1,2,3]", "{}", "{\"type\": 1}"};
    json_t *copy = json_copy(o), *was;
    const char *key;
    int n = 0;

    json_object_foreach(copy, key, was)
    {
        for (int i = 0; i < HD_LEN(values); i++) {
            json_object_set_new(o, key, json_loads(values[i], JSON_DECODE_ANY, NULL));
            load_with(root);
            n++;
        }
        json_object_del(o, key);
        load_with(root);
        json_object_set(o, key, was);
        if (json_is_object(was))
            n += damage_fields(root, json_object_get(o, key));
    }
    json_decref(copy);
    return n;
}

static const char *const families[] = {"v2-yarn", "v3-fp8", "v32-b", "v4-f32-mini", "v4-hf-c", "v4-official-mini", "v41-f32-mini", "hadal-a", "hadal-b", "hadal-d"};

static void test_family_fields(void **state)
{
    int n = 0;

    for (int i = 0; i < HD_LEN(families); i++) {
        char golden[200], path[300];
        json_t *c;

        snprintf(golden, sizeof golden, "tests/golden/%s", families[i]);
        snprintf(path, sizeof path, "%s/config.json", golden);
        link_family(golden);
        assert_non_null(c = hd_json_read(path, 1 << 20, &test_err));
        assert_ok(load_with(c));
        n += damage_fields(c, c);
        assert_ok(load_with(c));
        json_decref(c);
        unlink_family();
    }
    print_message("# %d damaged configs\n", n);
}

/* Contradictions are named by the field. */
static void test_family_contradictions(void **state)
{
    static const struct {
        const char *golden, *key, *value, *says;
    } bad[] = {
        {"v2-yarn", "kv_lora_rank", "0", "kv_lora_rank"},
        {"v2-yarn", "topk_method", "\"noaux\"", "topk_method"},
        {"v2-yarn", "num_experts_per_tok", "9", "num_experts_per_tok"},
        {"v2-yarn", "n_group", "3", "8 experts in 3 groups"},
        {"v2-yarn", "qk_rope_head_dim", "15", "qk_rope_head_dim"},
        {"v3-a", "num_experts_per_tok", "5", "num_experts_per_tok"},
        {"v3-a", "first_k_dense_replace", "2", "missing"},
        {"v3-a", "num_hidden_layers", "4", "layers.3"},
        {"v3-a", "q_lora_rank", "null", "missing"},
        {"v32-a", "index_n_heads", "0", "index_n_heads"},
        {"v32-a", "index_topk", "0", "index_topk"},
        {"v32-a", "index_head_dim", "8", "index_head_dim"},
        {"v4-f32-a", "compress_ratios", "[0, 4, 128]", "compress_ratios"},
        {"v4-f32-a", "compress_ratios", "[0, 4, 64, 4, 0]", "compress_ratios"},
        {"v4-f32-a", "num_hash_layers", "9", "num_hash_layers"},
        {"v4-f32-a", "o_groups", "3", "o_groups"},
        {"v4-f32-a", "hc_mult", "9", "hc_mult"},
        {"v4-f32-a", "num_experts_per_tok", "8", "num_experts_per_tok"},
        {"v4-f32-a", "qk_rope_head_dim", "1000", "qk_rope_head_dim"},
        {"v4-f32-a", "scoring_func", "\"tanh\"", "scoring_func"},
        {"v4-f32-a", "sliding_window", "0", "sliding_window"},
        {"v4-f32-a", "hc_sinkhorn_iters", "0", "hc_sinkhorn_iters"},
        {"v41-f32-a", "kv_source_layer_ids", "[3, 1, 4]", "kv_source_layer_ids"},
        {"v41-f32-a", "kv_source_layer_ids", "[1, 3]", "layer 4"},
        {"v41-f32-a", "kv_source_layer_ids", "[0, 1, 3, 4]", "layer 0"},
        {"v41-f32-a", "index_source_layer_ids", "[3, 4, 6]", "layer 1"},
        {"v41-f32-a", "index_source_layer_ids", "[1, 3, 4, 99]", "index_source_layer_ids"},
        {"v41-f32-a", "candidate_source_layer_id", "7", "candidate_source_layer_id"},
        {"v41-f32-a", "candidate_source_layer_id", "5", "candidate_source_layer_id"},
        {"v41-f32-a", "compress_ratios", "[0, 2, 2, 2, 1, 1]", "compress_ratios"},
        {"v41-f32-a", "compress_ratios", "[0, 2, 3, 2, 1, 1, 1]", "layer 2"},
        {"v41-f32-a", "engram_num_embeddings", "[304, 463]", "engram_num_embeddings"},
        {"v41-f32-a", "engram_num_embeddings", "[304]", "engram_num_embeddings"},
        {"v41-f32-a", "engram_vocab_size", "44", "engram_num_embeddings"},
        {"v41-f32-a", "engram_layer_ids", "[4, 1]", "engram_layer_ids"},
        {"v41-f32-a", "engram_layer_ids", "[1, 7]", "engram_layer_ids"},
        {"v41-f32-a", "engram_n_heads", "3", "engram_num_embeddings"},
        {"v41-f32-a", "engram_pad_token_id", "304", "engram_pad_token_id"},
        {"v41-f32-a", "num_experts_per_tok", "8", "num_experts_per_tok"},
        {"hadal-a", "attention_type", "\"linear\"", "attention_type"},
        {"hadal-a", "residual_type", "\"mhc\"", "residual_type"},
        {"hadal-a", "engram_type", "\"big\"", "engram_type"},
        {"hadal-a", "engram_vocab_size", "[40]", "engram_vocab_size"},
        {"hadal-a", "engram_kernel_size", "5", "misshapen"},
        {"hadal-b", "num_key_value_heads", "4", "num_key_value_heads"},
        {"hadal-b", "hc_mult", "4", "misshapen"},
        {"hadal-d", "scoring_func", "\"relu\"", "scoring_func"},
    };

    for (int i = 0; i < HD_LEN(bad); i++) {
        char golden[200], path[300], what[300];
        json_t *c, *t;

        snprintf(golden, sizeof golden, "tests/golden/%s", bad[i].golden);
        snprintf(path, sizeof path, "%s/config.json", golden);
        snprintf(what, sizeof what, "%s with %s %s", bad[i].golden, bad[i].key, bad[i].value);
        link_family(golden);
        assert_non_null(c = hd_json_read(path, 1 << 20, &test_err));
        t = json_object_get(c, "text_config");
        json_object_set_new(t ? t : c, bad[i].key, json_loads(bad[i].value, JSON_DECODE_ANY, NULL));
        if (load_with(c) >= 0)
            fail_msg("%s: was taken", what);
        if (!strstr(test_err.msg, bad[i].says))
            fail_msg("%s: \"%s\" does not say \"%s\"", what, test_err.msg, bad[i].says);
        json_decref(c);
        unlink_family();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_family_contradictions), cmocka_unit_test(test_family_fields),
                                       cmocka_unit_test(test_config),  cmocka_unit_test(test_safetensors), cmocka_unit_test(test_index),
                                       cmocka_unit_test(test_not_files), cmocka_unit_test(test_weights),   cmocka_unit_test(test_gguf),
                                       cmocka_unit_test(test_damage),  cmocka_unit_test(test_memory),      cmocka_unit_test(test_requests),
                                       cmocka_unit_test(test_gguf_deepseek), cmocka_unit_test(test_gguf_table),
                                       cmocka_unit_test(test_gguf_groups),   cmocka_unit_test(test_gguf_parts)};

    return cmocka_run_group_tests_name("hostile", tests, NULL, NULL);
}
