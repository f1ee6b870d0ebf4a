/* expert_pack.h: a file of experts as they lie in memory, so that what is read needs no processor and lands where it is used.
 *
 * Format, little-endian, numbers of 64 bits unless said otherwise; every record begins at a multiple of 4096, as direct reads want it:
 *   head      "HDEXPERT"; u32 0x01020304, u32 version (1); layout (hd_panel_layout()); bytes of the file; where the index begins; u32 files, u32 layers of experts;
 *             experts; sum of what is before
 *   records   an expert each: gate, up and down as a slot of the cache has them (panels, or rows and scales; each of them padded to 64 bytes)
 *   index     the checkpoint's files: bytes, time of the last change (seconds, nanoseconds); layers: key (names, formats, shapes and places of their experts in the checkpoint),
 *             taste (a few bytes of each of their matrices), where the first record begins, bytes of a record, how many, index of the first; experts: sum of
 *             all of a record, sum of the beginnings of its pages; sum of the index
 * Panels are the same at every ISA level, so a pack serves all of them; hd_panel_layout() tells packs of another version of hadal.
 *
 * Believed is a pack whose head, index and size hold together, and whose checkpoint is the one that it was made from: key and sizes of files are as they were,
 * and so are times or, after a copy, tastes. A record is believed when its pages' beginnings have their sum: what an interrupted copy left out is found, a flipped bit is
 * not (hd_expert_pack_check() reads everything). An expert whose record is not believed comes from the checkpoint from then on.
 */
#ifndef HD_WEIGHTS_EXPERT_PACK_H
#define HD_WEIGHTS_EXPERT_PACK_H

#include "base/pool.h"
#include "weights/experts.h"
#include "weights/pack.h"

/* Where a model's pack lies unless somebody says otherwise: in its directory, or beside its (first) GGUF file. hd_malloc'ed; NULL: no memory. */
char *hd_expert_pack_path(const struct hd_store *st);

/* What writing takes. Errors: UNSUPPORTED where there are no experts, or where they do not lie in the files as they are used. */
int hd_expert_pack_bytes(const struct hd_experts *x, const struct hd_store *st, int64_t *bytes, struct hd_err *err);
/* x: gathered, not opened. Written to a temporary name and renamed; nothing is left behind on failure. Errors: IO (also: no room for it), MEMORY, CANCELLED. */
int hd_expert_pack_write(struct hd_experts *x, const struct hd_store *st, const char *path, struct hd_pool *pool, hd_progress_fn progress, void *arg, struct hd_err *err);
/* Reads all records of a pack that x has taken (hd_experts_take_pack). Errors: FORMAT with the first expert that is not as it was written; IO; CANCELLED. */
int hd_expert_pack_check(struct hd_experts *x, hd_progress_fn progress, void *arg, struct hd_err *err);

#endif
