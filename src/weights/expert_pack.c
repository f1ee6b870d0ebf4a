/* expert_pack.c: see expert_pack.h. */
#include "weights/expert_pack.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"
#include "weights/experts_inside.h"

#define VERSION 1
#define ORDER 0x01020304u
#define LAYERS_MAX 65536
#define FILES_MAX 4096
#define EXPERTS_MAX ((uint64_t)1 << 24)
#define TASTE 64                      /* bytes in the middle of a matrix, and as many of its scales */

static const char magic[8] = "HDEXPERT";

struct head {
    char magic[8];
    uint32_t order, version;
    uint64_t layout;                  /* hd_panel_layout() */
    uint64_t bytes, index_at;         /* of the file; in it */
    uint32_t n_file, n_layer;
    uint64_t n_expert;
    uint64_t sum;                     /* hd_hash of what is before */
};

struct file_entry {
    uint64_t bytes;
    int64_t s, ns;                    /* last change */
};

struct layer_entry {
    uint64_t key, taste;
    uint64_t at, record;              /* where the first record begins; bytes of one, without what pads it to whole blocks */
    uint64_t n, first;                /* experts; index of the first one's sums */
};

struct hd_pack_sum {
    uint64_t all, pages;
};

/* An index in memory: one block, as in the file; the pointers go into it. */
struct index {
    char *data;
    uint64_t bytes;
    struct file_entry *file;
    struct layer_entry *layer;
    struct hd_pack_sum *sum;
    uint64_t *end;
};

static int64_t up(int64_t n)
{
    return (n + HD_EXPERT_BLOCK - 1) / HD_EXPERT_BLOCK * HD_EXPERT_BLOCK;
}

/* Four lanes, so that a sum runs as fast as memory. */
uint64_t hd_expert_sum(const void *data, int64_t n, int64_t step)
{
    uint64_t h[4] = {0x9E3779B97F4A7C15u, 0xC2B2AE3D27D4EB4Fu, 0x165667B19E3779F9u, 0x27D4EB2F165667C5u}, w[4];
    const char *p = data;

    for (int64_t i = 0; i + 32 <= n; i += step) {
        memcpy(w, p + i, sizeof w);
        for (int k = 0; k < 4; k++) {
            h[k] = (h[k] ^ w[k]) * 0x9E3779B185EBCA87u;
            h[k] ^= h[k] >> 29;
        }
    }
    return hd_hash(HD_HASH_INIT, h, sizeof h);
}

/* ---- what a pack was made from ---- */

/* Names, formats, shapes and places of a layer's experts, and what slots make of them. */
static int key_of(const struct hd_experts *x, const struct hd_store *st, const struct hd_expert_layer *l, uint64_t *key, struct hd_err *err)
{
    uint64_t h = HD_HASH_INIT;

    for (int64_t k = 0; k < l->n; k++)
        for (int m = 0; m < 3; m++) {
            const struct hd_expert *e = &x->e[l->first + k];
            const struct hd_tensor *w = e->w[m];
            const char *name = w->name ? w->name : "";
            int file = 0, scale_file = 0;
            int64_t at = 0, scale_at = 0, facts[17] = {l->n, m, w->type, hd_rows(w), hd_cols(w), e->scale[m] != NULL, w->scale.type, w->scale.n_row, w->scale.n_col,
                                                        w->scale.block_rows, w->scale.block_cols, e->panels[m].kind, e->panels[m].kind ? e->panels[m].bytes : 0};

            if (!hd_store_locate(st, e->data[m], &file, &at) || (e->scale[m] && !hd_store_locate(st, e->scale[m], &scale_file, &scale_at)))
                return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: experts are not stored as they are used", st->path);
            facts[13] = file;
            facts[14] = at;
            facts[15] = scale_file;
            facts[16] = scale_at;
            h = hd_hash(hd_hash(h, name, strlen(name) + 1), facts, sizeof facts);
        }
    *key = h;
    return HD_OK;
}

