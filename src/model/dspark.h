/* dspark.h: what the DSpark drafters of V4 and V4.1 share: a few layers that see the model's own streams, and a table that makes a block of guesses
 * follow from one another.
 *
 * Math     main[t] = norm(main_proj [tap_0[t] | tap_1[t] | ..]), taps: means over the streams of some layers; every stage keeps latents of main in a
 *          window of its own. A draft is a block of rows, the newest token and noise behind it; every row sees that window and the whole block.
 *          Row i proposes: base[i] + w2 w1[token before], the tokens before chained; confidence[i] = proj [y[i] | w1[token before]]
 * Source   the inference code that DeepSeek-V4-Flash-DSpark and DeepSeek-V4.1-Flash were published with
 * Traps    V4 taps what layers give, V4.1 what they get; y is the collapsed stream before the last norm
 */
#ifndef HD_MODEL_DSPARK_H
#define HD_MODEL_DSPARK_H

#include "model/model.h"

#define HD_DSPARK_TAPS 16

struct hd_dspark {
    int64_t block, noise, rank, n_tap;
    int64_t tap[HD_DSPARK_TAPS];      /* layers, ascending */
};

/* The dspark_ fields; without dspark_target_layer_ids the last three layers. needed: all of them must make sense, and block size and noise be there; otherwise
 * n_tap and rank, which shapes depend on, are enough, and block is 0 where the rest would not do. Errors: FORMAT. */
int hd_dspark_config(struct hd_dspark *d, const json_t *c, int64_t n_layer, int64_t n_vocab, bool needed, const char *file, struct hd_err *err);

/* Layer's place among the taps; -1. */
int hd_dspark_tap(const struct hd_dspark *d, int64_t layer);

/* main[T, D] of taps[T, n_tap D]. */
void hd_dspark_main(struct hd_stream *s, struct hd_tensor *main, const struct hd_tensor *taps, const struct hd_tensor *proj, const struct hd_tensor *norm, int64_t act_block,
                    float eps);

/* model.h: next() */
struct hd_tensor *hd_dspark_next(struct hd_stream *s, const struct hd_tensor *w1, const struct hd_tensor *w2, const struct hd_tensor *proj, const struct hd_ragged *prev,
                                 const int32_t *rows, const struct hd_draft_out *of, struct hd_tensor **confidence);

#endif
