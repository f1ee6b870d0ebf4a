/* mhc.c: see mhc.h. */
#include "model/mhc.h"

void hd_streams_begin(struct hd_stream *s, struct hd_streams *st, enum hd_residual form, const struct hd_mhc_hp *hp, const struct hd_tensor *h)
{
    int64_t n = hd_rows(h), n_hc = hp->n_hc;

    *st = (struct hd_streams){.form = form, .hp = hp, .x = hd_new(s, HD_F32, n, n_hc * hd_cols(h))};
    hd_copies(s, st->x, h);
}

void hd_streams_enter(struct hd_stream *s, struct hd_streams *st, const struct hd_mhc_weights *w, struct hd_tensor *u)
{
    int64_t n_hc = st->hp->n_hc;

    if (st->form == HD_RESIDUAL_PLAIN) {
        hd_copies(s, u, st->x);
        return;
    }
    if (st->form == HD_RESIDUAL_MHC_V41) {            /* two mixes are alive: they take turns */
        struct hd_tensor *older = st->before;

        st->before = st->mix;
        st->mix = older;
    }
    if (!st->mix)
        st->mix = hd_new_kept(s, HD_F32, hd_rows(u), n_hc * (2 + n_hc));
    hd_mhc_mix(s, st->mix, st->x, &w->fn, &w->base, &w->scale, st->hp);
    hd_trace(s, st->mix, "streams_mix");
    hd_mhc_pre(s, u, st->x, st->form == HD_RESIDUAL_MHC_V41 ? st->before : st->mix, n_hc);
}

void hd_streams_leave(struct hd_stream *s, struct hd_streams *st, const struct hd_tensor *y)
{
    if (st->form == HD_RESIDUAL_PLAIN)
        hd_add(s, st->x, st->x, y);
    else
        hd_mhc_post(s, st->x, y, st->mix, st->hp->n_hc);
}

void hd_streams_end(struct hd_stream *s, struct hd_streams *st, const struct hd_mhc_weights *head, struct hd_tensor *u)
{
    int64_t n_hc = st->hp->n_hc;

    switch (st->form) {
    case HD_RESIDUAL_PLAIN: hd_copies(s, u, st->x); break;
    case HD_RESIDUAL_HC:
    case HD_RESIDUAL_MHC_PAPER: hd_mhc_mean(s, u, st->x, n_hc); break;
    case HD_RESIDUAL_MHC_V41: hd_mhc_pre(s, u, st->x, st->mix, n_hc); break;
    case HD_RESIDUAL_MHC_V4: {
        struct hd_tensor *pre = hd_new(s, HD_F32, hd_rows(u), n_hc);

        hd_mhc_mix(s, pre, st->x, &head->fn, &head->base, &head->scale, st->hp);
        hd_mhc_pre(s, u, st->x, pre, n_hc);
        break;
    }
    }
}
