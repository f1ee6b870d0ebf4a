/* expert_read.c: how experts come from the files into their slots.
 *
 * An expert's three matrices and their scales lie in up to six places, often next to each other: places with small gaps between them become one
 * read. Direct reads need offsets, lengths and memory in whole blocks; the ends are read along and ignored. Packing takes the bytes from the
 * buffer through a copy of the tensor, so that hd_panel_pack() does not know where they come from.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/mem.h"
#include "weights/experts_inside.h"

#define BLOCK ((int64_t)4096)         /* of direct reads: what every file system accepts */
#define GAP ((int64_t)128 << 10)      /* bytes between two places that are cheaper to read along than to skip */
#define PIECE ((int64_t)4 << 20)      /* most of one read: between two, a reader sees that it should stop */

static int64_t up(int64_t n, int64_t to)
{
    return (n + to - 1) / to * to;
}

/* ---- sizes ---- */

static int64_t scale_bytes(const struct hd_tensor *w)
{
    return w->scale.n_row ? w->scale.n_row * hd_row_bytes(w->scale.type, w->scale.n_col) : 0;
}

int64_t hd_expert_part(const struct hd_expert *e, int m)
{
    const struct hd_panels *p = &e->panels[m];

    return p->kind ? hd_panel_count(p) * p->bytes : up(hd_tensor_bytes(e->w[m]), 64) + up(scale_bytes(e->w[m]), 64);
}

int64_t hd_expert_stored(const struct hd_expert *e)
{
    int64_t n = 0;

    for (int m = 0; m < 3; m++)
        n += hd_tensor_bytes(e->w[m]) + scale_bytes(e->w[m]);
    return n;
}

int64_t hd_expert_buffer(const struct hd_expert *e)
{
    return up(hd_expert_stored(e), BLOCK) + 6 * (GAP + 3 * BLOCK);
}

/* ---- places ---- */

struct place {
    int file;
    int64_t at, n;                    /* in the file */
    int64_t buf;                      /* in the buffer, once read */
    int part;                         /* 0 .. 2 data, 3 .. 5 scales */
};

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    return x->file != y->file ? (x->file < y->file ? -1 : 1) : x->at < y->at ? -1 : x->at > y->at;
}

static int places_of(const struct hd_experts *x, const struct hd_expert *e, struct place out[6])
{
    int n = 0;

    for (int m = 0; m < 6; m++) {
        const void *p = m < 3 ? e->data[m] : e->scale[m - 3];
        struct place *q = &out[n];

        if (!p)
            continue;
        *q = (struct place){.n = m < 3 ? hd_tensor_bytes(e->w[m]) : scale_bytes(e->w[m - 3]), .part = m};
        HD_ASSERT(hd_store_locate(x->store, p, &q->file, &q->at));
        n++;
    }
    qsort(out, (size_t)n, sizeof *out, by_place);
    return n;
}

/* ---- reads ---- */

static int read_failed(const struct hd_experts *x, const char *name, int file, int64_t at, int64_t n, int64_t got, struct hd_err *err)
{
    const char *path = x->store->file_names[file];

    name = name ? name : "an expert";
    if (got < 0)
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot read %lld bytes at %lld (%s)", path, (long long)n, (long long)at, name);
    return hd_err_set(err, HD_ERR_IO, "%s: found %lld bytes at %lld; expected %lld (%s): has the file become shorter?", path, (long long)got, (long long)at, (long long)n, name);
}