static int read_all(int fd, const char *path, void *out, int64_t n, int64_t at, struct hd_err *err)
{
    for (int64_t got = 0; got < n;) {
        ssize_t k = hd_fault_hit(HD_FAULT_READ) ? (errno = EIO, -1) : pread(fd, (char *)out + got, (size_t)(n - got), at + got);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return hd_err_errno(err, HD_ERR_IO, "%s: cannot read %lld bytes at %lld", path, (long long)n, (long long)at);
        if (!k)
            return hd_err_set(err, HD_ERR_IO, "%s: ends at %lld; expected %lld bytes there", path, (long long)(at + got), (long long)(n - got));
        got += k;
    }
    return HD_OK;
}

/* A few bytes at p, an address in the map, join h. */
static int taste_at(const struct hd_store *st, const void *p, int64_t n, uint64_t *h, struct hd_err *err)
{
    char bytes[TASTE];
    int64_t at, few = n < TASTE ? n : TASTE;
    int file;

    HD_ASSERT(hd_store_locate(st, p, &file, &at));
    HD_TRY(read_all(st->files[file].fd, st->file_names[file], bytes, few, at + (n - few) / 2, err));
    *h = hd_hash(*h, bytes, (size_t)few);
    return HD_OK;
}

static int taste_of(const struct hd_experts *x, const struct hd_store *st, const struct hd_expert_layer *l, uint64_t *taste, struct hd_err *err)
{
    uint64_t h = HD_HASH_INIT;

    for (int64_t k = 0; k < l->n; k++)
        for (int m = 0; m < 3; m++) {
            const struct hd_expert *e = &x->e[l->first + k];
            const struct hd_scale *s = &e->w[m]->scale;

            HD_TRY(taste_at(st, e->data[m], hd_tensor_bytes(e->w[m]), &h, err));
            if (e->scale[m])
                HD_TRY(taste_at(st, e->scale[m], s->n_row * hd_row_bytes(s->type, s->n_col), &h, err));
        }
    *taste = h;
    return HD_OK;
}

static int describe_file(const struct hd_store *st, int i, struct file_entry *out, struct hd_err *err)
{
    struct stat s;

    if (fstat(st->files[i].fd, &s))
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot look at it", st->file_names[i]);
    *out = (struct file_entry){(uint64_t)s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec};
    return HD_OK;
}

/* ---- the index ---- */

static bool make_index(struct index *x, uint64_t n_file, uint64_t n_layer, uint64_t n_expert)
{
    x->bytes = n_file * sizeof *x->file + n_layer * sizeof *x->layer + n_expert * sizeof *x->sum + sizeof *x->end;
    x->data = hd_calloc(1, x->bytes);
    x->file = (struct file_entry *)x->data;
    x->layer = (struct layer_entry *)(x->data + n_file * sizeof *x->file);
    x->sum = (struct hd_pack_sum *)((char *)x->layer + n_layer * sizeof *x->layer);
    x->end = (uint64_t *)((char *)x->sum + n_expert * sizeof *x->sum);
    return x->data;
}

static uint64_t index_sum(const struct index *x)
{
    return hd_hash(HD_HASH_INIT, x->data, x->bytes - sizeof *x->end);
}

static int64_t record_of(const struct hd_experts *x, const struct hd_expert_layer *l)
{
    int64_t most = 0;

    for (int64_t k = 0; k < l->n; k++) {
        int64_t n = hd_expert_slot(&x->e[l->first + k]);

        most = n > most ? n : most;
    }
    return most;
}

/* ---- writing ---- */

