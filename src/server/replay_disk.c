/* replay_disk.c: see replay_disk.h. */
#include "server/replay_disk.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"

#define JOBS_MAX 256
#define TURN_BYTES ((size_t)64 << 20) /* of a file that is read */
#define NAME_LEN 55                   /* of a file's name: three times 16 digits, two dashes, .turn */

struct job {
    struct job *next;
    char *path, *text;                /* text NULL: remove it */
};

struct hd_replay_disk {
    char *dir;
    uint64_t fingerprint, last;       /* last: number that was given */
    pthread_t helper;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct job *first, **end;
    int n_job;
    bool closing, has_helper;
};

/* ---- names ---- */

static uint64_t hash_text(const char *s)
{
    return hd_hash(HD_HASH_INIT, s, strlen(s));
}

static void name_of(const struct hd_replay_disk *d, const char *tenant, uint64_t number, char name[64])
{
    snprintf(name, 64, "%016llx-%016llx-%016llx.turn", (unsigned long long)d->fingerprint, (unsigned long long)hash_text(tenant), (unsigned long long)number);
}

/* The three numbers of a name; false: it is none of ours. rest: what stands behind ".turn". */
static bool read_name(const char *name, uint64_t out[3], const char **rest)
{
    for (int i = 0; i < 3; i++) {
        char digits[17];

        if (strlen(name) < 17 || strspn(name, "0123456789abcdef") != 16 || name[16] != (i < 2 ? '-' : '.'))
            return false;
        memcpy(digits, name, 16);
        digits[16] = 0;
        out[i] = strtoull(digits, NULL, 16);
        name += 17;
    }
    *rest = name + 4;
    return !strncmp(name, "turn", 4);
}

/* ---- the helper ---- */

static void do_job(const struct job *j)
{
    struct hd_err err;
    struct hd_out o;

    if (!j->text) {
        unlink(j->path);
        return;
    }
    if (hd_out_open(&o, j->path, &err) < 0)
        return;
    o.secret = true;
    hd_out_write(&o, j->text, strlen(j->text));
    hd_out_commit(&o, &err);          /* a turn that cannot be kept is found no more, after a restart */
}

