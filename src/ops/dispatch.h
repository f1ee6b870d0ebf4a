/* dispatch.h: what the front ends of ops share: handing a call to whoever is behind the stream, and complaining about shapes. */
#ifndef HD_OPS_DISPATCH_H
#define HD_OPS_DISPATCH_H

#include "ops/stream.h"

void hd_dispatch(struct hd_stream *s, const struct hd_call *c);
/* Charges the profile with a call, or with its way back. */
void hd_lap(struct hd_profile *p, const struct hd_call *c, bool back);
/* What w's rows from row0 on are multiplied with: F32, Q16 or Q8; Q16, the largest, in dry runs. */
enum hd_dtype hd_act_type(const struct hd_stream *s, const struct hd_tensor *w, int64_t row0);
/* x as blocks of the given type, in the step's arena. */
const struct hd_tensor *hd_quantise(struct hd_stream *s, enum hd_dtype type, const struct hd_tensor *x);
/* Where entries are shared out instead of heads, one token's sums of so many blocks of HD_SUMS_RUN of them (at least a few) are written down: out_cols outputs and two
 * for each head. */
struct hd_tensor *hd_sums_scratch(struct hd_stream *s, int64_t n_entry, int64_t n_head, int64_t out_cols);
/* For whoever gathers weights in a dry run. */
void hd_meet_weight(struct hd_stream *s, const struct hd_tensor *w);
/* ok, or one sentence with the op's name and both shapes in the stream. */
bool hd_require(struct hd_stream *s, bool ok, enum hd_op op, const struct hd_tensor *a, const struct hd_tensor *b);

#endif
