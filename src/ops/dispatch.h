/* dispatch.h: what the front ends of ops share: handing a call to whoever is behind the stream, and complaining about shapes. */
#ifndef HD_OPS_DISPATCH_H
#define HD_OPS_DISPATCH_H

#include "ops/stream.h"

void hd_dispatch(struct hd_stream *s, const struct hd_call *c);
/* ok, or one sentence with the op's name and both shapes in the stream. */
bool hd_require(struct hd_stream *s, bool ok, enum hd_op op, const struct hd_tensor *a, const struct hd_tensor *b);

#endif
