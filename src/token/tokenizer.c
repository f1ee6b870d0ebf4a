/* tokenizer.c: the way of a text through a tokenizer, and back. */
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "token/vocab.h"

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
        rc = spell_spm(t, p, n, first, &s) ? hd_pretoken_run(t->pre, s.s, s.n, take_word, &k, err) : hd_vocab_no_memory("text", err);
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
            return hd_vocab_no_memory("text", err);
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
            return hd_vocab_no_memory("text", err);
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
