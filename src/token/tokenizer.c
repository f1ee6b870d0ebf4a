/* tokenizer.c: building a tokenizer from tokenizer.json or GGUF's arrays, and the way of a text through it. */
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "token/vocab.h"

#define JSON_MAX ((size_t)256 << 20)
#define PIECE_MAX ((int64_t)1 << 24)

/* ---- GPT-2's byte-to-unicode table: printable bytes stand for themselves, the others for U+0100 onwards ---- */

static int byte_of(int32_t cp)
{
    int n = 0;

    if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 172) || (cp >= 174 && cp <= 255))
        return cp;
    if (cp < 256 || cp > 323)
        return -1;
    for (int b = 0; b < 256; b++)
        if (!((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174)))
            if (n++ == cp - 256)
                return b;
    return -1;
}

/* A piece's spelling as raw bytes, in the arena. false: out of memory. A spelling outside the table stays as it is. */
static bool raw_piece(struct hd_tokenizer *t, const char *p, size_t n, struct hd_view *out)
{
    char *buf = hd_arena_alloc(&t->arena, n + 1);
    size_t k = 0;

    if (!buf)
        return false;
    for (size_t i = 0; i < n;) {
        int len, b = -1;
        int32_t cp = hd_utf8_get(p + i, n - i, &len);

        if (cp >= 0)
            b = byte_of(cp);
        if (b < 0) {
            memcpy(buf, p, n);
            k = n;
            break;
        }
        buf[k++] = (char)b;
        i += (size_t)len;
    }
    buf[k] = 0;
    *out = (struct hd_view){buf, k};
    return true;
}

/* ---- look-up of pieces ---- */

static size_t piece_slot(const struct hd_tokenizer *t, const char *p, size_t n)
{
    size_t i = (size_t)((hd_hash(HD_HASH_INIT, p, n) * 0x9E3779B97F4A7C15u) >> 24) & (t->n_hash - 1);

    while (t->hash[i]) {
        struct hd_view v = t->piece[t->hash[i] - 1];

        if (v.n == n && !memcmp(v.p, p, n))
            break;
        i = (i + 1) & (t->n_hash - 1);
    }
    return i;
}

int32_t hd_piece_find(const struct hd_tokenizer *t, const char *p, size_t n)
{
    return t->n_hash ? (int32_t)t->hash[piece_slot(t, p, n)] - 1 : -1;
}

static int no_memory(const char *what, struct hd_err *err)
{
    return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the vocabulary", what);
}

static int alloc_pieces(struct hd_tokenizer *t, int64_t n, const char *what, struct hd_err *err)
{
    t->n_piece = n;
    t->n_hash = 1024;
    while (t->n_hash < (size_t)n * 2)
        t->n_hash *= 2;
    t->piece = hd_arena_zalloc(&t->arena, (size_t)n * sizeof *t->piece);
    t->is_added = hd_arena_zalloc(&t->arena, (size_t)n);
    t->is_special = hd_arena_zalloc(&t->arena, (size_t)n);
    t->hash = hd_arena_zalloc(&t->arena, t->n_hash * sizeof *t->hash);
    return t->piece && t->is_added && t->is_special && t->hash ? HD_OK : no_memory(what, err);
}

/* Byte-level: which id a single byte is. SPM: which id <0xXX> is. */
static void find_bytes(struct hd_tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        char name[8] = {(char)b, 0};

        if (t->spelling == HD_SPELL_BYTES) {
            t->byte_id[b] = hd_piece_find(t, name, 1);
        } else {
            snprintf(name, sizeof name, "<0x%02X>", b);
            t->byte_id[b] = hd_piece_find(t, name, 6);
        }
    }
}

/* ---- merges ---- */

static int alloc_merges(struct hd_tokenizer *t, size_t n, const char *what, struct hd_err *err)
{
    t->n_merge_slot = 1024;
    while (t->n_merge_slot < n * 2)
        t->n_merge_slot *= 2;
    t->merge = hd_arena_alloc(&t->arena, t->n_merge_slot * sizeof *t->merge);
    if (!t->merge)
        return no_memory(what, err);
    for (size_t i = 0; i < t->n_merge_slot; i++)
        t->merge[i].left = -1;
    return HD_OK;
}

