/* expert_read.c: how experts come from the files into their slots.
 *
 * An expert's three matrices and their scales lie in up to six places, often next to each other: places with small gaps between them become one
 * read. Direct reads need offsets, lengths and memory in whole blocks; the ends are read along and ignored. Packing takes the bytes from the
 * buffer through a copy of the tensor, so that hd_panel_pack() does not know where they come from. A pack (expert_pack.h) has an expert in one place and as
 * it lies in its slot, where one read brings it.
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

#define BLOCK HD_EXPERT_BLOCK
#define GAP ((int64_t)128 << 10)      /* bytes between two places that are cheaper to read along than to skip */
#define PIECE ((int64_t)2 << 20)      /* of what is read ahead: between two, what is wanted goes first */
#define PIECE_WANTED ((int64_t)64 << 20)      /* one expert is one read: the system cuts it into what keeps the drive busy */
#define DEPTH ((int64_t)16 << 20)     /* bytes on the way for the mixture, of which nothing more is begun: one after the other arrives sooner than all at once */
#define QUIET 2                       /* readers that may read ahead; the others are there for what is wanted */

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

int64_t hd_expert_slot(const struct hd_expert *e)
{
    return hd_expert_part(e, 0) + hd_expert_part(e, 1) + hd_expert_part(e, 2);
}

int64_t hd_expert_needed(const struct hd_expert *e)
{
    return e->pack_at >= 0 ? hd_expert_slot(e) : hd_expert_stored(e);
}