/* n bytes of a file at an offset into buf; direct: buf, at and n in whole blocks, of which need bytes must be there. Bytes found, or -1. */
static int64_t read_at(int fd, char *buf, int64_t at, int64_t n, int64_t need)
{
    int64_t got = 0;

    while (got < need) {
        ssize_t r;

        if (hd_fault_hit(HD_FAULT_READ)) {
            errno = EIO;
            return -1;
        }
        r = pread(fd, buf + got, (size_t)(n - got < PIECE ? n - got : PIECE), at + got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -1;
        if (r == 0 || (got + r < need && r % BLOCK))      /* the file's end */
            return got + r;
        got += r;
    }
    return got;
}

/* Places first .. last - 1 in one read. */
static int read_run(const struct hd_experts *x, const struct hd_expert *e, struct place *p, int first, int last, char *buf, int64_t *used, int64_t *n_read, struct hd_err *err)
{
    int fd = x->direct[p[first].file];
    int64_t block = fd >= 0 ? BLOCK : 1, from = p[first].at / block * block, end = p[last - 1].at + p[last - 1].n, n = up(end - from, block), got;

    got = read_at(fd >= 0 ? fd : x->store->files[p[first].file].fd, buf + *used, from, n, end - from);
    if (got < end - from)
        return read_failed(x, e->w[0]->name, p[first].file, from, end - from, got, err);
    for (int i = first; i < last; i++)
        p[i].buf = *used + p[i].at - from;
    *used += up(n, BLOCK);
    *n_read += n;
    return HD_OK;
}

static void pack(const struct hd_expert *e, const struct place *p, int n, const char *buf, char *out)
{
    for (int m = 0; m < 3; m++) {
        struct hd_tensor w = *e->w[m];
        const struct hd_panels *q = &e->panels[m];

        w.data = NULL;
        w.scale.data = NULL;
        for (int i = 0; i < n; i++) {
            if (p[i].part == m)
                w.data = (void *)(buf + p[i].buf);
            if (p[i].part == m + 3)
                w.scale.data = buf + p[i].buf;
        }
        for (int64_t k = 0; q->kind && k < hd_panel_count(q); k++)
            hd_panel_pack(&w, q, k, out + k * q->bytes);
        if (!q->kind) {
            memcpy(out, w.data, (size_t)hd_tensor_bytes(&w));
            if (w.scale.data)
                memcpy(out + up(hd_tensor_bytes(&w), 64), w.scale.data, (size_t)scale_bytes(&w));
        }
        out += hd_expert_part(e, m);
    }
}

int hd_expert_read(struct hd_experts *x, const struct hd_expert *e, char *buf, char *out, int64_t *n_read, double *read_s, double *pack_s, struct hd_err *err)
{
    struct place p[6];
    int n = places_of(x, e, p), first = 0;
    int64_t used = 0;
    double t0 = hd_now(), t1;

    for (int i = 1; i <= n; i++)
        if (i == n || p[i].file != p[first].file || p[i].at - (p[i - 1].at + p[i - 1].n) > GAP) {
            HD_TRY(read_run(x, e, p, first, i, buf, &used, n_read, err));
            first = i;
        }
    t1 = hd_now();
    *read_s += t1 - t0;
    if (out)
        pack(e, p, n, buf, out);
    *pack_s += hd_now() - t1;
    return HD_OK;
}

/* ---- rows of tables ---- */

bool hd_experts_has_rows(void *self, const struct hd_tensor *w)
{
    const struct hd_experts *x = self;
    int64_t at;
    int file;

    for (size_t i = 0; i < x->n_table; i++)
        if (x->table[i] == w)
            return hd_store_locate(x->store, w->data, &file, &at) && w->row_bytes <= HD_SOURCE_ROW_MAX && hd_row_bytes(w->scale.type, w->scale.n_col) <= HD_SOURCE_ROW_MAX;
    return false;
}

/* n bytes that lie at p in the map. */
static int read_mapped(const struct hd_experts *x, const struct hd_tensor *w, const void *p, int64_t n, void *out, struct hd_err *err)
{
    int64_t at, got;
    int file;

    HD_ASSERT(hd_store_locate(x->store, p, &file, &at));
    got = read_at(x->store->files[file].fd, out, at, n, n);
    return got == n ? HD_OK : read_failed(x, w->name, file, at, n, got, err);
}

int hd_experts_row(void *self, const struct hd_tensor *w, int64_t row, void *data, void *scale, struct hd_err *err)
{
    struct hd_experts *x = self;
    int64_t n = hd_row_bytes(w->scale.type, w->scale.n_col);

    HD_TRY(read_mapped(x, w, (const char *)w->data + row * w->row_bytes, w->row_bytes, data, err));
    if (w->scale.data)
        HD_TRY(read_mapped(x, w, (const char *)w->scale.data + row / w->scale.block_rows * n, n, scale, err));
    __atomic_fetch_add(&x->stats.n_row, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&x->stats.row_bytes, w->row_bytes + (w->scale.data ? n : 0), __ATOMIC_RELAXED);
    return HD_OK;
}

void hd_experts_rows_ahead(void *self, const struct hd_tensor *w, const int32_t *row, int64_t n)
{
    const struct hd_experts *x = self;
    int64_t at;
    int file;

    if (!w->data || !hd_store_locate(x->store, w->data, &file, &at))
        return;
    for (int64_t i = 0; i < n; i++)
        posix_fadvise(x->store->files[file].fd, at + row[i] * w->row_bytes, w->row_bytes, POSIX_FADV_WILLNEED);
}

/* ---- files ---- */

int hd_experts_open_files(struct hd_experts *x, struct hd_err *err)
{
    char path[64];
    int64_t at;
    int file;

    for (size_t i = 0; i < x->n; i++)
        for (int m = 0; m < 6; m++) {
            const void *p = m < 3 ? x->e[i].data[m] : x->e[i].scale[m - 3];

            if (p ? !hd_store_locate(x->store, p, &file, &at) : m < 3)
                return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: experts are not stored as they are used; they must all fit into memory", x->store->path);
        }
    if (!(x->direct = hd_malloc((size_t)x->store->n_file * sizeof *x->direct)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %d files", x->store->n_file);
    for (int i = 0; i < x->store->n_file; i++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", x->store->files[i].fd);        /* the same file, whatever its name means by now */
        x->direct[i] = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
        if (x->direct[i] >= 0) {      /* some file systems only say so when one reads */
            char *block = hd_aligned((size_t)BLOCK, (size_t)BLOCK);

            if (!block || pread(x->direct[i], block, (size_t)BLOCK, 0) < 0) {
                close(x->direct[i]);
                x->direct[i] = -1;
            }
            hd_free(block);
        }
    }
    return HD_OK;
}

void hd_experts_close_files(struct hd_experts *x)
{
    for (int i = 0; x->direct && i < x->store->n_file; i++)
        if (x->direct[i] >= 0)
            close(x->direct[i]);
    hd_free(x->direct);
    x->direct = NULL;
}

/* ---- readers ---- */

/* The next expert to read: one that is waited for before one that is not. -1: none. */
static int32_t next_job(struct hd_experts *x)
{
    size_t at = 0;
    int32_t i;

    if (!x->queue.n)
        return -1;
    while (at < x->queue.n && !x->e[x->queue.id[at]].wanted)
        at++;
    at = at < x->queue.n ? at : 0;
    i = x->queue.id[at];
    memmove(x->queue.id + at, x->queue.id + at + 1, (--x->queue.n - at) * sizeof i);
    return i;
}

static void *read_experts(void *arg)
{
    struct hd_expert_reader *r = arg;
    struct hd_experts *x = r->x;

    pthread_mutex_lock(&x->lock);
    while (!x->closing) {
        int32_t i = next_job(x);
        struct hd_err err = {0};
        int64_t n_read = 0;
        double read_s = 0, pack_s = 0;
        int rc;

        if (i < 0) {
            pthread_cond_wait(&x->work, &x->lock);
            continue;
        }
        x->e[i].state = HD_EXPERT_READING;
        pthread_mutex_unlock(&x->lock);
        rc = hd_expert_read(x, &x->e[i], r->buf, x->data + x->e[i].slot * x->slot_bytes, &n_read, &read_s, &pack_s, &err);
        pthread_mutex_lock(&x->lock);
        x->stats.n_read++;
        x->stats.bytes += n_read;
        x->stats.read_s += read_s;
        x->stats.pack_s += pack_s;
        hd_experts_done(x, i, rc, &err);
    }
    pthread_mutex_unlock(&x->lock);
    return NULL;
}

bool hd_experts_start(struct hd_experts *x)
{
    bool any = false;

    for (int i = 0; i < HD_EXPERTS_READERS; i++) {
        struct hd_expert_reader *r = &x->reader[i];

        r->x = x;
        r->buf = hd_aligned((size_t)BLOCK, (size_t)x->buf_bytes);
        r->started = r->buf && !pthread_create(&r->thread, NULL, read_experts, r);
        any = any || r->started;
    }
    return any;
}

void hd_experts_stop(struct hd_experts *x)
{
    pthread_mutex_lock(&x->lock);
    x->closing = true;
    pthread_cond_broadcast(&x->work);
    pthread_mutex_unlock(&x->lock);
    for (int i = 0; i < HD_EXPERTS_READERS; i++) {
        if (x->reader[i].started)
            pthread_join(x->reader[i].thread, NULL);
        hd_free(x->reader[i].buf);
    }
}

/* ---- the probe ---- */

struct probe {
    struct hd_experts *x;
    char *buf;
    uint64_t seed;
    double until;
    int64_t bytes;
    int rc;
    struct hd_err err;
};

static void *probe_reads(void *arg)
{
    struct probe *p = arg;
    double ignored = 0;

    do {
        p->seed = p->seed * 6364136223846793005u + 1442695040888963407u;
        p->rc = hd_expert_read(p->x, &p->x->e[(p->seed >> 33) % p->x->n], p->buf, NULL, &p->bytes, &ignored, &ignored, &p->err);
    } while (p->rc == HD_OK && hd_now() < p->until);
    return NULL;
}

int hd_experts_probe(struct hd_experts *x, double seconds, double *bytes_per_s, struct hd_err *err)
{
    struct probe p[HD_EXPERTS_READERS];
    pthread_t thread[HD_EXPERTS_READERS];
    double t0 = hd_now();
    int64_t bytes = 0;
    int n = 0, rc = HD_OK;

    for (; n < HD_EXPERTS_READERS; n++) {
        p[n] = (struct probe){.x = x, .buf = hd_aligned((size_t)BLOCK, (size_t)x->buf_bytes), .seed = (uint64_t)(n + 1) * 77777, .until = t0 + seconds};
        if (!p[n].buf || pthread_create(&thread[n], NULL, probe_reads, &p[n])) {
            hd_free(p[n].buf);
            break;
        }
    }
    for (int i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
        bytes += p[i].bytes;
        if (p[i].rc < 0 && rc == HD_OK) {
            rc = p[i].rc;
            *err = p[i].err;
        }
        hd_free(p[i].buf);
    }
    if (!n)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory or threads to probe the drive");
    *bytes_per_s = (double)bytes / (hd_now() - t0);
    return rc;
}