/* Head and index of a pack of x; sums are for later. */
static int describe(const struct hd_experts *x, const struct hd_store *st, struct head *head, struct index *ix, struct hd_err *err)
{
    int64_t at = HD_EXPERT_BLOCK;

    if (!x->n)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: has no routed experts: there is nothing to pack", st->path);
    if (!make_index(ix, (uint64_t)st->n_file, x->n_layer, x->n))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a pack's index");
    for (int i = 0; i < st->n_file; i++)
        HD_TRY(describe_file(st, i, &ix->file[i], err));
    for (size_t i = 0; i < x->n_layer; i++) {
        const struct hd_expert_layer *l = &x->layer[i];
        struct layer_entry *e = &ix->layer[i];

        *e = (struct layer_entry){.at = (uint64_t)at, .record = (uint64_t)record_of(x, l), .n = (uint64_t)l->n, .first = (uint64_t)l->first};
        HD_TRY(key_of(x, st, l, &e->key, err));
        at += l->n * up((int64_t)e->record);
    }
    *head = (struct head){.order = ORDER, .version = VERSION, .layout = hd_panel_layout(), .bytes = (uint64_t)at + ix->bytes, .index_at = (uint64_t)at,
                          .n_file = (uint32_t)st->n_file, .n_layer = (uint32_t)x->n_layer, .n_expert = x->n};
    memcpy(head->magic, magic, sizeof magic);
    head->sum = hd_hash(HD_HASH_INIT, head, offsetof(struct head, sum));
    return HD_OK;
}

int hd_expert_pack_bytes(const struct hd_experts *x, const struct hd_store *st, int64_t *bytes, struct hd_err *err)
{
    struct index ix = {0};
    struct head head;
    int rc = describe(x, st, &head, &ix, err);

    if (rc == HD_OK)
        *bytes = (int64_t)head.bytes;
    hd_free(ix.data);
    return rc;
}

static int has_room(const char *path, int64_t bytes, struct hd_err *err)
{
    char dir[PATH_MAX], a[32], b[32];
    const char *base = hd_path_base(path);
    struct statvfs v;

    snprintf(dir, sizeof dir, "%.*s", base > path ? (int)(base - path) : 1, base > path ? path : ".");
    if (statvfs(dir, &v))
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot look at its file system", path);
    if (bytes / (int64_t)v.f_frsize >= (int64_t)v.f_bavail)
        return hd_err_set(err, HD_ERR_IO, "%s: the pack takes %s, but its file system has %s left", path, hd_fmt_bytes(a, bytes),
                          hd_fmt_bytes(b, (int64_t)v.f_bavail * (int64_t)v.f_frsize));
    return HD_OK;
}

/* An expert whose units the team lays. */
struct laying {
    const struct hd_expert *e;
    char *out;
    int64_t first[4], at[3];          /* of each matrix: unit, place */
};

static void lay_range(void *arg, int64_t begin, int64_t end)
{
    const struct laying *j = arg;

    for (int64_t i = begin; i < end; i++) {
        int m = i >= j->first[2] ? 2 : i >= j->first[1];

        hd_expert_lay(j->e, m, j->e->w[m], i - j->first[m], j->out + j->at[m]);
    }
}

static void lay(struct hd_pool *pool, const struct hd_expert *e, char *out)
{
    struct laying j = {.e = e, .out = out};

    for (int m = 0; m < 3; m++) {
        j.first[m + 1] = j.first[m] + hd_expert_units(e, m);
        if (m < 2)
            j.at[m + 1] = j.at[m] + hd_expert_part(e, m);
    }
    hd_pool_for(pool, j.first[3], 4, lay_range, &j);
}

static int write_records(const struct hd_experts *x, const struct hd_store *st, struct hd_out *o, struct index *ix, struct hd_pool *pool, hd_progress_fn progress, void *arg,
                         struct hd_err *err)
{
    int64_t most = 0, done = 0;
    char *buf;

