/* eval_ppl.c: hadal eval ppl: how surprised a model is by a text. Documents are cut into windows that lie end to end; every token but a window's first
 * is predicted once, from what stands before it in its window. Nothing is drawn by chance: the same files give the same number. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "cli/cmd_eval.h"
#include "engine/model_tokenizer.h"
#include "train/data.h"

struct sum {
    double nats;
    int64_t n, n_bytes;
};

static double loss_of(const float *logits, int64_t n, int32_t target)
{
    double top = -INFINITY, sum = 0;

    for (int64_t i = 0; i < n; i++)
        top = logits[i] > top ? logits[i] : top;
    for (int64_t i = 0; i < n; i++)
        sum += exp(logits[i] - top);
    return log(sum) + top - logits[target];
}

/* ids first .. first + n of a document. */
static int window(struct hd_session *ss, const struct hd_tokenizer *tok, const struct hd_data *d, int64_t first, int64_t n, struct sum *s, struct hd_err *err)
{
    struct hd_engine *e = ss->engine;
    int64_t v = e->model.hp.n_vocab;

    HD_TRY(hd_session_rewind(ss, 0, err));
    for (int64_t done = 0; done + 1 < n;) {
        int64_t k = n - 1 - done < e->opt.chunk ? n - 1 - done : e->opt.chunk;
        struct hd_step_item it = {.session = ss, .ids = d->id + first + done, .n_tok = k, .want = HD_WANT_ALL};

        HD_TRY(hd_engine_step(e, &it, 1, err));
        for (int64_t i = 0; i < k; i++) {
            int64_t at = first + done + i + 1;

            if (d->skip && d->skip[at])
                continue;
            s->nats += loss_of(it.logits + i * v, v, d->id[at]);
            s->n_bytes += (int64_t)hd_token_text(tok, d->id[at], false).n;
            s->n++;
        }
        done += k;
    }
    return hd_interrupted ? hd_err_set(err, HD_ERR_CANCELLED, "interrupted after %lld tokens", (long long)s->n) : HD_OK;
}

static int measure(struct hd_engine *e, const struct hd_tokenizer *tok, const struct hd_data *d, int64_t n_window, struct sum *s, struct hd_err *err)
{
    struct hd_session ss;
    int rc;

    HD_TRY(hd_session_open(&ss, e, err));
    rc = HD_OK;
    for (int64_t i = 0; i < d->n_doc && rc == HD_OK; i++)
        for (int64_t p = d->doc[i]; p + 1 < d->doc[i + 1] && rc == HD_OK; p += n_window)
            rc = window(&ss, tok, d, p, d->doc[i + 1] - p < n_window + 1 ? d->doc[i + 1] - p : n_window + 1, s, err);
    hd_session_close(&ss);
    if (rc == HD_OK && !s->n)
        rc = hd_err_set(err, HD_ERR_FORMAT, "the text holds nothing to predict");
    return rc;
}

static int open_and_measure(struct hd_args *a, const struct hd_data *d, const struct hd_tokenizer *tok, int64_t n_window, struct sum *s, struct hd_err *err)
{
    struct hd_engine_options o;
    struct hd_engine e;
    int rc;

    HD_TRY(hd_engine_args(a, &o, err));
    if (o.shortcut)
        return hd_err_set(err, HD_ERR_USAGE, "--shortcut: logits of every position need every layer");
    o.n_ctx = n_window;
    HD_TRY(hd_engine_open(&e, a->positional[1], &o, err));
    rc = n_window > e.model.hp.n_ctx ? hd_err_set(err, HD_ERR_LIMIT, "--ctx: found %lld; the model's context is %lld", (long long)n_window, (long long)e.model.hp.n_ctx)
                                     : measure(&e, tok, d, n_window, s, err);
    hd_engine_close(&e);
    return rc;
}

int hd_eval_ppl(struct hd_args *a, struct hd_err *err)
{
    const char *text = hd_args_text(a, "text", NULL);
    int64_t n_window = hd_args_int(a, "ctx", 512);
    struct hd_data d = {.all = !hd_args_has(a, "answers")};
    struct hd_tokenizer *tok;
    struct sum s = {0};
    double mean, bits;
    int rc;

    if (!text)
        return hd_err_set(err, HD_ERR_USAGE, "--text FILE is expected");
    HD_TRY(hd_model_tokenizer(&tok, a->positional[1], err));
    rc = hd_data_add(&d, text, tok, hd_tokenizer_size(tok), err);
    if (rc == HD_OK)
        rc = open_and_measure(a, &d, tok, n_window, &s, err);
    if (rc == HD_OK) {
        mean = s.nats / (double)s.n;
        bits = s.n_bytes ? s.nats / log(2) / (double)s.n_bytes : 0;
        if (hd_args_has(a, "json"))
            hd_out_printf("{\"ppl\": %.6f, \"nats_per_token\": %.6f, \"bits_per_byte\": %.6f, \"tokens\": %lld, \"bytes\": %lld, \"documents\": %lld, \"window\": %lld}\n", exp(mean), mean, bits,
                          (long long)s.n, (long long)s.n_bytes, (long long)d.n_doc, (long long)n_window);
        else
            hd_out_printf("perplexity %.4f: %.4f nats a token, %.4f bits a byte, over %lld tokens in windows of %lld\n", exp(mean), mean, bits, (long long)s.n, (long long)n_window);
    }
    hd_data_release(&d);
    hd_tokenizer_free(tok);
    return rc;
}
