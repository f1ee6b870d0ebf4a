/* replay_disk.h: turns of the replay map in files, so that they survive restarts as kept prefixes do.
 *
 *   FINGERPRINT-TENANT-NUMBER.turn      16 hexadecimal digits each; numbers grow
 *
 * A file is JSON: tenant, reasoning, content, calls, ids, thought. The fingerprint is the tokenizer's: ids mean the same. Files are complete or not
 * there; nobody but the owner may read them. A helper writes and removes; when it has too much to do, turns are not written.
 *
 * Threads  open and close on one; put and drop from any, one at a time
 */
#ifndef HD_SERVER_REPLAY_DISK_H
#define HD_SERVER_REPLAY_DISK_H

#include "server/replay.h"

struct hd_replay_disk;

/* Makes dir (in one that is there). Errors: IO, MEMORY. */
int hd_replay_disk_open(struct hd_replay_disk **out, const char *dir, const struct hd_tokenizer *tok, struct hd_err *err);
void hd_replay_disk_close(struct hd_replay_disk *d);          /* after what was put; NULL is fine */

/* Calls fn for the newest n_max turns, oldest first; what it returns false for, and what cannot be read, is removed. Older ones too. */
int hd_replay_disk_load(struct hd_replay_disk *d, size_t n_max, bool (*fn)(void *arg, uint64_t number, const json_t *turn), void *arg, struct hd_err *err);

/* Takes the reference to turn. The number it was given; 0: it was not written. */
uint64_t hd_replay_disk_put(struct hd_replay_disk *d, const char *tenant, json_t *turn);
void hd_replay_disk_drop(struct hd_replay_disk *d, const char *tenant, uint64_t number);

#endif
