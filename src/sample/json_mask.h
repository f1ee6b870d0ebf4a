/* json_mask.h: keeps what is generated one JSON object: tokens that would break it cannot come.
 *
 * Bytes are followed through token/json_scan.h; a token may come when all of its bytes may. Written as Python's json.dumps does: one blank
 * behind a comma or colon, none elsewhere (a model could fill its window with white space otherwise). Strings are UTF-8; \u escapes are not
 * written, so that no half of a surrogate pair is. At most 64 levels. When the object is closed only an end token may come.
 *
 * Threads  a vocabulary is read by any; a mask belongs to the runner's
 */
#ifndef HD_SAMPLE_JSON_MASK_H
#define HD_SAMPLE_JSON_MASK_H

#include "sample/json_vocab.h"

struct hd_json_mask;

/* behind: the id that the object stands behind (the end of reasoning); -1: it begins at once. Errors: MEMORY. */
int hd_json_mask_create(struct hd_json_mask **out, const struct hd_json_vocab *v, int32_t behind, struct hd_err *err);

/* The functions of an hd_constraint; self is the mask. */
void hd_json_mask_apply(void *self, float *logits, int64_t n_vocab);
void hd_json_mask_take(void *self, int32_t id);
void hd_json_mask_free(void *self);

#endif
