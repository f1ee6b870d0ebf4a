/* spill.h: an array that lies in a file without a name: it grows like memory, and the system may keep it on disk instead.
 *
 * Growing reserves the blocks, so that a full disk is an error here and no signal later. Nothing is left when the process ends, however it does. */
#ifndef HD_BASE_SPILL_H
#define HD_BASE_SPILL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct hd_spill {
    bool open;
    int fd;
    void *p;                          /* moves when it grows */
    size_t cap;                       /* bytes */
};

/* An empty one in a directory. Errors: IO. */
int hd_spill_open(struct hd_spill *s, const char *dir, struct hd_err *err);
/* At least n bytes; what is there stays. Errors: IO (a full disk, a limit), MEMORY (no addresses left): s is as it was. */
int hd_spill_grow(struct hd_spill *s, size_t n, struct hd_err *err);
void hd_spill_close(struct hd_spill *s);              /* a zeroed one too */

#endif
