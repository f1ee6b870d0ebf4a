/* prefix_disk.c: see prefix_disk.h. The index belongs to the engine's thread; jobs go to the helper and come back by two lists under a lock. */
#include "engine/prefix_disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

#define SUFFIX ".prefix"
#define NAME_LEN (3 * 16 + 2 + (sizeof SUFFIX - 1))
#define WRITES_MAX 4                  /* forks that may wait for the helper, holding pages */
#define FILES_MAX ((size_t)1 << 20)
#define SAMPLES 256                   /* weights that the fingerprint looks into */

enum file_state { WRITING, WRITTEN, CHECKING, CHECKED };

struct hd_prefix_file {
    char name[NAME_LEN + 1];
    uint64_t tenant;
    enum file_state state;
    struct hd_prefix_span span;       /* its ids are owned */
    int64_t bytes;
    struct timespec used;             /* as found; for sorting once */
    int n_job;                        /* jobs that know it */
    bool dead;                        /* not in the index any more; freed with its last job */
};

enum job_kind { WRITE, REMOVE, CHECK };

struct job {
    struct job *next;
    enum job_kind kind;
    struct hd_prefix_file *file;      /* NULL: REMOVE */
    char *path;
    struct hd_session session;        /* WRITE: a fork */
    void *blob;
    size_t n_blob;
    bool ok;
};

struct hd_prefix_disk {
    struct hd_engine *engine;
    struct hd_prefix_disk_options opt;
    char *dir;
    uint64_t fingerprint;
    struct hd_prefix_file **file;     /* the least recently used first */
    size_t n_file, cap_file;
    int64_t bytes;
    uint64_t n_hit, n_evicted;
    int n_write;                      /* not settled yet */

    pthread_t helper;
    bool has_helper;
    pthread_mutex_t lock;             /* for what follows */
    pthread_cond_t more, less;
    struct job *todo, **todo_end, *done;
    bool stop, working;
};

struct head {
    char magic[8];
    uint64_t fingerprint, tenant;
    int64_t raw0, n;
};

static const char magic[8] = "HDPFX01";

/* ---- names ---- */

static uint64_t tenant_hash(const char *tenant)
{
    return tenant ? hd_hash(hd_hash(HD_HASH_INIT, "tenant", 7), tenant, strlen(tenant)) : 0;
}

/* Of everything that decides about bits. Weights are looked at where they lie in the files: an engine may have them elsewhere, or nowhere yet. */
static uint64_t fingerprint(const struct hd_engine *e)
{
    const char *level = hd_backend_cpu_level();
    const struct hd_store *st = &e->model.store;
    uint64_t h = hd_hash(HD_HASH_INIT, level, strlen(level));
    int64_t v[] = {e->opt.exact, (int64_t)e->cache.spec_hash, e->model.hp.n_layer, e->model.hp.d_model, e->model.hp.n_vocab};

    h = hd_hash(h, v, sizeof v);
    for (size_t i = 0; i < st->n_entry; i++) {
        const struct hd_entry *t = &st->entry[i];
        int64_t shape[] = {t->type, t->dim[0], t->dim[1], t->dim[2], t->dim[3]};

        h = hd_hash(h, shape, sizeof shape);
        if (i % (st->n_entry / SAMPLES + 1) == 0 && t->data)
            h = hd_hash(h, t->data, t->bytes < 64 ? (size_t)t->bytes : 64);
    }
    return h;
}

