/* tokenizer_open.c: a checkpoint's tokenizer: tokenizer.json and the files beside it, or the arrays that a GGUF file holds. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "token/vocab.h"

#define JSON_MAX ((size_t)256 << 20)

/* ---- a directory ---- */

/* A token named in tokenizer_config.json: a string or {"content": ...}. */
static int32_t named_token(const struct hd_tokenizer *t, const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    const char *s = json_is_object(v) ? json_string_value(json_object_get(v, "content")) : json_string_value(v);
    int32_t id = s ? hd_tokenizer_find(t, s) : -1;

    return s && id < 0 ? hd_piece_find(t, s, strlen(s)) : id;
}

static void end_ids(struct hd_tokenizer *t, const json_t *config)
{
    const json_t *v = json_object_get(config, "eos_token_id"), *e;
    size_t i;

    if (json_is_integer(v))
        hd_vocab_add_end(t, json_integer_value(v));
    json_array_foreach((json_t *)v, i, e) if (json_is_integer(e)) hd_vocab_add_end(t, json_integer_value(e));
    if (t->bos < 0 && json_is_integer(json_object_get(config, "bos_token_id"))) {
        int64_t id = json_integer_value(json_object_get(config, "bos_token_id"));

        if (id >= 0 && id < t->n_piece)
            t->bos = (int32_t)id;
    }
}

/* The chat template: a string, or a list of named ones of which "default" counts. */
static bool read_template(struct hd_tokenizer *t, const json_t *config)
{
    const json_t *v = json_object_get(config, "chat_template"), *e;
    size_t i;

    json_array_foreach((json_t *)v, i, e)
    {
        const char *name = json_string_value(json_object_get(e, "name"));

        if (name && !strcmp(name, "default")) {
            v = json_object_get(e, "template");
            break;
        }
    }
    if (json_is_string(v))
        t->chat_template = hd_arena_strdup(&t->arena, json_string_value(v), json_string_length(v));
    return !json_is_string(v) || t->chat_template;
}

/* Reads DIR/name if it is there; NULL without an error if not. */
static int optional_json(const char *dir, const char *name, json_t **out, struct hd_err *err)
{
    char *path = hd_path_join(dir, name);
    int rc = HD_OK;

    *out = NULL;
    if (!path)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", name);
    if (hd_file_exists(path) && !(*out = hd_json_read(path, (size_t)16 << 20, err)))
        rc = err ? err->code : HD_ERR_FORMAT;
    hd_free(path);
    return rc;
}

/* Which encoding a model without a template speaks. */
static void read_kind(struct hd_tokenizer *t, const json_t *config)
{
    const char *type = json_string_value(json_object_get(config, "model_type"));

    if (type && strlen(type) < sizeof t->model_type)
        memcpy(t->model_type, type, strlen(type) + 1);
    t->ga = json_object_get(config, "dspark_block_size") != NULL;
}

/* A key of ours: whether the model reasons before it answers those who do not say. Of another type it is somebody else's. */
static int read_habit(struct hd_tokenizer *t, const json_t *generation, const char *dir, struct hd_err *err)
{
    const json_t *v = json_object_get(generation, "thinking");
    const char *s = json_is_boolean(v) ? (json_is_true(v) ? "on" : "off") : json_string_value(v);

    if (!s)
        return HD_OK;
    if (!hd_is_thinking_level(s))
        return hd_err_set(err, HD_ERR_FORMAT, "%s/generation_config.json: thinking: found \"%.40s\"; expected off, on, low, high or max", dir, s);
    memcpy(t->thinking, s, strlen(s) + 1);
    return HD_OK;
}

static int read_companions(struct hd_tokenizer *t, const char *dir, struct hd_err *err)
{
    static const char *const names[] = {"tokenizer_config.json", "generation_config.json", "config.json"};
    char *path, *text;
    size_t n;
    int rc;

    for (int i = 0; i < 3; i++) {
        json_t *j;
        bool ok = true;

        HD_TRY(optional_json(dir, names[i], &j, err));
        if (!j)
            continue;
        if (i == 0) {
            ok = read_template(t, j);
            t->bos = named_token(t, j, "bos_token");
            hd_vocab_add_end(t, named_token(t, j, "eos_token"));
        } else {
            end_ids(t, j);
            if (i == 2)
                read_kind(t, j);
            if (json_is_object(json_object_get(j, "text_config")))
                end_ids(t, json_object_get(j, "text_config"));
        }
        rc = i == 1 ? read_habit(t, j, dir, err) : HD_OK;
        json_decref(j);
        if (!ok)
            return hd_vocab_no_memory(names[i], err);
        HD_TRY(rc);
    }
    if (!(path = hd_path_join(dir, "chat_template.jinja")))
        return hd_vocab_no_memory(dir, err);
    if (hd_file_exists(path)) {
        rc = hd_file_read(path, (size_t)4 << 20, &text, &n, err);
        if (rc < 0) {
            hd_free(path);
            return rc;
        }
        t->chat_template = hd_arena_strdup(&t->arena, text, n);
        hd_free(text);
    }
    hd_free(path);
    return HD_OK;
}