    for (size_t i = 0; i < x->n_layer; i++)
        most = up((int64_t)ix->layer[i].record) > most ? up((int64_t)ix->layer[i].record) : most;
    if (!(buf = hd_pages_alloc((size_t)most)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for an expert of %lld bytes", (long long)most);
    for (size_t i = 0; i < x->n_layer && !o->failed; i++) {
        const struct layer_entry *l = &ix->layer[i];

        memset(buf, 0, (size_t)most); /* what lies between an expert's parts */
        for (uint64_t k = l->first; k < l->first + l->n && !o->failed; k++) {
            const struct hd_expert *e = &x->e[k];
            int64_t n = hd_expert_slot(e);

            if (progress && !progress(arg, done, (int64_t)x->n)) {
                hd_pages_free(buf, (size_t)most);
                return hd_err_set(err, HD_ERR_CANCELLED, "interrupted: nothing was written");
            }
            lay(pool, e, buf);
            ix->sum[k] = (struct hd_pack_sum){hd_expert_sum(buf, n, 32), hd_expert_sum(buf, n, HD_EXPERT_BLOCK)};
            hd_out_write(o, buf, (size_t)up((int64_t)l->record));
            done++;
        }
        hd_store_cool(st);
    }
    hd_pages_free(buf, (size_t)most);
    return !progress || progress(arg, done, (int64_t)x->n) ? HD_OK : hd_err_set(err, HD_ERR_CANCELLED, "interrupted: nothing was written");
}

/* Tastes, and that the checkpoint is what it was at the beginning. */
static int finish_index(const struct hd_experts *x, const struct hd_store *st, struct index *ix, struct hd_err *err)
{
    for (size_t i = 0; i < x->n_layer; i++)
        HD_TRY(taste_of(x, st, &x->layer[i], &ix->layer[i].taste, err));
    for (int i = 0; i < st->n_file; i++) {
        struct file_entry now;

        HD_TRY(describe_file(st, i, &now, err));
        if (memcmp(&now, &ix->file[i], sizeof now))
            return hd_err_set(err, HD_ERR_IO, "%s: was changed while it was packed", st->file_names[i]);
    }
    *ix->end = index_sum(ix);
    return HD_OK;
}

int hd_expert_pack_write(struct hd_experts *x, const struct hd_store *st, const char *path, struct hd_pool *pool, hd_progress_fn progress, void *arg, struct hd_err *err)
{
    char block[HD_EXPERT_BLOCK] = {0};
    struct index ix = {0};
    struct head head;
    struct hd_out o;
    int rc = describe(x, st, &head, &ix, err);

    if (rc == HD_OK)
        rc = has_room(path, (int64_t)head.bytes, err);
    if (rc == HD_OK && (rc = hd_out_open(&o, path, err)) == HD_OK) {
        memcpy(block, &head, sizeof head);
        hd_out_write(&o, block, sizeof block);
        rc = write_records(x, st, &o, &ix, pool, progress, arg, err);
        if (rc == HD_OK && !o.failed)
            rc = finish_index(x, st, &ix, err);
        hd_out_write(&o, ix.data, ix.bytes);
        if (rc == HD_OK)
            rc = hd_out_commit(&o, err);
        else
            hd_out_abort(&o);
    }
    hd_free(ix.data);
    return rc;
}

/* ---- reading ---- */

char *hd_expert_pack_path(const struct hd_store *st)
{
    char *p;

    if (st->kind == HD_STORE_DIR)
        return hd_path_join(st->path, "experts.hdpack");
    p = hd_malloc(strlen(st->path) + sizeof ".hdpack");
    if (p)
        strcat(strcpy(p, st->path), ".hdpack");
    return p;
}

static int read_head(const struct hd_expert_pack *p, struct head *h, struct hd_err *err)
{
    uint64_t index;

    if (p->file.n < (size_t)HD_EXPERT_BLOCK)
        return hd_err_set(err, HD_ERR_FORMAT, "is %zu bytes: no pack of experts", p->file.n);
    HD_TRY(read_all(p->file.fd, p->path, h, sizeof *h, 0, err));
    if (memcmp(h->magic, magic, sizeof magic))
        return hd_err_set(err, HD_ERR_FORMAT, "is no pack of experts");
    if (h->order != ORDER || h->version != VERSION)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "is a pack of version %u (byte order %08x); expected %d", h->version, h->order, VERSION);
    if (h->sum != hd_hash(HD_HASH_INIT, h, offsetof(struct head, sum)))
        return hd_err_set(err, HD_ERR_FORMAT, "its head is damaged");
    if (h->layout != hd_panel_layout())
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "holds panels of another layout, %016llx, than this version of hadal computes with, %016llx", (unsigned long long)h->layout,
                          (unsigned long long)hd_panel_layout());
    if (h->bytes != p->file.n)
        return hd_err_set(err, HD_ERR_FORMAT, "is %zu bytes; %llu were written: it was not copied to its end", p->file.n, (unsigned long long)h->bytes);
    index = h->n_file * sizeof(struct file_entry) + h->n_layer * sizeof(struct layer_entry) + h->n_expert * sizeof(struct hd_pack_sum) + sizeof(uint64_t);
    if (h->n_file > FILES_MAX || h->n_layer > LAYERS_MAX || h->n_expert > EXPERTS_MAX || h->index_at % (uint64_t)HD_EXPERT_BLOCK || h->index_at > h->bytes ||
        h->bytes - h->index_at != index)
        return hd_err_set(err, HD_ERR_FORMAT, "its index has impossible sizes");
    return HD_OK;
}

