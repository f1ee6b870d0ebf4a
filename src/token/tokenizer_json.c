/* tokenizer_json.c: tokenizer.json, as Hugging Face's tokenizers writes it. */
#include <string.h>
#include <utf8proc.h>

#include "base/json.h"
#include "base/mem.h"
#include "token/vocab.h"

static int read_normalizer(struct hd_tokenizer *t, const json_t *j, int depth, const char *what, struct hd_err *err)
{
    const char *type, *s;

    if (!j || json_is_null(j))
        return HD_OK;
    HD_TRY(hd_json_str_or(j, "type", "", &type, what, err));
    if (!strcmp(type, "Sequence") && depth < 4) {
        const json_t *e;
        size_t i;

        json_array_foreach(json_object_get(j, "normalizers"), i, e) HD_TRY(read_normalizer(t, e, depth + 1, what, err));
        return HD_OK;
    }
    if (!strcmp(type, "NFC")) {
        t->nfc = true;
        return HD_OK;
    }
    if (!strcmp(type, "Prepend")) {
        HD_TRY(hd_json_str_or(j, "prepend", "", &s, what, err));
        if (!strcmp(s, "\u2581")) {
            t->spm_prefix = true;
            return HD_OK;
        }
    }
    if (!strcmp(type, "Replace")) {
        const char *to;

        HD_TRY(hd_json_str_or(j, "content", "", &to, what, err));
        s = json_string_value(json_object_get(json_object_get(j, "pattern"), "String"));
        if (s && !strcmp(s, " ") && !strcmp(to, "\u2581")) {
            t->spelling = HD_SPELL_SPM;
            return HD_OK;
        }
    }
    return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: normalizer: found \"%s\"; expected none, NFC, or the pair that writes spaces as U+2581", what, type);
}

static int read_pre_tokenizer(struct hd_tokenizer *t, const json_t *j, const char *what, struct hd_err *err)
{
    const char *type = "", *s;

    if (json_is_object(j))
        HD_TRY(hd_json_str_or(j, "type", "", &type, what, err));
    if (strcmp(type, "Metaspace"))
        return hd_pretoken_create(&t->pre, j, what, err);
    HD_TRY(hd_json_str_or(j, "replacement", "\u2581", &s, what, err));
    if (strcmp(s, "\u2581") || json_is_true(json_object_get(j, "split")))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: pre_tokenizer: Metaspace: expected U+2581 and no splitting", what);
    HD_TRY(hd_json_str_or(j, "prepend_scheme", json_is_false(json_object_get(j, "add_prefix_space")) ? "never" : "first", &s, what, err));
    t->spelling = HD_SPELL_SPM;
    t->spm_prefix = strcmp(s, "never") != 0;
    return hd_pretoken_create(&t->pre, NULL, what, err);
}

static bool has_text(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);

    return v && !json_is_null(v) && !(json_is_string(v) && !json_string_length(v)) && !(json_is_real(v) && json_real_value(v) == 0) &&
           !(json_is_integer(v) && json_integer_value(v) == 0);
}

static int check_model(const json_t *model, const char *what, struct hd_err *err)
{
    static const char *const unsupported[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    const char *type;

    if (!json_is_object(model))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: model: expected an object", what);
    HD_TRY(hd_json_str_or(model, "type", "BPE", &type, what, err));
    if (strcmp(type, "BPE"))
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: model: type: found \"%s\"; expected BPE", what, type);
    for (int i = 0; i < HD_LEN(unsupported); i++)
        if (has_text(model, unsupported[i]))
            return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: model: %s: found a value; expected null", what, unsupported[i]);
    return HD_OK;
}