int hd_tokenizer_open(struct hd_tokenizer **out, const char *dir, int64_t n_vocab, struct hd_err *err)
{
    char *path = hd_path_join(dir, "tokenizer.json"), *text;
    struct hd_tokenizer *t;
    size_t n;
    int rc;

    if (!path)
        return hd_vocab_no_memory(dir, err);
    rc = hd_file_read(path, JSON_MAX, &text, &n, err);
    if (rc == HD_OK) {
        rc = hd_tokenizer_parse(&t, text, n, path, n_vocab, err);
        hd_free(text);
    }
    hd_free(path);
    if (rc < 0)
        return rc;
    if ((rc = read_companions(t, dir, err)) < 0)
        hd_tokenizer_free(t);
    else
        *out = t;
    return rc;
}

/* ---- GGUF ---- */

static int fill_gguf(struct hd_tokenizer *t, const struct hd_vocab_source *src, struct hd_err *err)
{
    static const char ga_text[] = "Reasoning Effort: Beyond maximum";     /* in the template that converters add to V4 of July or later */
    struct hd_str buf;
    size_t n_added = 0;
    int rc = HD_OK;

    if (src->n_piece == 0 || src->n_piece > (size_t)HD_PIECES_MAX)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: tokenizer.ggml.tokens: found %zu; expected 1 to %lld", src->what, src->n_piece, (long long)HD_PIECES_MAX);
    HD_TRY(hd_pretoken_named(&t->pre, src->pre, src->what, err));
    HD_TRY(hd_vocab_alloc_pieces(t, (int64_t)src->n_piece, src->what, err));
    for (size_t i = 0; i < src->n_piece; i++) {
        size_t slot;

        n_added += src->type && (src->type[i] == 3 || src->type[i] == 4);
        if (!hd_vocab_raw_piece(t, src->piece[i].p, src->piece[i].n, &t->piece[i]))
            return hd_vocab_no_memory(src->what, err);
        slot = hd_piece_slot(t, t->piece[i].p, t->piece[i].n);
        if (!t->hash[slot])
            t->hash[slot] = (uint32_t)i + 1;
    }
    hd_vocab_find_bytes(t);
    t->added = hd_arena_zalloc(&t->arena, (n_added + 1) * sizeof *t->added);
    if (!t->added)
        return hd_vocab_no_memory(src->what, err);
    for (size_t i = 0; i < src->n_piece; i++)
        if (src->type && (src->type[i] == 3 || src->type[i] == 4) && src->piece[i].n)
            HD_TRY(hd_vocab_add_added(t, &(struct hd_added){.text = src->piece[i], .id = (int32_t)i, .special = src->type[i] == 3}, src->what, err));
    HD_TRY(hd_vocab_alloc_merges(t, src->n_merge, src->what, err));
    hd_str_init(&buf, (size_t)1 << 24);
    for (size_t i = 0; i < src->n_merge && rc == HD_OK; i++)
        rc = hd_vocab_add_merge_line(t, i, src->merge[i], &buf, src->what, err);
    hd_str_release(&buf);
    if (rc < 0)
        return rc;
    if (src->bos >= 0 && src->bos < t->n_piece)
        t->bos = (int32_t)src->bos;
    hd_vocab_add_end(t, src->eos);
    for (int i = 0; i < 3; i++) {     /* files whose eos is not what ends a turn */
        static const char *const turn_end[] = {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>"};

        hd_vocab_add_end(t, hd_tokenizer_find(t, turn_end[i]));
    }
    if (src->model_type) {
        snprintf(t->model_type, sizeof t->model_type, "%s", src->model_type);
        t->ga = src->chat_template.n && memmem(src->chat_template.p, src->chat_template.n, ga_text, sizeof ga_text - 1) != NULL;
    }
    if (!(t->chat_template = hd_arena_strdup(&t->arena, src->chat_template.p ? src->chat_template.p : "", src->chat_template.n)))
        return hd_vocab_no_memory(src->what, err);
    return HD_OK;
}

int hd_tokenizer_create(struct hd_tokenizer **out, const struct hd_vocab_source *src, struct hd_err *err)
{
    struct hd_tokenizer *t = hd_vocab_create();
    int rc = t ? fill_gguf(t, src, err) : hd_vocab_no_memory(src->what, err);

    if (rc < 0)
        hd_tokenizer_free(t);
    else
        *out = t;
    return rc;
}
