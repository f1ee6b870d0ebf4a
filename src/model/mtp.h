/* mtp.h: multi-token prediction in DeepSeek-V3's form, around any architecture's layer: modules behind the last layer, each of which guesses one token further.
 *
 * Math     module k of token i: z = eh_proj [norm_e(embed(t[i+k])) | norm_h(h)], h: for k = 1 what the model says of token i after its last norm, then what the
 *          module before says after its own; logits = head(norm(layer(z))) are of t[i+k+1]
 * Source   the DeepSeek-V3 technical report, 2.2, and README_WEIGHTS.md; the order of the halves, and h after the norm, as vLLM and SGLang run it
 * Traps    what the layer keeps at i needs token i + 1: every step completes the row before its first
 */
#ifndef HD_MODEL_MTP_H
#define HD_MODEL_MTP_H

#include "model/model.h"

struct hd_mtp_weights {
    struct hd_tensor enorm, hnorm, eh_proj, norm;     /* f32 [D], [D], [D, 2 D], f32 [D] */
};

struct hd_mtp {
    int64_t n, d_model, n_vocab;                      /* n: modules that learn; the first one drafts, fed with its own output behind the first token */
    float norm_eps;
    const struct hd_tensor *embed, *norm, *head;      /* the model's */
    int part_hidden;                                  /* the window with what the model said of the newest tokens */
    /* the architecture's own: module i's layer on z[T, D], whose tokens stand at b's positions; and only what its attention would keep of z */
    void (*run)(struct hd_stream *s, const void *arch, int i, const struct hd_ragged *b, struct hd_tensor *z);
    void (*keep)(struct hd_stream *s, const void *arch, int i, const struct hd_ragged *b, const struct hd_tensor *z);
    const struct hd_mtp_weights *(*weights)(const void *arch, int i);
    const void *arch;
};

struct hd_draft hd_mtp_draft_kind(void);
/* The cache's part behind those of the first module's layer (part[n_part], which become hints); 1. */
int hd_mtp_part(struct hd_mtp *d, int layer, int part_hidden, struct hd_cache_part *part, int n_part);

/* What the first module keeps of the tokens of a step; x[T, D]: what the last layer gave. */
void hd_mtp_keep(struct hd_stream *s, const struct hd_mtp *d, const struct hd_ragged *b, const struct hd_tensor *x);
/* The modules' losses at every token of whole sequences. Embedding and head are the model's and learn from them too. */
void hd_mtp_learn(struct hd_stream *s, const struct hd_mtp *d, const struct hd_ragged *b, const struct hd_tensor *x);
/* hd_arch.draft() */
void hd_mtp_draft(struct hd_stream *s, const struct hd_mtp *d, const struct hd_ragged *b, struct hd_draft_out *out);

#endif
