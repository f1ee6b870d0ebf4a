/* json_vocab.c: see json_vocab.h. */
#include "sample/json_vocab.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static bool is_plain(struct hd_view v)
{
    for (size_t i = 0; i < v.n;) {
        int len;

        if (hd_utf8_get(v.p + i, v.n - i, &len) < 0x20 || v.p[i] == '"' || v.p[i] == '\\' || v.p[i] == 0x7F)
            return false;
        i += (size_t)len;
    }
    return true;
}

/* Markers that are spelled like text are none. */
static bool is_added(const struct hd_tokenizer *t, int32_t id, struct hd_view v)
{
    char text[128];

    if (v.n >= sizeof text || (v.p[0] != '<' && v.p[0] != '[' && !memmem(v.p, v.n, "｜", 3)))
        return false;
    memcpy(text, v.p, v.n);
    text[v.n] = 0;
    return hd_tokenizer_find(t, text) == id;
}

/* ---- order ---- */

static int compare(const void *a, const void *b, void *tok)
{
    struct hd_view x = hd_token_text(tok, *(const int32_t *)a, false), y = hd_token_text(tok, *(const int32_t *)b, false);
    int d = memcmp(x.p, y.p, x.n < y.n ? x.n : y.n);

    return d ? d : x.n != y.n ? (x.n < y.n ? -1 : 1) : *(const int32_t *)a - *(const int32_t *)b;
}

static size_t common_bytes(struct hd_view a, struct hd_view b)
{
    size_t n = 0;

    while (n < a.n && n < b.n && n < UINT16_MAX && a.p[n] == b.p[n])
        n++;
    return n;
}

static bool sort_tokens(struct hd_json_vocab *v)
{
    struct hd_token_order *o = &v->order;

    o->id = hd_calloc((size_t)v->n + 1, sizeof *o->id);
    o->common = hd_calloc((size_t)v->n + 1, sizeof *o->common);
    if (!o->id || !o->common)
        return false;
    for (int32_t id = 0; id < v->n; id++)
        if (v->class[id] == HD_TOKEN_OTHER || v->class[id] == HD_TOKEN_PLAIN)
            o->id[o->n++] = id;
    qsort_r(o->id, (size_t)o->n, sizeof *o->id, compare, (void *)v->tok);
    for (int64_t i = 1; i < o->n; i++)
        o->common[i] = (uint16_t)common_bytes(hd_token_text(v->tok, o->id[i - 1], false), hd_token_text(v->tok, o->id[i], false));
    return true;
}

/* ---- all ---- */

static void classify(struct hd_json_vocab *v, int32_t id)
{
    struct hd_view text = hd_token_text(v->tok, id, false);

    if (hd_tokenizer_is_end(v->tok, id))
        v->class[id] = HD_TOKEN_END;
    else if (text.n && !is_added(v->tok, id, text))
        v->class[id] = is_plain(text) ? HD_TOKEN_PLAIN : HD_TOKEN_OTHER;
    if (text.n)
        v->first[id] = (unsigned char)text.p[0];
    if (text.n == 1 && v->class[id] != HD_TOKEN_NEVER && v->class[id] != HD_TOKEN_END)
        v->byte[v->first[id]] = id;
    v->len_max = (int64_t)text.n > v->len_max ? (int64_t)text.n : v->len_max;
}

int hd_json_vocab_create(struct hd_json_vocab **out, const struct hd_tokenizer *t, struct hd_err *err)
{
    struct hd_json_vocab *v = hd_calloc(1, sizeof *v);

    if (v) {
        v->class = hd_calloc((size_t)hd_tokenizer_size(t), 1);
        v->first = hd_calloc((size_t)hd_tokenizer_size(t), 1);
    }
    if (!v || !v->class || !v->first) {
        hd_json_vocab_free(v);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a vocabulary");
    }
    v->tok = t;
    v->n = hd_tokenizer_size(t);
    memset(v->byte, -1, sizeof v->byte);
    for (int32_t id = 0; id < v->n; id++)
        classify(v, id);
    v->spells = true;
    for (int b = 0x20; b < 0xF5; b++)
        v->spells &= v->byte[b] >= 0 || b == 0x7F || b == 0xC0 || b == 0xC1;
    if (!sort_tokens(v)) {
        hd_json_vocab_free(v);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a vocabulary");
    }
    *out = v;
    return HD_OK;
}

void hd_json_vocab_free(struct hd_json_vocab *v)
{
    if (!v)
        return;
    hd_free(v->order.id);
    hd_free(v->order.common);
    hd_free(v->class);
    hd_free(v->first);
    hd_free(v);
}

void hd_json_vocab_go_on(const struct hd_json_vocab *v, float *logits, int64_t n_vocab)
{
    for (int64_t id = 0; id < v->n && id < n_vocab; id++)
        if (v->class[id] == HD_TOKEN_END)
            logits[id] = -INFINITY;
}
