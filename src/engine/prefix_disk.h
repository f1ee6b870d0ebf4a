/* prefix_disk.h: kept sessions on disk: they survive restarts and a memory that is too small for all of them.
 *
 * A file is a snapshot (cache.h) whose blob is a head and the ids; its name says model, tenant and contents:
 *
 *   FINGERPRINT-TENANT-CONTENTS.prefix      three hashes of 16 hexadecimal digits
 *
 * The fingerprint is of whatever changes bits: shapes and samples of the weights, number format, instruction set. Files of other fingerprints
 * are left alone; torn ones and leftovers of interrupted writes are deleted. What is in the files is indexed when the directory is opened: ids
 * stay in memory, everything else on disk. The least recently used go when bytes run out; a file's time of modification is that of its use.
 *
 * Threads  the engine's, but for a helper that writes, removes and checks: it reads forks that the engine leaves alone until they are done
 */
#ifndef HD_ENGINE_PREFIX_DISK_H
#define HD_ENGINE_PREFIX_DISK_H

#include "engine/prefix.h"
#include "engine/runner.h"

struct hd_prefix_disk;
struct hd_prefix_file;

struct hd_prefix_disk_options {
    const char *dir;                  /* made when it is not there */
    int64_t bytes_max;
    bool inline_jobs;                 /* no helper: everything is done at once */
    void (*wake)(void *arg);          /* a check has ended; called by the helper. May be NULL */
    void *arg;
};

/* Errors: IO (the directory), MEMORY. Files that cannot be read are no error. */
int hd_prefix_disk_open(struct hd_prefix_disk **out, struct hd_engine *e, const struct hd_prefix_disk_options *opt, struct hd_err *err);
void hd_prefix_disk_close(struct hd_prefix_disk *d);   /* after the writes that were asked for; d may be NULL */

/* The file with most tokens that could begin w, at least `least` of them; NULL: none. Valid until d changes. */
struct hd_prefix_file *hd_prefix_disk_find(struct hd_prefix_disk *d, const struct hd_prefix_want *w, int64_t least, int64_t *n);
/* HD_OK: can be loaded. HD_AGAIN: it is being checked (with inline_jobs: has been; look for it again), and may be gone when wake() tells.
 * Errors: MEMORY. */
int hd_prefix_disk_check(struct hd_prefix_disk *d, struct hd_prefix_file *f);
/* out: a session of w's first n tokens. Errors: LIMIT (the cache is full), MEMORY; IO, FORMAT: f is gone. */
int hd_prefix_disk_load(struct hd_prefix_disk *d, struct hd_prefix_file *f, const struct hd_prefix_want *w, int64_t n, struct hd_session *out, struct hd_err *err);

/* Writes what ss holds, unless a file already serves as well, the helper has too much to do, or memory is short. */
void hd_prefix_disk_put(struct hd_prefix_disk *d, const char *tenant, struct hd_session *ss);
/* Takes back what the helper has done with: forks hold pages until then. wait: for one job at least. false: nothing was there. */
bool hd_prefix_disk_settle(struct hd_prefix_disk *d, bool wait);
void hd_prefix_disk_flush(struct hd_prefix_disk *d);
void hd_prefix_disk_stats(const struct hd_prefix_disk *d, struct hd_run_stats *out);

#endif