/* Largest id + 1 of vocabulary and added tokens; every id checked. */
static int count_ids(const json_t *vocab, const json_t *added, int64_t limit, int64_t *n, const char *what, struct hd_err *err)
{
    const char *piece;
    const json_t *v;
    size_t i;

    *n = 0;
    json_object_foreach((json_t *)vocab, piece, v)
    {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= limit) {
            char brief[64];

            return hd_err_set(err, HD_ERR_FORMAT, "%s: vocab: \"%.60s\": found id %s; expected 0 to %lld", what, piece, hd_json_brief(v, brief), (long long)limit - 1);
        }
        if (json_integer_value(v) >= *n)
            *n = json_integer_value(v) + 1;
    }
    json_array_foreach((json_t *)added, i, v)
    {
        int64_t id;

        if (!json_is_object(v))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: added_tokens[%zu]: expected an object", what, i);
        if (hd_json_int(v, "id", 0, limit - 1, &id, what, err) < 0)
            return hd_err_prepend(err, "added_tokens[%zu]", i);
        if (id >= *n)
            *n = id + 1;
    }
    return HD_OK;
}

static int read_vocab(struct hd_tokenizer *t, const json_t *vocab, const char *what, struct hd_err *err)
{
    const char *key;
    const json_t *v;
    size_t len;

    json_object_keylen_foreach((json_t *)vocab, key, len, v)
    {
        int64_t id = json_integer_value(v);
        struct hd_view p = {key, len};

        if (t->piece[id].p)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: vocab: id %lld is there twice (\"%.60s\")", what, (long long)id, key);
        if (t->spelling == HD_SPELL_BYTES ? !hd_vocab_raw_piece(t, key, len, &p) : !(p.p = hd_arena_strdup(&t->arena, key, len)))
            return hd_vocab_no_memory(what, err);
        t->piece[id] = p;
    }
    for (int64_t id = 0; id < t->n_piece; id++) {
        size_t slot;

        if (!t->piece[id].p)
            continue;
        slot = hd_piece_slot(t, t->piece[id].p, t->piece[id].n);
        if (!t->hash[slot])           /* two spellings of the same bytes: the lower id is the one merges mean */
            t->hash[slot] = (uint32_t)id + 1;
    }
    return HD_OK;
}

static int read_merges(struct hd_tokenizer *t, const json_t *merges, const char *what, struct hd_err *err)
{
    struct hd_str buf;
    const json_t *m;
    size_t i;
    int rc;

    if (!json_is_array(merges))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: model: merges: expected a list", what);
    HD_TRY(hd_vocab_alloc_merges(t, json_array_size(merges), what, err));
    hd_str_init(&buf, (size_t)1 << 24);
    rc = HD_OK;
    json_array_foreach((json_t *)merges, i, m)
    {
        const json_t *l = json_array_get(m, 0), *r = json_array_get(m, 1);

        if (json_is_string(m))
            rc = hd_vocab_add_merge_line(t, i, (struct hd_view){json_string_value(m), json_string_length(m)}, &buf, what, err);
        else if (json_array_size(m) == 2 && json_is_string(l) && json_is_string(r))
            rc = hd_vocab_add_merge(t, i, (struct hd_view){json_string_value(l), json_string_length(l)},
                                   (struct hd_view){json_string_value(r), json_string_length(r)}, &buf, what, err);
        else
            rc = hd_err_set(err, HD_ERR_FORMAT, "%s: merge %zu: expected a string or a pair of strings", what, i);
        if (rc < 0)
            break;
    }
    hd_str_release(&buf);
    return rc;
}

/* An added token may be in the vocabulary too, then under the same id; otherwise its id must be its own. */
static int check_added_id(const struct hd_tokenizer *t, const json_t *vocab, const struct hd_added *a, size_t i, const char *what, struct hd_err *err)
{
    const json_t *v = json_object_getn(vocab, a->text.p, a->text.n);

    if (v ? json_integer_value(v) == a->id : !t->piece[a->id].p)
        return HD_OK;
    return hd_err_set(err, HD_ERR_FORMAT, "%s: added_tokens[%zu]: \"%.60s\": found id %d, which %s", what, i, a->text.p, a->id,
                      v ? "differs from the vocabulary's" : "another piece has");
}