static int add_merge(struct hd_tokenizer *t, size_t rank, struct hd_view left, struct hd_view right, struct hd_str *buf, const char *what, struct hd_err *err)
{
    int32_t l, r, id;
    uint64_t key;
    size_t i;

    if (!left.n || !right.n)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: merge %zu: a piece is empty", what, rank);
    l = hd_piece_find(t, left.p, left.n);
    r = hd_piece_find(t, right.p, right.n);
    if (l < 0 || r < 0)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: merge %zu: piece \"%.*s\" is not in the vocabulary", what, rank,
                          (int)((l < 0 ? left.n : right.n) > 60 ? 60 : (l < 0 ? left.n : right.n)), l < 0 ? left.p : right.p);
    hd_str_reset(buf);
    if (!hd_str_add(buf, left.p, left.n) || !hd_str_add(buf, right.p, right.n))
        return no_memory(what, err);
    id = hd_piece_find(t, buf->s, buf->n);
    if (id < 0)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: merge %zu: its result \"%.60s\" is not in the vocabulary", what, rank, buf->s);
    key = (uint64_t)(uint32_t)l << 32 | (uint32_t)r;
    i = (size_t)((key * 0x9E3779B97F4A7C15u) >> 20) & (t->n_merge_slot - 1);
    while (t->merge[i].left >= 0) {
        if (t->merge[i].left == l && t->merge[i].right == r)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: merge %zu repeats merge %d (\"%.60s\")", what, rank, t->merge[i].rank, buf->s);
        i = (i + 1) & (t->n_merge_slot - 1);
    }
    t->merge[i] = (struct hd_merge){l, r, (int32_t)rank, id};
    return HD_OK;
}

/* "left right" or two views, in the vocabulary's spelling. */
static int add_spelled_merge(struct hd_tokenizer *t, size_t rank, struct hd_view left, struct hd_view right, struct hd_str *buf, const char *what,
                             struct hd_err *err)
{
    struct hd_arena_mark mark = hd_arena_mark(&t->arena);
    int rc;

    if (t->spelling == HD_SPELL_BYTES && (!raw_piece(t, left.p, left.n, &left) || !raw_piece(t, right.p, right.n, &right)))
        return no_memory(what, err);
    rc = add_merge(t, rank, left, right, buf, what, err);
    hd_arena_rewind(&t->arena, mark);
    return rc;
}

static int add_merge_line(struct hd_tokenizer *t, size_t rank, struct hd_view line, struct hd_str *buf, const char *what, struct hd_err *err)
{
    const char *sep = line.n > 1 ? memchr(line.p + 1, ' ', line.n - 1) : NULL;

    if (!sep)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: merge %zu: found \"%.*s\"; expected two pieces with a space between", what, rank,
                          (int)(line.n > 60 ? 60 : line.n), line.p);
    return add_spelled_merge(t, rank, (struct hd_view){line.p, (size_t)(sep - line.p)}, (struct hd_view){sep + 1, line.n - (size_t)(sep - line.p) - 1}, buf, what,
                             err);
}

/* ---- added tokens ---- */

static int add_added(struct hd_tokenizer *t, const struct hd_added *a, const char *what, struct hd_err *err)
{
    struct hd_added *slot = &t->added[t->n_added];
    char *text;

    if (!a->text.n)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: added token %d has no text", what, a->id);
    if (t->is_added[a->id])
        return hd_err_set(err, HD_ERR_FORMAT, "%s: added tokens: id %d is there twice", what, a->id);
    if (!(text = hd_arena_strdup(&t->arena, a->text.p, a->text.n)))
        return no_memory(what, err);
    *slot = *a;
    slot->text.p = text;
    t->n_added++;
    t->is_added[a->id] = true;
    t->is_special[a->id] = a->special;
    t->piece[a->id] = slot->text;
    t->added_first[(unsigned char)text[0]] = 1;
    return HD_OK;
}