int64_t hd_expert_buffer(const struct hd_expert *e)
{
    int64_t places = up(hd_expert_stored(e), BLOCK) + 6 * (GAP + 3 * BLOCK), slot = up(hd_expert_slot(e), BLOCK);

    return places > slot ? places : slot;
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

static int read_failed(const char *path, const char *name, int64_t at, int64_t n, int64_t got, struct hd_err *err)
{
    name = name ? name : "an expert";
    if (got < 0)
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot read %lld bytes at %lld (%s)", path, (long long)n, (long long)at, name);
    return hd_err_set(err, HD_ERR_IO, "%s: found %lld bytes at %lld; expected %lld (%s): has the file become shorter?", path, (long long)got, (long long)at, (long long)n, name);
}

/* Bytes on the way for the mixture. */
static int64_t urgent_bytes(const struct hd_experts *x)
{
    int64_t n = 0;

    for (int i = 0; i < HD_EXPERTS_READERS; i++)
        if (x->reader[i].now >= 0 && x->e[x->reader[i].now].wanted)
            n += hd_expert_stored(&x->e[x->reader[i].now]);
    return n;
}

/* The first in the queue that the mixture wants; queue.n: none. */
static size_t first_wanted(const struct hd_experts *x)
{
    size_t at = 0;

    while (at < x->queue.n && !x->e[x->queue.id[at]].wanted)
        at++;
    return at;
}

/* Bytes that may be read now of what r reads. What is read ahead waits until nothing is wanted. 0: none any more. */
static int64_t wait_turn(struct hd_expert_reader *r)
{
    struct hd_experts *x = r->x;
    const struct hd_expert *e = &x->e[r->now];
    int64_t n;

    pthread_mutex_lock(&x->lock);
    while (!e->wanted && !e->given_up && !x->closing && (urgent_bytes(x) || first_wanted(x) < x->queue.n))
        pthread_cond_wait(&x->work, &x->lock);
    n = !e->wanted && (e->given_up || x->closing) ? 0 : e->wanted || x->sweep ? PIECE_WANTED : PIECE;
    pthread_mutex_unlock(&x->lock);
    return n;
}

/* n bytes of a file at an offset into buf; direct: buf, at and n in whole blocks, of which need bytes must be there. Before each piece, r
 * (NULL: nobody) waits for its turn. Bytes found, -1, or GIVEN_UP. */
#define GIVEN_UP (-2)

static int64_t read_at(struct hd_expert_reader *by, int fd, char *buf, int64_t at, int64_t n, int64_t need)
{
    int64_t got = 0;

    while (got < need) {
        int64_t piece = by && by->started ? wait_turn(by) : PIECE_WANTED;
        ssize_t r;

        if (!piece)
            return GIVEN_UP;

        if (hd_fault_hit(HD_FAULT_READ)) {
            errno = EIO;
            return -1;
        }
        r = pread(fd, buf + got, (size_t)(n - got < piece ? n - got : piece), at + got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -1;
        if (r == 0 || (got + r < need && r % BLOCK))      /* the file's end */
            return got + r;
        got += r;
        if (by)
            by->bytes += r;
    }
    return got;
}

/* Places first .. last - 1 in one read. */
static int read_run(struct hd_expert_reader *r, const struct hd_expert *e, struct place *p, int first, int last, int64_t *used, struct hd_err *err)
{
    const struct hd_experts *x = r->x;
    int fd = x->direct[p[first].file];
    int64_t block = fd >= 0 ? BLOCK : 1, from = p[first].at / block * block, end = p[last - 1].at + p[last - 1].n, n = up(end - from, block), got;

    got = read_at(r, fd >= 0 ? fd : x->store->files[p[first].file].fd, r->buf + *used, from, n, end - from);
    if (got == GIVEN_UP)
        return HD_AGAIN;
    if (got < end - from)
        return read_failed(x->store->file_names[p[first].file], e->w[0]->name, from, end - from, got, err);
    for (int i = first; i < last; i++)
        p[i].buf = *used + p[i].at - from;
    *used += up(n, BLOCK);
    return HD_OK;
}

int64_t hd_expert_units(const struct hd_expert *e, int m)
{
    return e->panels[m].kind ? hd_panel_count(&e->panels[m]) : 1;
}

void hd_expert_lay(const struct hd_expert *e, int m, const struct hd_tensor *w, int64_t k, char *out)
{
    const struct hd_panels *q = &e->panels[m];

    if (q->kind) {
        hd_panel_pack(w, q, k, out + k * q->bytes);
        return;
    }
    memcpy(out, w->data, (size_t)hd_tensor_bytes(w));
    if (w->scale.data)
        memcpy(out + up(hd_tensor_bytes(w), 64), w->scale.data, (size_t)scale_bytes(w));
}

static void pack(const struct hd_expert *e, const struct place *p, int n, const char *buf, char *out)
{
    for (int m = 0; m < 3; m++) {
        struct hd_tensor w = *e->w[m];

        w.data = NULL;
        w.scale.data = NULL;
        for (int i = 0; i < n; i++) {
            if (p[i].part == m)
                w.data = (void *)(buf + p[i].buf);
            if (p[i].part == m + 3)
                w.scale.data = buf + p[i].buf;
        }
        for (int64_t k = 0; k < hd_expert_units(e, m); k++)
            hd_expert_lay(e, m, &w, k, out);
        out += hd_expert_part(e, m);
    }
}

/* e as the pack has it, to out (whole blocks). HD_AGAIN: given up. */
static int read_packed(struct hd_expert_reader *r, const struct hd_expert *e, char *out, struct hd_err *err)
{
    const struct hd_expert_pack *p = &r->x->pack;
    int64_t need = hd_expert_slot(e), got = read_at(r, p->direct >= 0 ? p->direct : p->file.fd, out, e->pack_at, up(need, BLOCK), need);

    if (got == GIVEN_UP)
        return HD_AGAIN;
    if (got < need)
        return read_failed(p->path, e->w[0]->name, e->pack_at, need, got, err);
    return hd_expert_sum(out, need, BLOCK) == e->pack_sum ? HD_OK : hd_err_set(err, HD_ERR_FORMAT, "%s: the record at %lld is damaged", p->path, (long long)e->pack_at);
}

/* Reads e's bytes into r's buffer, p[*n] says where. HD_AGAIN: given up. */
static int read_expert(struct hd_expert_reader *r, const struct hd_expert *e, struct place p[6], int *n, struct hd_err *err)
{
    int64_t used = 0;
    int first = 0, rc = HD_OK;

    *n = places_of(r->x, e, p);
    for (int i = 1; i <= *n && rc == HD_OK; i++)
        if (i == *n || p[i].file != p[first].file || p[i].at - (p[i - 1].at + p[i - 1].n) > GAP) {
            rc = read_run(r, e, p, first, i, &used, err);
            first = i;
        }
    return rc;
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
    got = read_at(NULL, x->store->files[file].fd, out, at, n, n);
    return got == n ? HD_OK : read_failed(x->store->file_names[file], w->name, at, n, got, err);
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
    struct hd_experts *x = self;
    int64_t at, scale_at = 0, scale_n = w->scale.data ? hd_row_bytes(w->scale.type, w->scale.n_col) : 0;
    int file, scale_file = 0;

    if (!hd_experts_has_rows(x, w) || !hd_store_locate(x->store, w->data, &file, &at) || (scale_n && !hd_store_locate(x->store, w->scale.data, &scale_file, &scale_at)))
        return;
    for (int64_t i = 0; i < n; i++) {
        posix_fadvise(x->store->files[file].fd, at + row[i] * w->row_bytes, w->row_bytes, POSIX_FADV_WILLNEED);
        if (scale_n)
            posix_fadvise(x->store->files[scale_file].fd, scale_at + row[i] / w->scale.block_rows * scale_n, scale_n, POSIX_FADV_WILLNEED);
    }
    __atomic_fetch_add(&x->stats.n_row_ahead, n, __ATOMIC_RELAXED);
}

/* ---- files ---- */

int hd_expert_open_direct(int fd)
{
    char path[64], *block;
    int direct;

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);      /* the same file, whatever its name means by now */
    direct = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (direct < 0)
        return -1;
    block = hd_aligned((size_t)BLOCK, (size_t)BLOCK);
    if (!block || pread(direct, block, (size_t)BLOCK, 0) < 0) {       /* some file systems only say so when one reads */
        close(direct);
        direct = -1;
    }
    hd_free(block);
    return direct;
}

int hd_experts_open_files(struct hd_experts *x, struct hd_err *err)
{
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
    for (int i = 0; i < x->store->n_file; i++)
        x->direct[i] = hd_expert_open_direct(x->store->files[i].fd);
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

/* The next expert to read: one that is waited for before one that is not, of which a few are read while nothing is waited for. -1: none now. */
static int32_t next_job(struct hd_experts *x)
{
    int64_t urgent = urgent_bytes(x);
    size_t at = first_wanted(x);
    int32_t i;
    int quiet = 0;

    for (int k = 0; k < HD_EXPERTS_READERS; k++)
        quiet += x->reader[k].now >= 0 && !x->e[x->reader[k].now].wanted;
    if (!x->queue.n || (at < x->queue.n ? urgent >= DEPTH : urgent || quiet >= QUIET))
        return -1;
    at = at < x->queue.n ? at : 0;
    i = x->queue.id[at];
    memmove(x->queue.id + at, x->queue.id + at + 1, (--x->queue.n - at) * sizeof i);
    return i;
}

/* The pack's record of expert i was not believed; the lock is held. */
static void distrust(struct hd_experts *x, struct hd_expert *e)
{
    e->pack_at = -1;
    x->stats.n_damaged++;
}

/* Reads expert i and packs it, if need be; the lock is held, but not meanwhile. */
static void serve(struct hd_expert_reader *r, int32_t i)
{
    struct hd_experts *x = r->x;
    struct hd_expert *e = &x->e[i];
    struct place p[6];
    struct hd_err err = {0};
    double t0 = hd_now(), t1, t2;
    int64_t bytes = r->bytes;
    char *slot = x->data + e->slot * x->slot_bytes;
    bool packed = e->pack_at >= 0;
    int n = 0, rc = HD_OK;

    x->stats.ahead += !e->wanted;
    e->state = HD_EXPERT_READING;
    r->now = i;
    pthread_mutex_unlock(&x->lock);
    if (packed && (rc = read_packed(r, e, slot, &err)) < 0) {
        pthread_mutex_lock(&x->lock);
        distrust(x, e);
        pthread_mutex_unlock(&x->lock);
        packed = false;
    }
    if (!packed)
        rc = read_expert(r, e, p, &n, &err);
    t1 = hd_now();
    pthread_mutex_lock(&x->lock);
    r->now = -1;
    e->state = HD_EXPERT_PACKING;
    pthread_cond_broadcast(&x->work);
    pthread_mutex_unlock(&x->lock);
    if (rc == HD_OK && !packed)
        pack(e, p, n, r->buf, slot);
    t2 = packed ? t1 : hd_now();
    pthread_mutex_lock(&x->lock);
    x->stats.n_read += rc == HD_OK;
    x->stats.bytes += r->bytes - bytes;
    x->stats.read_s += t1 - t0;
    x->stats.pack_s += t2 - t1;
    hd_experts_done(x, i, rc, &err);
}

static void *read_experts(void *arg)
{
    struct hd_expert_reader *r = arg;
    struct hd_experts *x = r->x;

    pthread_mutex_lock(&x->lock);
    while (!x->closing) {
        int32_t i = next_job(x);

        if (i < 0)
            pthread_cond_wait(&x->work, &x->lock);
        else
            serve(r, i);
    }
    pthread_mutex_unlock(&x->lock);
    return NULL;
}

bool hd_experts_start(struct hd_experts *x)
{
    bool all = true;

    for (int i = 0; i < HD_EXPERTS_READERS; i++)
        x->reader[i] = (struct hd_expert_reader){.x = x, .now = -1};
    for (int i = 0; i < HD_EXPERTS_READERS && all; i++) {
        struct hd_expert_reader *r = &x->reader[i];

        r->buf = hd_pages_alloc((size_t)x->buf_bytes);
        pthread_mutex_lock(&x->lock); /* the thread sees that it was started */
        all = r->started = r->buf && !pthread_create(&r->thread, NULL, read_experts, r);
        pthread_mutex_unlock(&x->lock);
    }
    return all;                       /* with fewer, those that read ahead would wait for wanted experts that nobody reads */
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
        hd_pages_free(x->reader[i].buf, (size_t)x->buf_bytes);
    }
}

/* ---- the probe ---- */

struct probe {
    struct hd_expert_reader r;        /* not started: waits for nobody */
    uint64_t seed;
    double until;
    int rc;
    struct hd_err err;
};

static void *probe_reads(void *arg)
{
    struct probe *p = arg;
    struct place place[6];
    int n;

    do {
        const struct hd_expert *e = &p->r.x->e[((p->seed = p->seed * 6364136223846793005u + 1442695040888963407u) >> 33) % p->r.x->n];

        p->rc = e->pack_at >= 0 ? read_packed(&p->r, e, p->r.buf, &p->err) : HD_AGAIN;
        if (p->rc != HD_OK)           /* none in the pack, or a damaged one */
            p->rc = read_expert(&p->r, e, place, &n, &p->err);
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
        p[n] = (struct probe){.r = {.x = x, .buf = hd_pages_alloc((size_t)x->buf_bytes)}, .seed = (uint64_t)(n + 1) * 77777, .until = t0 + seconds};
        if (!p[n].r.buf || pthread_create(&thread[n], NULL, probe_reads, &p[n])) {
            hd_pages_free(p[n].r.buf, (size_t)x->buf_bytes);
            break;
        }
    }
    for (int i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
        bytes += p[i].r.bytes;
        if (p[i].rc < 0 && rc == HD_OK) {
            rc = p[i].rc;
            *err = p[i].err;
        }
        hd_pages_free(p[i].r.buf, (size_t)x->buf_bytes);
    }
    if (!n)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory or threads to probe the drive");
    *bytes_per_s = (double)bytes / (hd_now() - t0);
    return rc;
}