static int read_added(struct hd_tokenizer *t, const json_t *added, const json_t *vocab, const char *what, struct hd_err *err)
{
    const json_t *v;
    size_t i;

    t->added = hd_arena_zalloc(&t->arena, (json_array_size(added) + 1) * sizeof *t->added);
    if (!t->added)
        return hd_vocab_no_memory(what, err);
    json_array_foreach((json_t *)added, i, v)
    {
        const json_t *text = json_object_get(v, "content");
        struct hd_added a = {.id = (int32_t)json_integer_value(json_object_get(v, "id"))};

        if (!json_is_string(text))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: added_tokens[%zu]: content: expected a string", what, i);
        a.text = (struct hd_view){json_string_value(text), json_string_length(text)};
        HD_TRY(check_added_id(t, vocab, &a, i, what, err));
        HD_TRY(hd_json_bool_or(v, "special", false, &a.special, what, err));
        HD_TRY(hd_json_bool_or(v, "lstrip", false, &a.lstrip, what, err));
        HD_TRY(hd_json_bool_or(v, "rstrip", false, &a.rstrip, what, err));
        HD_TRY(hd_json_bool_or(v, "single_word", false, &a.single_word, what, err));
        HD_TRY(hd_json_bool_or(v, "normalized", !a.special, &a.normalized, what, err));
        HD_TRY(hd_vocab_add_added(t, &a, what, err));
    }
    return HD_OK;
}

static int read_json(struct hd_tokenizer *t, const json_t *j, const char *what, int64_t n_vocab, struct hd_err *err)
{
    const json_t *model = json_object_get(j, "model"), *vocab = json_object_get(model, "vocab"), *added = json_object_get(j, "added_tokens");
    const char *unk;
    int64_t n;

    HD_TRY(check_model(model, what, err));
    if (!json_is_object(vocab) || !json_object_size(vocab))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: model: vocab: expected an object with pieces", what);
    if (added && !json_is_null(added) && !json_is_array(added))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: added_tokens: expected a list", what);
    HD_TRY(read_normalizer(t, json_object_get(j, "normalizer"), 0, what, err));
    HD_TRY(read_pre_tokenizer(t, json_object_get(j, "pre_tokenizer"), what, err));
    HD_TRY(count_ids(vocab, added, n_vocab > 0 ? n_vocab : HD_PIECES_MAX, &n, what, err));
    HD_TRY(hd_vocab_alloc_pieces(t, n, what, err));
    HD_TRY(read_vocab(t, vocab, what, err));
    hd_vocab_find_bytes(t);
    HD_TRY(read_merges(t, json_object_get(model, "merges"), what, err));
    HD_TRY(hd_json_bool_or(model, "ignore_merges", false, &t->ignore_merges, what, err));
    HD_TRY(hd_json_bool_or(model, "fuse_unk", false, &t->fuse_unk, what, err));
    HD_TRY(hd_json_str_or(model, "unk_token", NULL, &unk, what, err));
    if (unk)
        t->unk = hd_piece_find(t, unk, strlen(unk));
    t->spm_strip = t->spelling == HD_SPELL_SPM && t->spm_prefix;
    return read_added(t, added, vocab, what, err);
}

int hd_tokenizer_parse(struct hd_tokenizer **out, const char *json, size_t n, const char *what, int64_t n_vocab, struct hd_err *err)
{
    json_t *j = hd_json_parse(json, n, what, err);
    struct hd_tokenizer *t;
    int rc;

    if (!j)
        return err ? err->code : HD_ERR_FORMAT;
    if (!(t = hd_vocab_create()))
        rc = hd_vocab_no_memory(what, err);
    else if (!json_is_object(j))
        rc = hd_err_set(err, HD_ERR_FORMAT, "%s: expected a JSON object", what);
    else
        rc = read_json(t, j, what, n_vocab, err);
    json_decref(j);
    if (rc < 0)
        hd_tokenizer_free(t);
    else
        *out = t;
    return rc;
}
