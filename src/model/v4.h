/* v4.h: what the two files of DeepSeek-V4 share: the model (arch_deepseek_v4.c) and its draft modules (v4_draft.c). */
#ifndef HD_MODEL_V4_H
#define HD_MODEL_V4_H

#include "model/attn_csa.h"
#include "model/dspark.h"
#include "model/mhc.h"
#include "model/model.h"
#include "model/moe.h"
#include "model/rope.h"
#include "model/vit.h"
#include "weights/bind.h"

struct hd_v4_layer {
    struct hd_tensor attn_norm, ffn_norm;
    struct hd_mhc_weights hc_attn, hc_ffn;
    struct hd_csa_weights attn;
    struct hd_moe_weights ffn;
    struct hd_tensor bias_vl;                         /* for image positions */
    struct hd_tensor gate_up_exps, down_exps;         /* transformers' fused form: [E, 2 F, D], [E, D, F] */
    int64_t ratio;
    int part0;
    /* draft modules only */
    struct hd_tensor e_proj, h_proj, enorm, hnorm, norm;
    struct hd_mhc_weights hc_head;
    struct hd_tensor main_proj, main_norm, markov_w1, markov_w2, confidence;
};

struct hd_v4 {
    int64_t n_layer, d_model, n_vocab, d_expert, n_hash, n_mtp, n_shared;
    struct hd_csa_hp attn;
    struct hd_moe_block_hp moe;
    struct hd_mhc_hp mhc;
    struct hd_rope_hp rope, rope_comp;
    float norm_eps;
    bool fused, dspark;
    struct hd_dspark spark;
    int part_stream;                                  /* MTP: the window with the streams of the newest tokens */
    struct hd_tensor embed, norm, head;
    struct hd_mhc_weights hc_head;
    struct hd_tensor inv_freq, inv_freq_comp;
    struct hd_v4_layer *layer, *mtp;
    struct hd_symbol sym[24];
    struct hd_vit vit;
    struct hd_weight_list list[3];          /* the model, draft modules, vision */
};

/* What the layers of a step work on. */
struct hd_v4_work {
    struct hd_tensor *x, *mix, *u, *y;                /* streams [T, C D], their mix, a half-layer's input and output [T, D] */
    struct hd_csa_step st;
};

void hd_v4_work_new(struct hd_stream *s, const struct hd_v4 *d, int64_t n, struct hd_v4_work *k);
/* Before a half-layer: its input in u. */
void hd_v4_enter(struct hd_stream *s, const struct hd_v4 *d, const struct hd_mhc_weights *hc, const struct hd_tensor *norm, const char *name, int layer, struct hd_v4_work *k);
/* next: the layer whose experts may be read ahead, or NULL. */
void hd_v4_layer_run(struct hd_stream *s, const struct hd_v4 *d, const struct hd_v4_layer *l, const struct hd_v4_layer *next, const struct hd_ragged *b, int layer,
                     struct hd_v4_work *k);
/* u[n, D] = the streams of x collapsed for the head; then logits. */
struct hd_tensor *hd_v4_collapse(struct hd_stream *s, const struct hd_v4 *d, const struct hd_mhc_weights *w, const struct hd_tensor *x);
void hd_v4_head(struct hd_stream *s, const struct hd_v4 *d, const struct hd_tensor *norm, struct hd_tensor *u, struct hd_tensor *logits);

/* ---- v4_draft.c ---- */

/* Which module lies in the checkpoint, or is planned: counts and hyper-parameters. Errors: FORMAT, MEMORY. */
int hd_v4_draft_find(struct hd_model *m, struct hd_v4 *d, struct hd_err *err);
/* The cache's parts of what drafts, from number first on; how many. */
int hd_v4_draft_parts(const struct hd_model *m, struct hd_v4 *d, int first, struct hd_cache_part *part);
/* What the modules keep of the tokens of a step: MTP of x[T, C D], the streams behind the last layer, DSpark of taps[T, n_tap D]. */
void hd_v4_draft_keep(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, const struct hd_tensor *x, const struct hd_tensor *taps);
/* Their losses at every token of whole sequences. */
void hd_v4_draft_learn(struct hd_stream *s, const struct hd_v4 *d, const struct hd_ragged *b, const struct hd_tensor *x, const struct hd_tensor *taps);
void hd_v4_draft(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, struct hd_draft_out *out);
struct hd_tensor *hd_v4_draft_next(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *prev, const int32_t *which, const struct hd_draft_out *of,
                                   struct hd_tensor **confidence);

#endif
