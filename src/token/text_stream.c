/* text_stream.c: hd_text_stream: see token.h. */
#include <string.h>

#include "token/token.h"

void hd_text_stream_init(struct hd_text_stream *s, const struct hd_tokenizer *t, const char *const *stop, int n_stop)
{
    memset(s, 0, sizeof *s);
    s->tok = t;
    s->stop = stop;
    s->n_stop = n_stop;
    hd_str_init(&s->pending, (size_t)1 << 24);
}

void hd_text_stream_release(struct hd_text_stream *s)
{
    hd_str_release(&s->pending);
}

/* Where the earliest stop string begins, or n. */
static size_t find_stop(const struct hd_text_stream *s)
{
    size_t best = s->pending.n;

    for (int i = 0; i < s->n_stop; i++) {
        size_t len = strlen(s->stop[i]);
        const char *p = len && len <= s->pending.n ? memmem(s->pending.s, s->pending.n, s->stop[i], len) : NULL;

        if (p && (size_t)(p - s->pending.s) < best)
            best = (size_t)(p - s->pending.s);
    }
    return best;
}

/* How many bytes cannot be the beginning of a stop string. */
static size_t safe_bytes(const struct hd_text_stream *s)
{
    size_t n = hd_utf8_whole(s->pending.s, s->pending.n), hold = 0;

    for (int i = 0; i < s->n_stop; i++) {
        size_t len = strlen(s->stop[i]);

        for (size_t k = len ? len - 1 : 0; k > hold; k--)
            if (k <= s->pending.n && !memcmp(s->pending.s + s->pending.n - k, s->stop[i], k))
                hold = k;
    }
    return n < s->pending.n - hold ? n : s->pending.n - hold;
}

static void release(struct hd_text_stream *s, size_t n, struct hd_str *out)
{
    hd_str_add(out, s->pending.s, n);
    memmove(s->pending.s, s->pending.s + n, s->pending.n - n);
    s->pending.n -= n;
}

static void settle(struct hd_text_stream *s, struct hd_str *out)
{
    size_t stop = find_stop(s);

    if (stop < s->pending.n) {
        s->stopped = true;
        release(s, stop, out);
    } else if (s->pending.n) {
        release(s, safe_bytes(s), out);
    }
}

void hd_text_stream_push(struct hd_text_stream *s, int32_t id, struct hd_str *out)
{
    if (s->stopped)
        return;
    hd_detokenize(s->tok, &id, 1, false, &s->pending);
    settle(s, out);
}

void hd_text_stream_push_text(struct hd_text_stream *s, const char *p, size_t n, struct hd_str *out)
{
    if (s->stopped)
        return;
    hd_str_add(&s->pending, p, n);
    settle(s, out);
}

void hd_text_stream_finish(struct hd_text_stream *s, struct hd_str *out)
{
    if (!s->stopped && s->pending.n)
        release(s, s->pending.n, out);
}