static bool is_hex(const char *p)
{
    for (int i = 0; i < 16; i++)
        if (!((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f')))
            return false;
    return true;
}

/* Is it a name that files here have, whatever comes behind it? */
static bool is_ours(const char *name)
{
    return strlen(name) >= NAME_LEN && is_hex(name) && name[16] == '-' && is_hex(name + 17) && name[33] == '-' && is_hex(name + 34) &&
           !memcmp(name + 50, SUFFIX, sizeof SUFFIX - 1);
}

static char *path_of(const struct hd_prefix_disk *d, const char *name)
{
    return hd_path_join(d->dir, name);
}

/* ---- jobs ---- */

static void to_file(void *arg, const void *p, size_t n)
{
    hd_out_write(arg, p, n);
}

static bool write_file(const struct job *j)
{
    struct hd_out out;

    if (hd_out_open(&out, j->path, NULL) < 0)
        return false;
    out.secret = true;                        /* ids are what people wrote */
    hd_seq_save(j->session.seq, j->blob, j->n_blob, to_file, &out);
    return hd_out_commit(&out, NULL) == HD_OK;
}

static bool check_file(const struct job *j)
{
    struct hd_file_map m;
    bool ok;

    if (hd_file_map(&m, j->path, NULL) < 0)
        return false;
    ok = hd_seq_intact(m.data, m.n);
    hd_file_unmap(&m);
    return ok;
}

static void do_job(struct job *j)
{
    j->ok = j->kind == WRITE ? write_file(j) : j->kind == CHECK ? check_file(j) : !unlink(j->path);
}

static void *helper_main(void *arg)
{
    struct hd_prefix_disk *d = arg;

    pthread_mutex_lock(&d->lock);
    for (;;) {
        struct job *j;

        while (!d->todo && !d->stop)
            pthread_cond_wait(&d->more, &d->lock);
        if (!(j = d->todo))
            break;
        if (!(d->todo = j->next))
            d->todo_end = &d->todo;
        d->working = true;
        pthread_mutex_unlock(&d->lock);
        do_job(j);
        pthread_mutex_lock(&d->lock);
        d->working = false;
        j->next = d->done;
        d->done = j;
        pthread_cond_signal(&d->less);
        if (d->opt.wake) {
            pthread_mutex_unlock(&d->lock);
            d->opt.wake(d->opt.arg);
            pthread_mutex_lock(&d->lock);
        }
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

static void free_file(struct hd_prefix_file *f)
{
    hd_free((void *)f->span.ids);
    hd_free(f);
}

static void free_job(struct job *j)
{
    hd_session_close(&j->session);
    hd_free(j->blob);
    hd_free(j->path);
    hd_free(j);
}

/* NULL: no memory. */
static struct job *make_job(const struct hd_prefix_disk *d, enum job_kind kind, struct hd_prefix_file *f)
{
    struct job *j = hd_calloc(1, sizeof *j);

    if (!j || !(j->path = path_of(d, f->name))) {
        hd_free(j);
        return NULL;
    }
    j->kind = kind;
    if (kind != REMOVE) {
        j->file = f;
        f->n_job++;
    }
    return j;
}

static void forget(struct hd_prefix_disk *d, struct hd_prefix_file *f);

static void settle_job(struct hd_prefix_disk *d, struct job *j)
{
    struct hd_prefix_file *f = j->file;

    d->n_write -= j->kind == WRITE;
    if (f) {
        f->n_job--;
        f->state = j->kind == WRITE ? WRITTEN : j->ok ? CHECKED : WRITTEN;
        if (!f->dead && !j->ok) {
            unlink(j->path);
            forget(d, f);
        } else if (f->dead && !f->n_job) {
            free_file(f);
        }
    }
    free_job(j);
}

static void send(struct hd_prefix_disk *d, struct job *j)
{
    d->n_write += j->kind == WRITE;
    if (!d->has_helper) {
        do_job(j);
        settle_job(d, j);
        return;
    }
    pthread_mutex_lock(&d->lock);
    *d->todo_end = j;
    d->todo_end = &j->next;
    pthread_cond_signal(&d->more);
    pthread_mutex_unlock(&d->lock);
}

bool hd_prefix_disk_settle(struct hd_prefix_disk *d, bool wait)
{
    struct job *list, *next;
    bool any;

    if (!d->has_helper)
        return false;
    pthread_mutex_lock(&d->lock);
    while (wait && !d->done && (d->todo || d->working))
        pthread_cond_wait(&d->less, &d->lock);
    list = d->done;
    d->done = NULL;
    pthread_mutex_unlock(&d->lock);
    for (any = list; list; list = next) {
        next = list->next;
        settle_job(d, list);
    }
    return any;
}

/* ---- the index ---- */

static size_t index_of(const struct hd_prefix_disk *d, const struct hd_prefix_file *f)
{
    size_t i = 0;

    while (d->file[i] != f)
        i++;
    return i;
}

static void forget(struct hd_prefix_disk *d, struct hd_prefix_file *f)
{
    size_t i = index_of(d, f);

    memmove(&d->file[i], &d->file[i + 1], (--d->n_file - i) * sizeof *d->file);
    d->bytes -= f->bytes;
    f->dead = true;
    if (!f->n_job)
        free_file(f);
}

static void remove_file(struct hd_prefix_disk *d, struct hd_prefix_file *f)
{
    struct job *j = make_job(d, REMOVE, f);
    char *path;

    if (!j && (path = path_of(d, f->name))) {
        unlink(path);
        hd_free(path);
    }
    forget(d, f);
    if (j)
        send(d, j);
}

static void touch(struct hd_prefix_disk *d, struct hd_prefix_file *f)
{
    size_t i = index_of(d, f);
    char *path = path_of(d, f->name);

    memmove(&d->file[i], &d->file[i + 1], (d->n_file - 1 - i) * sizeof *d->file);
    d->file[d->n_file - 1] = f;
    if (path)
        utimensat(AT_FDCWD, path, NULL, 0);
    hd_free(path);
}

/* The least recently used go until there is room for more bytes. */
static void make_room(struct hd_prefix_disk *d, int64_t more)
{
    while (d->n_file && d->bytes + more > d->opt.bytes_max) {
        remove_file(d, d->file[0]);
        d->n_evicted++;
    }
}

/* ids are copied. NULL: no memory. */
static struct hd_prefix_file *add(struct hd_prefix_disk *d, const char *name, uint64_t tenant, const struct hd_prefix_span *span, int64_t bytes)
{
    struct hd_prefix_file *f = hd_calloc(1, sizeof *f);
    int32_t *ids = hd_malloc((size_t)span->n * sizeof *ids);

    if (!f || !ids || !HD_GROW(d->file, d->cap_file, d->n_file + 1, FILES_MAX)) {
        hd_free(f);
        hd_free(ids);
        return NULL;
    }
    memcpy(ids, span->ids, (size_t)span->n * sizeof *ids);
    memcpy(f->name, name, NAME_LEN);
    f->tenant = tenant;
    f->span = *span;
    f->span.ids = ids;
    f->bytes = bytes;
    d->file[d->n_file++] = f;
    d->bytes += bytes;
    return f;
}

/* ---- opening ---- */

/* The head and the ids of a mapped file; false: it is none of ours. */
static bool read_head(const struct hd_prefix_disk *d, const struct hd_file_map *m, struct head *h, struct hd_prefix_span *span)
{
    struct hd_snapshot shot;

    if (hd_seq_peek(&d->engine->cache, m->data, m->n, &shot, NULL) < 0 || shot.n_blob < sizeof *h)
        return false;
    memcpy(h, shot.blob, sizeof *h);
    if (memcmp(h->magic, magic, sizeof magic) || h->fingerprint != d->fingerprint || h->n != shot.len || h->n < 1 || h->raw0 < 0 || h->raw0 > h->n ||
        shot.n_blob != sizeof *h + (size_t)h->n * sizeof(int32_t))
        return false;
    *span = (struct hd_prefix_span){(const int32_t *)((const char *)shot.blob + sizeof *h), h->n, shot.high, h->raw0};
    return true;
}

/* false: the file is not what its name says. */
static bool index_file(struct hd_prefix_disk *d, const char *name, const char *path)
{
    struct hd_prefix_span span;
    struct hd_prefix_file *f;
    struct hd_file_map m;
    struct stat st;
    struct head h;
    bool good;

    if (stat(path, &st) || hd_file_map(&m, path, NULL) < 0)
        return true;                          /* unreadable: not ours to judge */
    good = read_head(d, &m, &h, &span) && h.tenant == strtoull(name + 17, NULL, 16);
    if (good && (f = add(d, name, h.tenant, &span, (int64_t)m.n))) {
        f->state = WRITTEN;
        f->used = st.st_mtim;
    }
    hd_file_unmap(&m);
    return good;
}

static void consider(struct hd_prefix_disk *d, const char *name)
{
    bool leftover = strlen(name) > NAME_LEN;
    char *path;

    if (!is_ours(name) || (leftover && strncmp(name + NAME_LEN, ".tmp", 4)) || strtoull(name, NULL, 16) != d->fingerprint || !(path = path_of(d, name)))
        return;
    if (leftover || !index_file(d, name, path))
        unlink(path);
    hd_free(path);
}

static int by_use(const void *a, const void *b)
{
    const struct timespec *x = &(*(struct hd_prefix_file *const *)a)->used, *y = &(*(struct hd_prefix_file *const *)b)->used;

    return x->tv_sec != y->tv_sec ? (x->tv_sec > y->tv_sec) - (x->tv_sec < y->tv_sec) : (x->tv_nsec > y->tv_nsec) - (x->tv_nsec < y->tv_nsec);
}

static int scan(struct hd_prefix_disk *d, struct hd_err *err)
{
    struct dirent *de;
    DIR *dir;

    if (mkdir(d->dir, 0700) && errno != EEXIST)
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot make the directory for prefixes", d->dir);
    if (!(dir = opendir(d->dir)))
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot read the directory of prefixes", d->dir);
    while ((de = readdir(dir)))
        consider(d, de->d_name);
    closedir(dir);
    if (d->n_file)
        qsort(d->file, d->n_file, sizeof *d->file, by_use);
    make_room(d, 0);
    return HD_OK;
}

int hd_prefix_disk_open(struct hd_prefix_disk **out, struct hd_engine *e, const struct hd_prefix_disk_options *opt, struct hd_err *err)
{
    struct hd_prefix_disk *d = hd_calloc(1, sizeof *d);
    int rc;

    if (!d || !(d->dir = hd_strdup(opt->dir))) {
        hd_free(d);
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for an index of prefixes", opt->dir);
    }
    d->engine = e;
    d->opt = *opt;
    d->opt.dir = d->dir;
    d->fingerprint = fingerprint(e);
    d->todo_end = &d->todo;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->more, NULL);
    pthread_cond_init(&d->less, NULL);
    rc = scan(d, err);
    if (rc == HD_OK && !opt->inline_jobs) {
        d->has_helper = !pthread_create(&d->helper, NULL, helper_main, d);
        if (!d->has_helper)
            rc = hd_err_set(err, HD_ERR_MEMORY, "%s: cannot start a thread that writes prefixes", d->dir);
    }
    if (rc < 0) {
        hd_prefix_disk_close(d);
        return rc;
    }
    *out = d;
    return HD_OK;
}

void hd_prefix_disk_close(struct hd_prefix_disk *d)
{
    if (!d)
        return;
    if (d->has_helper) {
        pthread_mutex_lock(&d->lock);
        d->stop = true;
        pthread_cond_signal(&d->more);
        pthread_mutex_unlock(&d->lock);
        pthread_join(d->helper, NULL);
        hd_prefix_disk_settle(d, false);
    }
    while (d->n_file)
        forget(d, d->file[d->n_file - 1]);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->more);
    pthread_cond_destroy(&d->less);
    hd_free(d->file);
    hd_free(d->dir);
    hd_free(d);
}

/* ---- reading ---- */

struct hd_prefix_file *hd_prefix_disk_find(struct hd_prefix_disk *d, const struct hd_prefix_want *w, int64_t least, int64_t *n)
{
    const struct hd_cache_spec *spec = &d->engine->model.spec;
    uint64_t tenant = tenant_hash(w->tenant);
    struct hd_prefix_file *best = NULL;

    *n = least - 1;
    for (size_t i = d->n_file; i-- > 0;) {
        struct hd_prefix_file *f = d->file[i];
        int64_t k = f->tenant == tenant && f->state != WRITING ? hd_prefix_usable(spec, &f->span, w) : 0;

        if (k > *n) {
            *n = k;
            best = f;
        }
    }
    return best;
}

int hd_prefix_disk_check(struct hd_prefix_disk *d, struct hd_prefix_file *f)
{
    struct job *j;

    if (f->state == CHECKED)
        return HD_OK;
    if (f->state == CHECKING)
        return HD_AGAIN;
    if (!(j = make_job(d, CHECK, f)))
        return HD_ERR_MEMORY;
    f->state = CHECKING;
    send(d, j);
    return HD_AGAIN;
}

static int fill(const struct hd_prefix_disk *d, const struct hd_file_map *m, struct hd_session *ss, struct hd_err *err)
{
    struct hd_prefix_span span;
    const void *blob;
    struct head h;
    size_t n_blob;

    if (!read_head(d, m, &h, &span))
        return hd_err_set(err, HD_ERR_FORMAT, "is no prefix of this model");
    HD_TRY(hd_seq_fill(ss->seq, m->data, m->n, &blob, &n_blob, err));
    HD_TRY(hd_session_take_ids(ss, (const char *)blob + sizeof h, n_blob - sizeof h, err));
    ss->raw0 = h.raw0;
    return HD_OK;
}

int hd_prefix_disk_load(struct hd_prefix_disk *d, struct hd_prefix_file *f, const struct hd_prefix_want *w, int64_t n, struct hd_session *out, struct hd_err *err)
{
    char *path = path_of(d, f->name);
    struct hd_session ss = {0};
    struct hd_file_map m;
    int rc = path ? hd_file_map(&m, path, err) : hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", f->name);

    hd_free(path);
    if (rc == HD_OK) {
        rc = hd_session_open(&ss, d->engine, err);
        if (rc == HD_OK)
            rc = fill(d, &m, &ss, err);
        if (rc == HD_OK)
            rc = hd_prefix_cut(&ss, w, n, err);
        hd_file_unmap(&m);
    }
    if (rc < 0) {
        hd_session_close(&ss);
        if (rc == HD_ERR_FORMAT || rc == HD_ERR_IO)
            remove_file(d, f);
        return rc;
    }
    touch(d, f);
    d->n_hit++;
    *out = ss;
    return HD_OK;
}

/* ---- writing ---- */

static bool make_blob(const struct hd_prefix_disk *d, uint64_t tenant, const struct hd_session *ss, struct job *j)
{
    struct head h = {.fingerprint = d->fingerprint, .tenant = tenant, .raw0 = ss->raw0, .n = (int64_t)ss->n};

    memcpy(h.magic, magic, sizeof magic);
    j->n_blob = sizeof h + ss->n * sizeof *ss->ids;
    if (!(j->blob = hd_malloc(j->n_blob)))
        return false;
    memcpy(j->blob, &h, sizeof h);
    memcpy((char *)j->blob + sizeof h, ss->ids, ss->n * sizeof *ss->ids);
    return true;
}

/* Does a file serve whoever span would? It counts as used then. What span makes superfluous goes. */
static bool is_covered(struct hd_prefix_disk *d, uint64_t tenant, const struct hd_prefix_span *span)
{
    const struct hd_cache_spec *spec = &d->engine->model.spec;

    for (size_t i = d->n_file; i-- > 0;) {
        struct hd_prefix_file *f = d->file[i];

        if (f->tenant == tenant && hd_prefix_covers(spec, &f->span, span)) {
            touch(d, f);
            return true;
        }
    }
    for (size_t i = d->n_file; i-- > 0;)
        if (d->file[i]->tenant == tenant && hd_prefix_covers(spec, span, &d->file[i]->span))
            remove_file(d, d->file[i]);
    return false;
}

void hd_prefix_disk_put(struct hd_prefix_disk *d, const char *tenant, struct hd_session *ss)
{
    struct hd_prefix_span span = hd_prefix_span_of(ss);
    uint64_t hash = tenant_hash(tenant);
    int64_t bytes = hd_seq_save_bytes(ss->seq, sizeof(struct head) + ss->n * sizeof *ss->ids);
    char name[NAME_LEN + 1];
    struct hd_prefix_file *f;
    struct job *j;

    hd_prefix_disk_settle(d, false);
    if (bytes > d->opt.bytes_max || d->n_write >= WRITES_MAX || is_covered(d, hash, &span))
        return;
    make_room(d, bytes);
    snprintf(name, sizeof name, "%016llx-%016llx-%016llx" SUFFIX, (unsigned long long)d->fingerprint, (unsigned long long)hash,
             (unsigned long long)hd_hash(hd_hash(HD_HASH_INIT, &span.raw0, sizeof span.raw0), span.ids, (size_t)span.n * sizeof *span.ids));
    if (!(f = add(d, name, hash, &span, bytes)))
        return;
    if (!(j = make_job(d, WRITE, f)) || !make_blob(d, hash, ss, j) || hd_session_fork(&j->session, ss, NULL) < 0) {
        if (j) {
            f->n_job--;
            free_job(j);
        }
        forget(d, f);
        return;
    }
    send(d, j);
}

void hd_prefix_disk_flush(struct hd_prefix_disk *d)
{
    while (d->n_file)
        remove_file(d, d->file[d->n_file - 1]);
}

void hd_prefix_disk_stats(const struct hd_prefix_disk *d, struct hd_run_stats *out)
{
    out->disk_bytes = (uint64_t)d->bytes;
    out->disk_hits = d->n_hit;
    out->disk_evictions = d->n_evicted;
}
