/* teacher.c: see teacher.h. */
#include "train/teacher.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "engine/model_tokenizer.h"

#define CHUNK 512                     /* tokens of a step: their logits are in memory */
#define AT_ONCE 64                    /* sequences of a step */

/* ---- the vocabulary ---- */

static bool same_text(const struct hd_tokenizer *a, const struct hd_tokenizer *b, int32_t id)
{
    struct hd_view x = hd_token_text(a, id, true), y = hd_token_text(b, id, true);

    return x.n == y.n && (!x.n || !memcmp(x.p, y.p, x.n));
}

static int check_vocab(const struct hd_teacher *t, const char *model, const struct hd_tokenizer *tok, struct hd_err *err)
{
    struct hd_tokenizer *own;
    int rc = HD_OK;

    if (t->engine.model.hp.n_vocab < t->n_vocab)
        return hd_err_set(err, HD_ERR_USAGE, "teacher %s: has %lld ids; the model that learns has %lld", model, (long long)t->engine.model.hp.n_vocab, (long long)t->n_vocab);
    if (!tok)
        return HD_OK;
    HD_TRY(hd_model_tokenizer(&own, model, err));
    for (int64_t i = 0; i < hd_tokenizer_size(tok) && rc == HD_OK; i++)
        if (!same_text(tok, own, (int32_t)i)) {
            struct hd_view x = hd_token_text(own, (int32_t)i, true), y = hd_token_text(tok, (int32_t)i, true);

            rc = hd_err_set(err, HD_ERR_USAGE, "teacher %s: has another vocabulary: id %lld is \"%.*s\" there and \"%.*s\" here", model, (long long)i, (int)(x.n < 40 ? x.n : 40), x.p,
                            (int)(y.n < 40 ? y.n : 40), y.p);
        }
    hd_tokenizer_free(own);
    return rc;
}

/* ---- */

int hd_teacher_open(struct hd_teacher *t, const char *model, const struct hd_tokenizer *tok, int64_t n_vocab, const struct hd_loader *l, int64_t top, float share, int n_thread, struct hd_err *err)
{
    struct hd_engine_options o = {.n_thread = n_thread, .n_ctx = l->batch_tokens + 64 * l->max_seq, .chunk = CHUNK};

    memset(t, 0, sizeof *t);
    HD_TRY(hd_engine_open(&t->engine, model, &o, err));
    t->opened = true;
    t->max_seq = l->max_seq;
    t->batch_tokens = l->batch_tokens;
    t->n_vocab = n_vocab;
    t->top = top < n_vocab ? top : n_vocab;
    t->soft.share = share;
    HD_TRY(check_vocab(t, model, tok, err));
    if (t->engine.model.hp.n_ctx < l->context)
        return hd_err_set(err, HD_ERR_USAGE, "teacher %s: its context is %lld tokens; pieces of text have up to %lld", model, (long long)t->engine.model.hp.n_ctx, (long long)l->context);
    t->session = hd_calloc((size_t)t->max_seq, sizeof *t->session);
    t->id = hd_calloc((size_t)(t->batch_tokens * t->top), sizeof *t->id);
    t->p = hd_calloc((size_t)(t->batch_tokens * t->top), sizeof *t->p);
    return t->session && t->id && t->p ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for what a teacher says of %lld tokens", (long long)t->batch_tokens);
}

void hd_teacher_close(struct hd_teacher *t)
{
    for (int64_t i = 0; i < t->n_session; i++)
        hd_session_close(&t->session[i]);
    hd_free(t->session);
    hd_free(t->id);
    hd_free(t->p);
    if (t->opened)
        hd_engine_close(&t->engine);
    memset(t, 0, sizeof *t);
}

/* ---- a batch ---- */

struct pick {
    struct hd_teacher *t;
    const struct hd_batch *b;
    const float *logits;              /* rows of the model's vocabulary */
    int64_t token0;                   /* of the batch: the first row's */
};