static int read_index(const struct hd_expert_pack *p, const struct head *h, struct index *ix, struct hd_err *err)
{
    uint64_t block = (uint64_t)HD_EXPERT_BLOCK;

    if (!make_index(ix, h->n_file, h->n_layer, h->n_expert))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for its index");
    HD_TRY(read_all(p->file.fd, p->path, ix->data, (int64_t)ix->bytes, (int64_t)h->index_at, err));
    if (*ix->end != index_sum(ix))
        return hd_err_set(err, HD_ERR_FORMAT, "its index is damaged");
    for (uint32_t i = 0; i < h->n_layer; i++) {
        const struct layer_entry *l = &ix->layer[i];

        if (l->at % block || l->at < block || l->at > h->index_at || !l->record || l->record > h->index_at || l->n > (h->index_at - l->at) / (uint64_t)up((int64_t)l->record) ||
            l->first > h->n_expert || l->n > h->n_expert - l->first)
            return hd_err_set(err, HD_ERR_FORMAT, "layer %u of its index lies outside of it", i);
    }
    return HD_OK;
}

static const struct layer_entry *find_layer(const struct head *h, const struct index *ix, const struct hd_experts *x, const struct hd_expert_layer *l, uint64_t key)
{
    for (uint32_t i = 0; i < h->n_layer; i++)
        if (ix->layer[i].key == key && ix->layer[i].n == (uint64_t)l->n && ix->layer[i].record == (uint64_t)record_of(x, l))
            return &ix->layer[i];
    return NULL;
}

/* Are the checkpoint's files what they were? *touched: their times are not, which a copy explains: tastes decide. */
static int compare_files(const struct hd_store *st, const struct head *h, const struct index *ix, bool *touched, struct hd_err *err)
{
    *touched = false;
    if (h->n_file != (uint32_t)st->n_file)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "was made from %u files; the model has %d", h->n_file, st->n_file);
    for (int i = 0; i < st->n_file; i++) {
        struct file_entry now;

        HD_TRY(describe_file(st, i, &now, err));
        if (now.bytes != ix->file[i].bytes)
            return hd_err_set(err, HD_ERR_UNSUPPORTED, "was made when %s had %llu bytes; now it has %llu", hd_path_base(st->file_names[i]), (unsigned long long)ix->file[i].bytes,
                              (unsigned long long)now.bytes);
        *touched = *touched || now.s != ix->file[i].s || now.ns != ix->file[i].ns;
    }
    return HD_OK;
}

/* Which layers the pack has; entry[x->n_layer]. */
static int match(const struct hd_experts *x, const struct hd_store *st, const struct head *h, const struct index *ix, const struct layer_entry **entry, struct hd_err *err)
{
    bool touched, any = false;
    uint64_t v;

    for (size_t i = 0; i < x->n_layer; i++) {
        HD_TRY(key_of(x, st, &x->layer[i], &v, err));
        entry[i] = find_layer(h, ix, x, &x->layer[i], v);
        any = any || entry[i];
    }
    if (!any)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "was made from another model");
    HD_TRY(compare_files(st, h, ix, &touched, err));
    for (size_t i = 0; touched && i < x->n_layer; i++) {
        if (!entry[i])
            continue;
        HD_TRY(taste_of(x, st, &x->layer[i], &v, err));
        if (v != entry[i]->taste)
            return hd_err_set(err, HD_ERR_UNSUPPORTED, "was made before the model's weights changed");
    }
    return HD_OK;
}