static void *work(void *arg)
{
    struct hd_replay_disk *d = arg;
    struct job *j;

    pthread_mutex_lock(&d->lock);
    while (d->first || !d->closing) {
        if (!(j = d->first)) {
            pthread_cond_wait(&d->wake, &d->lock);
            continue;
        }
        if (!(d->first = j->next))
            d->end = &d->first;
        d->n_job--;
        pthread_mutex_unlock(&d->lock);
        do_job(j);
        hd_free(j->path);
        hd_free(j->text);
        hd_free(j);
        pthread_mutex_lock(&d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* Takes text. false: it was not taken on. */
static bool add_job(struct hd_replay_disk *d, const char *name, char *text)
{
    struct job *j = hd_calloc(1, sizeof *j);
    bool fits;

    if (j && (j->path = hd_path_join(d->dir, name))) {
        j->text = text;
        pthread_mutex_lock(&d->lock);
        fits = !text || d->n_job < JOBS_MAX;
        if (fits) {
            *d->end = j;
            d->end = &j->next;
            d->n_job++;
            pthread_cond_signal(&d->wake);
        }
        pthread_mutex_unlock(&d->lock);
        if (fits)
            return true;
        hd_free(j->path);
    }
    hd_free(j);
    hd_free(text);
    return false;
}

/* ---- turns ---- */

uint64_t hd_replay_disk_put(struct hd_replay_disk *d, const char *tenant, json_t *turn)
{
    char *text = turn ? json_dumps(turn, JSON_COMPACT) : NULL, name[64];
    struct timespec t;
    uint64_t number;

    json_decref(turn);
    if (!text)
        return 0;
    clock_gettime(CLOCK_REALTIME, &t);
    number = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
    number = number > d->last ? number : d->last + 1;
    d->last = number;
    name_of(d, tenant, number, name);
    return add_job(d, name, text) ? number : 0;
}

void hd_replay_disk_drop(struct hd_replay_disk *d, const char *tenant, uint64_t number)
{
    char name[64];

    name_of(d, tenant, number, name);
    add_job(d, name, NULL);
}

/* ---- loading ---- */

struct entry {
    char name[64];
    uint64_t tenant, number;
};

static int by_number(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    return x->number < y->number ? -1 : x->number > y->number;
}

/* Ours, and complete; leftovers of interrupted writes go. */
static int list_files(struct hd_replay_disk *d, struct entry **list, size_t *n, struct hd_err *err)
{
    size_t cap = 0;
    struct dirent *de;
    DIR *dir = opendir(d->dir);
    int rc = HD_OK;

    if (!dir)
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot read the directory of turns", d->dir);
    while (rc == HD_OK && (de = readdir(dir))) {
        const char *rest;
        uint64_t part[3];

        if (!read_name(de->d_name, part, &rest) || part[0] != d->fingerprint)
            continue;
        if (*rest) {
            unlinkat(dirfd(dir), de->d_name, 0);
            continue;
        }
        if (!HD_GROW(*list, cap, *n + 1, (size_t)1 << 24)) {
            rc = hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for a list of turns", d->dir);
            break;
        }
        (*list)[*n] = (struct entry){.tenant = part[1], .number = part[2]};
        snprintf((*list)[(*n)++].name, 64, "%.*s", NAME_LEN, de->d_name);
    }
    closedir(dir);
    return rc;
}

static json_t *read_turn(const struct hd_replay_disk *d, const struct entry *e)
{
    char *path = hd_path_join(d->dir, e->name), *data;
    json_t *turn = NULL;
    struct hd_err err;
    size_t n;

    if (path && hd_file_read(path, TURN_BYTES, &data, &n, &err) == HD_OK) {
        turn = json_loadb(data, n, 0, NULL);
        hd_free(data);
    }
    hd_free(path);
    if (json_is_string(json_object_get(turn, "tenant")) && hash_text(json_string_value(json_object_get(turn, "tenant"))) == e->tenant)
        return turn;
    json_decref(turn);
    return NULL;
}

int hd_replay_disk_load(struct hd_replay_disk *d, size_t n_max, bool (*fn)(void *arg, uint64_t number, const json_t *turn), void *arg, struct hd_err *err)
{
    struct entry *list = NULL;
    size_t n = 0;
    int rc = list_files(d, &list, &n, err);

    if (rc == HD_OK && n)
        qsort(list, n, sizeof *list, by_number);
    for (size_t i = 0; rc == HD_OK && i < n; i++) {
        json_t *turn = i + n_max >= n ? read_turn(d, &list[i]) : NULL;

        d->last = list[i].number > d->last ? list[i].number : d->last;
        if (!turn || !fn(arg, list[i].number, turn))
            add_job(d, list[i].name, NULL);
        json_decref(turn);
    }
    hd_free(list);
    return rc;
}

/* ---- life ---- */

/* Of all that ids mean. */
static uint64_t fingerprint(const struct hd_tokenizer *tok)
{
    uint64_t h = HD_HASH_INIT;

    for (int32_t id = 0; id < hd_tokenizer_size(tok); id++) {
        struct hd_view v = hd_token_text(tok, id, true);

        h = hd_hash(hd_hash(h, &id, sizeof id), v.p, v.n);
    }
    return h;
}

int hd_replay_disk_open(struct hd_replay_disk **out, const char *dir, const struct hd_tokenizer *tok, struct hd_err *err)
{
    struct hd_replay_disk *d = hd_calloc(1, sizeof *d);

    if (!d || !(d->dir = hd_strdup(dir))) {
        hd_free(d);
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for turns", dir);
    }
    d->fingerprint = fingerprint(tok);
    d->end = &d->first;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->wake, NULL);
    if (mkdir(dir, 0700) && errno != EEXIST) {
        hd_replay_disk_close(d);
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot make the directory for turns", dir);
    }
    d->has_helper = !pthread_create(&d->helper, NULL, work, d);
    if (!d->has_helper) {
        hd_replay_disk_close(d);
        return hd_err_set(err, HD_ERR_MEMORY, "%s: cannot start a thread that writes turns", dir);
    }
    *out = d;
    return HD_OK;
}

void hd_replay_disk_close(struct hd_replay_disk *d)
{
    if (!d)
        return;
    if (d->has_helper) {
        pthread_mutex_lock(&d->lock);
        d->closing = true;
        pthread_cond_signal(&d->wake);
        pthread_mutex_unlock(&d->lock);
        pthread_join(d->helper, NULL);
    }
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->wake);
    hd_free(d->dir);
    hd_free(d);
}