static void add_end(struct hd_tokenizer *t, int64_t id)
{
    if (id < 0 || id >= t->n_piece || hd_tokenizer_is_end(t, (int32_t)id) || t->n_end == HD_LEN(t->end))
        return;
    t->end[t->n_end++] = (int32_t)id;
}

/* ---- tokenizer.json ---- */

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
        if (t->spelling == HD_SPELL_BYTES ? !raw_piece(t, key, len, &p) : !(p.p = hd_arena_strdup(&t->arena, key, len)))
            return no_memory(what, err);
        t->piece[id] = p;
    }
    for (int64_t id = 0; id < t->n_piece; id++) {
        size_t slot;

        if (!t->piece[id].p)
            continue;
        slot = piece_slot(t, t->piece[id].p, t->piece[id].n);
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
    HD_TRY(alloc_merges(t, json_array_size(merges), what, err));
    hd_str_init(&buf, (size_t)1 << 24);
    rc = HD_OK;
    json_array_foreach((json_t *)merges, i, m)
    {
        const json_t *l = json_array_get(m, 0), *r = json_array_get(m, 1);

        if (json_is_string(m))
            rc = add_merge_line(t, i, (struct hd_view){json_string_value(m), json_string_length(m)}, &buf, what, err);
        else if (json_array_size(m) == 2 && json_is_string(l) && json_is_string(r))
            rc = add_spelled_merge(t, i, (struct hd_view){json_string_value(l), json_string_length(l)},
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
        return no_memory(what, err);
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
        HD_TRY(add_added(t, &a, what, err));
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
    HD_TRY(count_ids(vocab, added, n_vocab > 0 ? n_vocab : PIECE_MAX, &n, what, err));
    HD_TRY(alloc_pieces(t, n, what, err));
    HD_TRY(read_vocab(t, vocab, what, err));
    find_bytes(t);
    HD_TRY(read_merges(t, json_object_get(model, "merges"), what, err));
    HD_TRY(hd_json_bool_or(model, "ignore_merges", false, &t->ignore_merges, what, err));
    HD_TRY(hd_json_bool_or(model, "fuse_unk", false, &t->fuse_unk, what, err));
    HD_TRY(hd_json_str_or(model, "unk_token", NULL, &unk, what, err));
    if (unk)
        t->unk = hd_piece_find(t, unk, strlen(unk));
    t->spm_strip = t->spelling == HD_SPELL_SPM && t->spm_prefix;
    return read_added(t, added, vocab, what, err);
}

static struct hd_tokenizer *create(void)
{
    struct hd_tokenizer *t = hd_calloc(1, sizeof *t);

    if (!t)
        return NULL;
    hd_arena_init(&t->arena, 0);
    t->unk = t->bos = -1;
    t->cache = hd_calloc(HD_CACHE_SLOTS, sizeof *t->cache);      /* NULL: slower, not wrong */
    return t;
}

void hd_tokenizer_free(struct hd_tokenizer *t)
{
    if (!t)
        return;
    hd_pretoken_free(t->pre);
    hd_arena_release(&t->arena);
    hd_free(t->cache);
    hd_free(t);
}

int hd_tokenizer_parse(struct hd_tokenizer **out, const char *json, size_t n, const char *what, int64_t n_vocab, struct hd_err *err)
{
    json_t *j = hd_json_parse(json, n, what, err);
    struct hd_tokenizer *t;
    int rc;

    if (!j)
        return err ? err->code : HD_ERR_FORMAT;
    if (!(t = create()))
        rc = no_memory(what, err);
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
        add_end(t, json_integer_value(v));
    json_array_foreach((json_t *)v, i, e) if (json_is_integer(e)) add_end(t, json_integer_value(e));
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
            add_end(t, named_token(t, j, "eos_token"));
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
            return no_memory(names[i], err);
        HD_TRY(rc);
    }
    if (!(path = hd_path_join(dir, "chat_template.jinja")))
        return no_memory(dir, err);
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
        return no_memory(dir, err);
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

    if (src->n_piece == 0 || src->n_piece > (size_t)PIECE_MAX)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: tokenizer.ggml.tokens: found %zu; expected 1 to %lld", src->what, src->n_piece, (long long)PIECE_MAX);
    HD_TRY(hd_pretoken_named(&t->pre, src->pre, src->what, err));
    HD_TRY(alloc_pieces(t, (int64_t)src->n_piece, src->what, err));
    for (size_t i = 0; i < src->n_piece; i++) {
        size_t slot;

        n_added += src->type && (src->type[i] == 3 || src->type[i] == 4);
        if (!raw_piece(t, src->piece[i].p, src->piece[i].n, &t->piece[i]))
            return no_memory(src->what, err);
        slot = piece_slot(t, t->piece[i].p, t->piece[i].n);
        if (!t->hash[slot])
            t->hash[slot] = (uint32_t)i + 1;
    }
    find_bytes(t);
    t->added = hd_arena_zalloc(&t->arena, (n_added + 1) * sizeof *t->added);
    if (!t->added)
        return no_memory(src->what, err);
    for (size_t i = 0; i < src->n_piece; i++)
        if (src->type && (src->type[i] == 3 || src->type[i] == 4) && src->piece[i].n)
            HD_TRY(add_added(t, &(struct hd_added){.text = src->piece[i], .id = (int32_t)i, .special = src->type[i] == 3}, src->what, err));
    HD_TRY(alloc_merges(t, src->n_merge, src->what, err));
    hd_str_init(&buf, (size_t)1 << 24);
    for (size_t i = 0; i < src->n_merge && rc == HD_OK; i++)
        rc = add_merge_line(t, i, src->merge[i], &buf, src->what, err);
    hd_str_release(&buf);
    if (rc < 0)
        return rc;
    if (src->bos >= 0 && src->bos < t->n_piece)
        t->bos = (int32_t)src->bos;
    add_end(t, src->eos);
    for (int i = 0; i < 3; i++) {     /* files whose eos is not what ends a turn */
        static const char *const turn_end[] = {"<|im_end|>", "<|eot_id|>", "<|end_of_text|>"};

        add_end(t, hd_tokenizer_find(t, turn_end[i]));
    }
    if (src->model_type) {
        snprintf(t->model_type, sizeof t->model_type, "%s", src->model_type);
        t->ga = src->chat_template.n && memmem(src->chat_template.p, src->chat_template.n, ga_text, sizeof ga_text - 1) != NULL;
    }
    if (!(t->chat_template = hd_arena_strdup(&t->arena, src->chat_template.p ? src->chat_template.p : "", src->chat_template.n)))
        return no_memory(src->what, err);
    return HD_OK;
}

int hd_tokenizer_create(struct hd_tokenizer **out, const struct hd_vocab_source *src, struct hd_err *err)
{
    struct hd_tokenizer *t = create();
    int rc = t ? fill_gguf(t, src, err) : no_memory(src->what, err);

    if (rc < 0)
        hd_tokenizer_free(t);
    else
        *out = t;
    return rc;
}

/* ---- text to ids ---- */

struct sink {
    struct hd_tokenizer *t;
    struct hd_ids *out;
};

static int take_word(void *arg, const char *word, size_t n, struct hd_err *err)
{
    struct sink *k = arg;

    return hd_bpe(k->t, word, n, k->out, err);
}

/* SPM spelling: spaces become U+2581, one in front of the text's beginning. */
static bool spell_spm(const struct hd_tokenizer *t, const char *p, size_t n, bool first, struct hd_str *out)
{
    if (t->spm_prefix && first)
        hd_str_puts(out, "\u2581");
    for (size_t i = 0; i < n; i++)
        if (p[i] == ' ')
            hd_str_puts(out, "\u2581");
        else
            hd_str_putc(out, p[i]);
    return !out->failed;
}

static bool is_ascii(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)p[i] >= 0x80)
            return false;
    return true;
}

