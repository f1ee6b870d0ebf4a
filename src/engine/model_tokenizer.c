/* model_tokenizer.c: see model_tokenizer.h. */
#include "engine/model_tokenizer.h"

#include "base/file.h"
#include "base/mem.h"
#include "weights/store.h"

static int from_gguf(struct hd_tokenizer **out, const struct hd_store *st, struct hd_err *err)
{
    const struct hd_gguf_kv *tokens = hd_gguf_find(st, "tokenizer.ggml.tokens"), *types = hd_gguf_find(st, "tokenizer.ggml.token_type"),
                            *merges = hd_gguf_find(st, "tokenizer.ggml.merges");
    struct hd_vocab_source src = {.bos = -1, .eos = -1, .what = st->path};
    const unsigned char *cur = NULL;
    struct hd_view model = {"", 0}, arch, *piece, *merge;
    uint64_t at = 0;
    int32_t *type = NULL;
    int rc;

    hd_gguf_str(st, "tokenizer.ggml.model", &model);
    if (!hd_view_is(model, "gpt2"))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: tokenizer.ggml.model: found \"%.*s\"; expected gpt2", st->path, (int)(model.n > 40 ? 40 : model.n), model.p);
    if (!tokens || tokens->type != HD_GGUF_ARR || tokens->elem != HD_GGUF_STR)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: tokenizer.ggml.tokens: expected a list of strings", st->path);
    if (!merges || merges->type != HD_GGUF_ARR || merges->elem != HD_GGUF_STR)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: tokenizer.ggml.merges: expected a list of strings", st->path);
    if (types && (types->type != HD_GGUF_ARR || types->elem == HD_GGUF_STR || types->n != tokens->n))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: tokenizer.ggml.token_type: expected %llu integers", st->path, (unsigned long long)tokens->n);
    src.n_piece = (size_t)tokens->n;
    src.n_merge = (size_t)merges->n;
    piece = hd_malloc(src.n_piece * sizeof *piece);
    merge = hd_malloc(src.n_merge * sizeof *merge);
    if (types)
        type = hd_malloc(src.n_piece * sizeof *type);
    if (!piece || !merge || (types && !type)) {
        rc = hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the vocabulary", st->path);
    } else {
        while (hd_gguf_next_str(tokens, &at, &cur, &piece[at])) {
        }
        at = 0;
        while (hd_gguf_next_str(merges, &at, &cur, &merge[at])) {
        }
        for (size_t i = 0; type && i < src.n_piece; i++)
            type[i] = (int32_t)hd_gguf_elem_int(types, i);
        src.piece = piece;
        src.merge = merge;
        src.type = type;
        if (!hd_gguf_str(st, "tokenizer.ggml.pre", &src.pre))
            src.pre = (struct hd_view){"gpt-2", 5};
        if (hd_view_is(src.pre, "default"))
            src.pre = (struct hd_view){"gpt-2", 5};
        hd_gguf_str(st, "tokenizer.chat_template", &src.chat_template);
        if (hd_gguf_str(st, "general.architecture", &arch) && hd_view_is(arch, "deepseek4"))
            src.model_type = "deepseek_v4";
        hd_gguf_int_or(st, "tokenizer.ggml.bos_token_id", -1, (int64_t)1 << 31, -1, &src.bos, NULL);
        hd_gguf_int_or(st, "tokenizer.ggml.eos_token_id", -1, (int64_t)1 << 31, -1, &src.eos, NULL);
        rc = hd_tokenizer_create(out, &src, err);
    }
    hd_free(piece);
    hd_free(merge);
    hd_free(type);
    return rc;
}

/* vocab_size of a config.json, in itself or in its text_config; 0 when absent. */
static int vocab_size(const char *dir, int64_t *n, struct hd_err *err)
{
    char *path = hd_path_join(dir, "config.json");
    const json_t *text;
    json_t *j;
    int rc;

    if (!path)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", dir);
    if (!(j = hd_json_read(path, (size_t)16 << 20, err))) {
        hd_free(path);
        return err->code;
    }
    text = json_object_get(j, "text_config");
    rc = hd_json_int_or(json_is_object(text) ? text : j, "vocab_size", 1, (int64_t)1 << 24, 0, n, path, err);
    json_decref(j);
    hd_free(path);
    return rc;
}

int hd_model_tokenizer(struct hd_tokenizer **out, const char *model, struct hd_err *err)
{
    struct hd_store st;
    int64_t n_vocab;
    int rc;

    if (hd_file_is_dir(model)) {
        HD_TRY(vocab_size(model, &n_vocab, err));
        return hd_tokenizer_open(out, model, n_vocab, err);
    }
    HD_TRY(hd_store_open(&st, model, HD_STORE_PLAN, err));
    rc = from_gguf(out, &st, err);
    hd_store_close(&st);
    return rc;
}