/* The likeliest of n, most likely first, those of equal logits in order. Returns how many were found: less than k only among logits that are no numbers. */
static int64_t likeliest(const float *l, int64_t n, int64_t k, int32_t *id, float *best)
{
    int64_t have = 0;

    for (int64_t i = 0; i < n; i++) {
        int64_t at;

        if (!(have < k ? l[i] > -INFINITY : l[i] > best[k - 1]))
            continue;
        for (at = have < k ? have++ : k - 1; at > 0 && best[at - 1] < l[i]; at--) {
            best[at] = best[at - 1];
            id[at] = id[at - 1];
        }
        best[at] = l[i];
        id[at] = (int32_t)i;
    }
    return have;
}

static void pick_range(void *arg, int64_t begin, int64_t end)
{
    const struct pick *j = arg;
    int64_t k = j->t->top;

    for (int64_t r = begin; r < end; r++) {
        int32_t *id = j->t->id + (j->token0 + r) * k;
        float *p = j->t->p + (j->token0 + r) * k;
        double sum = 0;
        int64_t have;

        if (j->b->target[j->token0 + r] < 0)
            continue;
        have = likeliest(j->logits + r * j->t->engine.model.hp.n_vocab, j->t->n_vocab, k, id, p);
        for (int64_t i = have - 1; i >= 0; i--)
            sum += (double)(p[i] = expf(p[i] - p[0]));
        for (int64_t i = 0; i < k; i++) {
            p[i] = i < have ? (float)((double)p[i] / sum) : 0;
            id[i] = i < have ? id[i] : 0;
        }
        if (!have)
            p[0] = NAN;
    }
}

static int open_sessions(struct hd_teacher *t, int64_t n, struct hd_err *err)
{
    HD_ASSERT(n <= t->max_seq);
    for (int64_t i = 0; i < t->n_session; i++)
        HD_TRY(hd_session_rewind(&t->session[i], 0, err));
    for (; t->n_session < n; t->n_session++)
        HD_TRY(hd_session_open(&t->session[t->n_session], &t->engine, err));
    return HD_OK;
}

/* One step: tokens of as many sequences as it has room for, from *seq on, of which *done have been through. */
static int step(struct hd_teacher *t, const struct hd_batch *b, int64_t *seq, int64_t *done, struct hd_err *err)
{
    struct hd_step_item item[AT_ONCE];
    int64_t token0[AT_ONCE], room = CHUNK;
    int n = 0;

    while (*seq < b->n_seq && room > 0 && n < AT_ONCE) {
        const struct hd_span *span = &b->span[*seq];
        int64_t left = span->n_tok - *done, some = left < room ? left : room;

        token0[n] = span->tok0 + *done;
        item[n] = (struct hd_step_item){.session = &t->session[*seq], .ids = b->id + token0[n], .n_tok = some, .want = HD_WANT_ALL};
        n++;
        room -= some;
        *done += some;
        if (some == left) {
            ++*seq;
            *done = 0;
        }
    }
    HD_TRY(hd_engine_step(&t->engine, item, n, err));
    for (int i = 0; i < n; i++)
        hd_pool_for(t->engine.pool, item[i].n_tok, 4, pick_range, &(struct pick){t, b, item[i].logits, token0[i]});
    return HD_OK;
}

int hd_teacher_ask(struct hd_teacher *t, const struct hd_batch *b, struct hd_err *err)
{
    int64_t seq = 0, done = 0;

    HD_ASSERT(b->n_tok <= t->batch_tokens);
    HD_TRY(open_sessions(t, b->n_seq, err));
    while (seq < b->n_seq)
        HD_TRY(step(t, b, &seq, &done, err));
    for (int64_t i = 0; i < b->n_tok; i++)
        if (b->target[i] >= 0 && !isfinite(t->p[i * t->top]))
            return hd_err_set(err, HD_ERR_FORMAT, "the teacher's logits are not finite");
    t->soft.id = hd_view2(HD_I32, t->id, b->n_tok, t->top);
    t->soft.p = hd_view2(HD_F32, t->p, b->n_tok, t->top);
    return HD_OK;
}