/* Text without added tokens. */
static int plain(struct hd_tokenizer *t, const char *p, size_t n, bool first, struct hd_ids *out, struct hd_err *err)
{
    struct sink k = {t, out};
    int rc;

    if (n == 0)
        return HD_OK;
    if (t->spelling == HD_SPELL_SPM) {
        struct hd_str s;

        hd_str_init(&s, (size_t)1 << 31);
        rc = spell_spm(t, p, n, first, &s) ? hd_pretoken_run(t->pre, s.s, s.n, take_word, &k, err) : no_memory("text", err);
        hd_str_release(&s);
        return rc;
    }
    if (t->nfc && !is_ascii(p, n)) {
        utf8proc_uint8_t *s = NULL;
        utf8proc_ssize_t len = utf8proc_map((const utf8proc_uint8_t *)p, (utf8proc_ssize_t)n, &s, UTF8PROC_STABLE | UTF8PROC_COMPOSE);     /* malloc'ed, which hd_free() frees */

        if (len >= 0) {
            rc = hd_pretoken_run(t->pre, (const char *)s, (size_t)len, take_word, &k, err);
            hd_free(s);
            return rc;
        }
        if (len == UTF8PROC_ERROR_NOMEM)
            return no_memory("text", err);
        /* malformed UTF-8 has no normal form: it stays as it is */
    }
    return hd_pretoken_run(t->pre, p, n, take_word, &k, err);
}