static void bind(struct hd_experts *x, const struct index *ix, const struct layer_entry *const *entry)
{
    for (size_t i = 0; i < x->n_layer; i++)
        for (int64_t k = 0; entry[i] && k < x->layer[i].n; k++) {
            struct hd_expert *e = &x->e[x->layer[i].first + k];

            e->pack_at = (int64_t)entry[i]->at + k * up((int64_t)entry[i]->record);
            e->pack_sum = ix->sum[entry[i]->first + (uint64_t)k].pages;
            x->pack.sum[x->layer[i].first + k] = ix->sum[entry[i]->first + (uint64_t)k];
            x->pack.n_taken++;
        }
}

int hd_experts_take_pack(struct hd_experts *x, const struct hd_store *st, const char *path, struct hd_err *err)
{
    const struct layer_entry **entry = hd_calloc(x->n_layer + 1, sizeof *entry);
    struct hd_expert_pack *p = &x->pack;
    struct index ix = {0};
    struct head head;
    int rc;

    HD_ASSERT(!p->path);
    p->sum = hd_calloc(x->n + 1, sizeof *p->sum);
    p->path = hd_strdup(path);
    if (!entry || !p->sum || !p->path) {
        rc = hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for a pack of %zu experts", path, x->n);
    } else if ((rc = hd_file_map(&p->file, path, err)) == HD_OK) {
        if ((rc = read_head(p, &head, err)) == HD_OK && (rc = read_index(p, &head, &ix, err)) == HD_OK && (rc = match(x, st, &head, &ix, entry, err)) == HD_OK) {
            p->direct = hd_expert_open_direct(p->file.fd);
            bind(x, &ix, entry);
        } else if (rc != HD_ERR_IO) { /* those name it already */
            hd_err_prepend(err, "%s", path);
        }
    }
    hd_free(ix.data);
    hd_free(entry);
    if (rc < 0)
        hd_expert_pack_close(x);
    return rc;
}

void hd_expert_pack_close(struct hd_experts *x)
{
    struct hd_expert_pack *p = &x->pack;

    if (p->direct >= 0)
        close(p->direct);
    hd_file_unmap(&p->file);
    hd_free(p->path);
    hd_free(p->sum);
    *p = (struct hd_expert_pack){.direct = -1, .file.fd = -1};
}

int64_t hd_experts_packed(const struct hd_experts *x)
{
    return x->pack.n_taken;
}

int hd_expert_pack_check(struct hd_experts *x, hd_progress_fn progress, void *arg, struct hd_err *err)
{
    int64_t most = 0, done = 0;
    char *buf;
    int rc = HD_OK;

    for (size_t i = 0; i < x->n; i++)
        most = hd_expert_slot(&x->e[i]) > most ? hd_expert_slot(&x->e[i]) : most;
    if (!(buf = hd_pages_alloc((size_t)most)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for an expert of %lld bytes", (long long)most);
    for (size_t i = 0; i < x->n && rc == HD_OK; i++) {
        const struct hd_expert *e = &x->e[i];
        int64_t n = hd_expert_slot(e);

        if (progress && !progress(arg, done++, (int64_t)x->n))
            rc = hd_err_set(err, HD_ERR_CANCELLED, "interrupted");
        else if (e->pack_at < 0)
            rc = hd_err_set(err, HD_ERR_FORMAT, "%s: has no %s", x->pack.path, e->w[0]->name ? e->w[0]->name : "such expert");
        else if ((rc = read_all(x->pack.file.fd, x->pack.path, buf, n, e->pack_at, err)) == HD_OK && hd_expert_sum(buf, n, 32) != x->pack.sum[i].all)
            rc = hd_err_set(err, HD_ERR_FORMAT, "%s: the record at %lld (%s) is damaged", x->pack.path, (long long)e->pack_at, e->w[0]->name ? e->w[0]->name : "an expert");
    }
    hd_pages_free(buf, (size_t)most);
    return rc;
}
