/* logprobs.c: see logprobs.h. */
#include "server/logprobs.h"

#include <math.h>

void hd_logprob_token(const struct hd_server *s, int32_t id, struct hd_str *out)
{
    struct hd_view v = hd_token_text(s->tok, id, true);
    bool whole = true;

    for (size_t i = 0; i < v.n && whole;) {
        int len;

        whole = hd_utf8_get(v.p + i, v.n - i, &len) >= 0;
        i += (size_t)len;
    }
    if (whole) {
        hd_str_json(out, v.p, v.n);
        return;
    }
    hd_str_puts(out, "\"bytes:");
    for (size_t i = 0; i < v.n; i++)
        hd_str_printf(out, "\\\\x%02x", (unsigned char)v.p[i]);
    hd_str_putc(out, '"');
}

void hd_logprob_value(double v, struct hd_str *out)
{
    hd_str_printf(out, "%.7g", v > -9999.0 ? v : -9999.0);
}

static void put_one(const struct hd_server *s, int32_t id, double logprob, struct hd_str *out)
{
    struct hd_view v = hd_token_text(s->tok, id, true);

    hd_str_puts(out, "{\"token\":");
    hd_logprob_token(s, id, out);
    hd_str_puts(out, ",\"logprob\":");
    hd_logprob_value(logprob, out);
    hd_str_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < v.n; i++)
        hd_str_printf(out, i ? ",%d" : "%d", (unsigned char)v.p[i]);
    hd_str_puts(out, "]");
}

void hd_logprob_list(const struct hd_answer *a, const struct hd_pick_list *l, size_t from, struct hd_str *out)
{
    hd_str_putc(out, '[');
    for (size_t i = from; i < l->n; i++) {
        const struct hd_pick_line *p = &l->line[i];

        if (i > from)
            hd_str_putc(out, ',');
        put_one(a->server, p->id, p->logprob, out);
        hd_str_puts(out, ",\"top_logprobs\":[");
        for (int k = 0; k < p->n_top && k < a->ask.n_top; k++) {
            if (k)
                hd_str_putc(out, ',');
            put_one(a->server, p->top_id[k], p->top_logprob[k], out);
            hd_str_putc(out, '}');
        }
        hd_str_puts(out, "]}");
    }
    hd_str_putc(out, ']');
}