static bool word_char(const char *p, size_t n)
{
    int len;
    int32_t cp = n ? hd_utf8_get(p, n, &len) : -1;
    utf8proc_category_t c = cp >= 0 ? utf8proc_category(cp) : UTF8PROC_CATEGORY_CN;

    return cp == '_' || (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) || (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO) ||
           (c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME) || c == UTF8PROC_CATEGORY_PC;
}

static size_t char_before(const char *p, size_t at)
{
    size_t i = at;

    do
        i--;
    while (i && ((unsigned char)p[i] & 0xC0) == 0x80);
    return i;
}

/* The added token of this kind (normalized or not) at p[at], the longest; NULL when there is none. */
static const struct hd_added *added_at(const struct hd_tokenizer *t, const char *p, size_t n, size_t at, bool normalized)
{
    const struct hd_added *best = NULL;

    if (!t->added_first[(unsigned char)p[at]])
        return NULL;
    for (size_t i = 0; i < t->n_added; i++) {
        const struct hd_added *a = &t->added[i];

        if (a->normalized != normalized || a->text.n > n - at || a->text.p[0] != p[at] || memcmp(a->text.p, p + at, a->text.n) || (best && best->text.n >= a->text.n))
            continue;
        if (a->single_word && ((at && word_char(p + char_before(p, at), n)) || (at + a->text.n < n && word_char(p + at + a->text.n, n - at - a->text.n))))
            continue;
        best = a;
    }
    return best;
}

const struct hd_added *hd_added_find(const struct hd_tokenizer *t, const char *p, size_t n)
{
    const struct hd_added *a = added_at(t, p, n, 0, false), *b = added_at(t, p, n, 0, true);

    return !a || (b && b->text.n > a->text.n) ? b : a;
}

static bool is_space(const char *p, size_t n, int *len)
{
    int32_t cp = hd_utf8_get(p, n, len);

    return cp == ' ' || (cp >= 9 && cp <= 13) || cp == 0x85 || (cp >= 0x80 && utf8proc_category(cp) >= UTF8PROC_CATEGORY_ZS && utf8proc_category(cp) <= UTF8PROC_CATEGORY_ZP);
}

