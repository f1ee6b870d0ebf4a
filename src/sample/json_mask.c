/* json_mask.c: see json_mask.h. Most tokens are decided by their class or their first byte; the others are walked through on a copy. */
#include "sample/json_mask.h"

#include <math.h>

#include "base/mem.h"
#include "token/json_scan.h"

#define DEPTH_MAX 64

struct place {
    struct hd_json_scan scan;
    bool begun, blank, escape;        /* blank: one may come; escape: a backslash was */
    uint8_t n_more, lo, hi;           /* of a character: bytes that must come, and between which the next one is */
};

struct hd_json_mask {
    const struct hd_json_vocab *vocab;
    int32_t behind;
    bool on;
    struct place at;
};

/* ---- bytes ---- */

/* The first byte of a character: what must follow. false: no character begins so. */
static bool begin_character(struct place *p, unsigned char b)
{
    p->lo = 0x80;
    p->hi = 0xBF;
    if (b < 0x80)
        return true;
    if (b < 0xC2 || b > 0xF4)
        return false;
    p->n_more = b < 0xE0 ? 1 : b < 0xF0 ? 2 : 3;
    if (b == 0xE0)
        p->lo = 0xA0;
    if (b == 0xED)
        p->hi = 0x9F;                 /* no surrogates */
    if (b == 0xF0)
        p->lo = 0x90;
    if (b == 0xF4)
        p->hi = 0x8F;
    return true;
}

static bool byte_fits(struct place *p, unsigned char b)
{
    if (p->n_more) {
        bool fits = b >= p->lo && b <= p->hi;

        p->n_more--;
        p->lo = 0x80;
        p->hi = 0xBF;
        return fits && hd_json_scan_byte(&p->scan, (char)b);
    }
    if (!p->begun) {
        p->begun = true;
        return b == '{' && hd_json_scan_byte(&p->scan, (char)b);
    }
    if (p->escape) {
        p->escape = false;
        return b != 'u' && hd_json_scan_byte(&p->scan, (char)b);
    }
    if (hd_json_scan_in_string(&p->scan)) {
        p->escape = b == '\\';
        return begin_character(p, b) && hd_json_scan_byte(&p->scan, (char)b);
    }
    if (b == '\n' || b == '\r' || b == '\t' || (b == ' ' && !p->blank))
        return false;
    p->blank = b == ',' || b == ':';
    return hd_json_scan_byte(&p->scan, (char)b) && p->scan.depth <= DEPTH_MAX;
}

static bool is_whole(const struct place *p)
{
    return p->begun && hd_json_scan_whole(&p->scan);
}

static bool token_fits(const struct hd_json_mask *m, int32_t id)
{
    struct hd_view v = hd_token_text(m->vocab->tok, id, false);
    struct place p = m->at;

    for (size_t i = 0; i < v.n; i++) {
        if (is_whole(&p) || !byte_fits(&p, (unsigned char)v.p[i]))
            return false;             /* also what comes behind the object */
    }
    return true;
}

/* ---- the constraint ---- */

int hd_json_mask_create(struct hd_json_mask **out, const struct hd_json_vocab *v, int32_t behind, struct hd_err *err)
{
    struct hd_json_mask *m = hd_calloc(1, sizeof *m);

    if (!m)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a constraint");
    m->vocab = v;
    m->behind = behind;
    m->on = behind < 0;
    hd_json_scan_init(&m->at.scan);
    *out = m;
    return HD_OK;
}

/* Which bytes a token may begin with here. */
static void first_bytes(const struct hd_json_mask *m, bool fits[256])
{
    for (int b = 0; b < 256; b++) {
        struct place p = m->at;

        fits[b] = !is_whole(&p) && byte_fits(&p, (unsigned char)b);
    }
}

void hd_json_mask_apply(void *self, float *logits, int64_t n_vocab)
{
    const struct hd_json_mask *m = self;
    bool whole = is_whole(&m->at), in_string = m->at.begun && hd_json_scan_in_string(&m->at.scan) && !m->at.n_more, fits[256];

    if (!m->on) {                     /* reasoning says anything, but must come to its end */
        hd_json_vocab_go_on(m->vocab, logits, n_vocab);
        return;
    }
    first_bytes(m, fits);
    for (int64_t id = 0; id < n_vocab; id++) {
        int class = id < m->vocab->n ? m->vocab->class[id] : HD_TOKEN_NEVER;
        bool ok = class == HD_TOKEN_END ? whole : class != HD_TOKEN_NEVER && !whole;

        if (ok && class != HD_TOKEN_END && !(class == HD_TOKEN_PLAIN && in_string))
            ok = fits[m->vocab->first[id]] && token_fits(m, (int32_t)id);
        if (!ok)
            logits[id] = -INFINITY;
    }
}

void hd_json_mask_take(void *self, int32_t id)
{
    struct hd_json_mask *m = self;
    struct hd_view v;

    if (!m->on) {
        m->on = id == m->behind;
        return;
    }
    v = hd_token_text(m->vocab->tok, id, false);
    for (size_t i = 0; i < v.n; i++)
        byte_fits(&m->at, (unsigned char)v.p[i]);
}

void hd_json_mask_free(void *self)
{
    hd_free(self);
}
