/* file.h: files as hadal reads and writes them.
 *
 * Reading: only regular files (reached through symlinks if need be; download caches use them). Pipes, devices and
 * directories are refused by name before a byte is read. Writing: to a temporary name beside the target, renamed when
 * everything is on disk, removed when anything fails, so that a failed run leaves nothing behind.
 */
#ifndef HD_BASE_FILE_H
#define HD_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct hd_file_map {
    const unsigned char *data;    /* NULL for an empty file */
    size_t n;
    int fd;
};

/* Maps path read-only. Errors: IO (missing, not a regular file, no permission). The fd stays open until unmapped. */
int hd_file_map(struct hd_file_map *m, const char *path, struct hd_err *err);
void hd_file_unmap(struct hd_file_map *m);

/* Reads a whole regular file of at most max bytes into hd_malloc'ed memory with a NUL after it. */
int hd_file_read(const char *path, size_t max, char **data, size_t *n, struct hd_err *err);

bool hd_file_exists(const char *path);
bool hd_file_is_dir(const char *path);

/* dir + "/" + name in hd_malloc'ed memory; NULL when there is none. */
char *hd_path_join(const char *dir, const char *name);
const char *hd_path_base(const char *path);

/* A file in the making. Errors are sticky: write freely, look at hd_out_commit(). */
struct hd_out {
    char *path, *tmp;
    int fd;
    bool named;                   /* tmp exists; otherwise the file has no name yet (where the file system allows it), and nothing is left of a killed process */
    bool failed, secret;          /* secret: set by the caller: for nobody's eyes but the user's */
    struct hd_err err;
    unsigned char *buf;
    size_t n_buf;
};

int hd_out_open(struct hd_out *o, const char *path, struct hd_err *err);
void hd_out_write(struct hd_out *o, const void *p, size_t n);
int hd_out_commit(struct hd_out *o, struct hd_err *err);    /* flush, fsync, rename; releases o, also on failure */
void hd_out_abort(struct hd_out *o);                        /* removes the temporary file; releases o */

/* Removes the temporary files of every open hd_out: async-signal-safe, for the program's SIGINT / SIGTERM handler. */
void hd_out_abort_all(void);

#endif