/* Two passes, as the reference: tokens that are matched in the raw text first, the others in what lies between. */
static int with_added(struct hd_tokenizer *t, const char *p, size_t n, bool normalized, bool *first, struct hd_ids *out, struct hd_err *err)
{
    size_t from = 0;

    for (size_t at = 0; at < n;) {
        const struct hd_added *a = added_at(t, p, n, at, normalized);
        size_t begin = at, end;
        int len;

        if (!a) {
            at++;
            continue;
        }
        end = at + a->text.n;
        while (a->lstrip && begin > from && is_space(p + char_before(p, begin), n - char_before(p, begin), &len))
            begin = char_before(p, begin);
        while (a->rstrip && end < n && is_space(p + end, n - end, &len))
            end += (size_t)len;
        if (begin > from) {
            HD_TRY(normalized ? plain(t, p + from, begin - from, *first, out, err) : with_added(t, p + from, begin - from, true, first, out, err));
            *first = false;
        }
        *first = false;
        if (!hd_ids_push(out, a->id))
            return no_memory("text", err);
        at = from = end;
    }
    if (from < n)
        HD_TRY(normalized ? plain(t, p + from, n - from, *first, out, err) : with_added(t, p + from, n - from, true, first, out, err));
    return HD_OK;
}

int hd_tokenize(struct hd_tokenizer *t, const char *text, size_t n, int flags, struct hd_ids *out, struct hd_err *err)
{
    bool first = true;

    return flags & HD_TOK_SPECIAL ? with_added(t, text, n, false, &first, out, err) : plain(t, text, n, true, out, err);
}

/* ---- ids to text ---- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

struct hd_view hd_token_text(const struct hd_tokenizer *t, int32_t id, bool special)
{
    struct hd_view none = {"", 0};

    if (id < 0 || id >= t->n_piece || !t->piece[id].p || (t->is_special[id] && !special))
        return none;
    return t->piece[id];
}

void hd_detokenize(const struct hd_tokenizer *t, const int32_t *id, size_t n, bool special, struct hd_str *out)
{
    size_t start = out->n;

    for (size_t i = 0; i < n; i++) {
        struct hd_view v = hd_token_text(t, id[i], special);

        if (t->spelling == HD_SPELL_BYTES || (v.n && t->is_added[id[i]])) {
            hd_str_add(out, v.p, v.n);
            continue;
        }
        if (v.n == 6 && !memcmp(v.p, "<0x", 3) && v.p[5] == '>' && hex_digit(v.p[3]) >= 0 && hex_digit(v.p[4]) >= 0) {
            hd_str_putc(out, (char)(hex_digit(v.p[3]) << 4 | hex_digit(v.p[4])));
            continue;
        }
        for (size_t k = 0; k < v.n;) {
            bool mark = v.n - k >= 3 && !memcmp(v.p + k, "\u2581", 3);

            if (!(mark && t->spm_strip && i == 0 && out->n == start))
                hd_str_putc(out, mark ? ' ' : v.p[k]);
            k += mark ? 3 : 1;
        }
    }
}

int64_t hd_tokenizer_size(const struct hd_tokenizer *t)
{
    return t->n_piece;
}

bool hd_tokenizer_is_end(const struct hd_tokenizer *t, int32_t id)
{
    for (int i = 0; i < t->n_end; i++)
        if (t->end[i] == id)
            return true;
    return false;
}

int32_t hd_tokenizer_find(const struct hd_tokenizer *t, const char *added)
{
    for (size_t i = 0; i < t->n_added; i++)
        if (hd_view_is(t->added[i].text, added))
            return t->added[i].id;
    return -1;
}

int32_t hd_tokenizer_bos(const struct hd_tokenizer *t)
{
    return t->bos;
}

int32_t hd_tokenizer_end(const struct hd_tokenizer *t)
{
    return t->n_end ? t->end[0] : -1;
}

const char *hd_tokenizer_thinking(const struct hd_tokenizer *t)
{
    return t->thinking[0] ? t->thinking : NULL;
}

bool hd_is_thinking_level(const char *s)
{
    static const char *const levels[] = {"off", "on", "low", "high", "max"};

    for (int i = 0; i < HD_LEN(levels); i++)
        if (!strcmp(s, levels[i]))
            return true;
    return false;
}

const char *hd_tokenizer_template(const struct hd_tokenizer *t)
{
    return t->chat_template ? t->chat_template : "";
}
