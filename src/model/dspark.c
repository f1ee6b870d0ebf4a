/* dspark.c: see dspark.h. */
#include "model/dspark.h"

#include "base/json.h"

/* What only those need that run the module. */
static int check(struct hd_dspark *d, const json_t *c, int64_t n_layer, int64_t n_vocab, const char *file, struct hd_err *err)
{
    for (int64_t i = 0; i < d->n_tap; i++)
        if (json_object_get(c, "dspark_target_layer_ids") && (d->tap[i] < 0 || d->tap[i] >= n_layer || (i && d->tap[i] <= d->tap[i - 1])))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: dspark_target_layer_ids: entry %lld is no layer of 0 to %lld behind the one before", file, (long long)i,
                              (long long)n_layer - 1);
    if (d->tap[0] < 0)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: dspark_target_layer_ids is missing, and there are only %lld layers", file, (long long)n_layer);
    HD_TRY(hd_json_int(c, "dspark_noise_token_id", 0, n_vocab - 1, &d->noise, file, err));
    return hd_json_int(c, "dspark_block_size", 1, 64, &d->block, file, err);
}

int hd_dspark_config(struct hd_dspark *d, const json_t *c, int64_t n_layer, int64_t n_vocab, bool needed, const char *file, struct hd_err *err)
{
    const json_t *taps = json_object_get(c, "dspark_target_layer_ids");
    struct hd_err unsaid = {0};

    HD_TRY(hd_json_int_or(c, "dspark_markov_rank", 1, (int64_t)1 << 24, 256, &d->rank, file, err));
    d->n_tap = json_is_array(taps) ? (int64_t)json_array_size(taps) : 0;
    if (d->n_tap > HD_DSPARK_TAPS)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: dspark_target_layer_ids: found %lld layers; at most %d expected", file, (long long)d->n_tap, HD_DSPARK_TAPS);
    for (int64_t i = 0; i < d->n_tap; i++) {
        const json_t *t = json_array_get(taps, (size_t)i);

        d->tap[i] = json_is_integer(t) ? json_integer_value(t) : -1;
    }
    if (!d->n_tap)
        for (d->n_tap = 0; d->n_tap < 3; d->n_tap++)
            d->tap[d->n_tap] = n_layer - 3 + d->n_tap;
    if (!check(d, c, n_layer, n_vocab, file, needed ? err : &unsaid))
        return HD_OK;
    d->block = 0;
    return needed ? err->code : HD_OK;
}

int hd_dspark_tap(const struct hd_dspark *d, int64_t layer)
{
    for (int i = 0; i < d->n_tap; i++)
        if (d->tap[i] == layer)
            return i;
    return -1;
}

void hd_dspark_main(struct hd_stream *s, struct hd_tensor *main, const struct hd_tensor *taps, const struct hd_tensor *proj, const struct hd_tensor *norm, int64_t act_block,
                    float eps)
{
    hd_linear(s, main, taps, proj, act_block);
    hd_rmsnorm(s, main, main, norm, eps);
    hd_bf16(s, main);
    hd_trace(s, main, "draft.main_x");
}

struct hd_tensor *hd_dspark_next(struct hd_stream *s, const struct hd_tensor *w1, const struct hd_tensor *w2, const struct hd_tensor *proj, const struct hd_ragged *prev,
                                 const int32_t *rows, const struct hd_draft_out *of, struct hd_tensor **confidence)
{
    int64_t n = prev->n_tok, width = hd_cols(of->y), rank = hd_cols(w1);
    struct hd_tensor *logits = hd_new(s, HD_F32, n, hd_cols(of->logits)), *bias = hd_new(s, HD_F32, n, hd_cols(of->logits)), *m = hd_new(s, HD_F32, n, rank);
    struct hd_tensor *wide = hd_new(s, HD_F32, n, width + rank);

    *confidence = hd_new(s, HD_F32, n, 1);
    hd_embed(s, m, w1, prev);
    hd_matmul(s, bias, m, w2);
    hd_gather(s, logits, of->logits, rows);
    hd_add(s, logits, logits, bias);
    hd_gather(s, hd_slice(s, wide, 0, width), of->y, rows);
    hd_embed(s, hd_slice(s, wide, width, rank), w1, prev);
    hd_matmul(s, *confidence, wide, proj);
    return logits;
}
