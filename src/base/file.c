/* file.c: see file.h. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/hash.h"
#include "base/mem.h"

static const char *kind_of(mode_t m)
{
    return S_ISDIR(m) ? "a directory" : S_ISFIFO(m) ? "a pipe" : S_ISSOCK(m) ? "a socket" : S_ISBLK(m) || S_ISCHR(m) ? "a device" : "something else";
}

/* Opens a regular file for reading. The stat comes first and O_NONBLOCK with the open, so that a pipe can't hang us. */
static int open_regular(const char *path, size_t *n, int *fd, struct hd_err *err)
{
    struct stat st;

    if (stat(path, &st))
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot open", path);
    if (!S_ISREG(st.st_mode))
        return hd_err_set(err, HD_ERR_IO, "%s: is %s; expected a regular file", path, kind_of(st.st_mode));
    *fd = hd_fault_hit(HD_FAULT_READ) ? (errno = EIO, -1) : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0)
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot open", path);
    if (fstat(*fd, &st) || !S_ISREG(st.st_mode)) {
        close(*fd);
        return hd_err_set(err, HD_ERR_IO, "%s: is not a regular file", path);
    }
    *n = (size_t)st.st_size;
    return HD_OK;
}

int hd_file_map(struct hd_file_map *m, const char *path, struct hd_err *err)
{
    size_t n;
    int fd;
    void *p = NULL;

    HD_TRY(open_regular(path, &n, &fd, err));
    if (n) {
        p = hd_fault_hit(HD_FAULT_READ) ? (errno = EIO, MAP_FAILED) : mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            hd_err_errno(err, HD_ERR_IO, "%s: cannot map %zu bytes", path, n);
            close(fd);
            return HD_ERR_IO;
        }
    }
    *m = (struct hd_file_map){.data = p, .n = n, .fd = fd};
    return HD_OK;
}

void hd_file_unmap(struct hd_file_map *m)
{
    if (m->data)
        munmap((void *)m->data, m->n);
    if (m->data || m->fd > 0)
        close(m->fd);
    *m = (struct hd_file_map){.fd = -1};
}

int hd_file_read(const char *path, size_t max, char **data, size_t *n, struct hd_err *err)
{
    size_t size, got = 0;
    char *p;
    int fd;

    HD_TRY(open_regular(path, &size, &fd, err));
    if (size > max) {
        close(fd);
        return hd_err_set(err, HD_ERR_LIMIT, "%s: is %zu bytes; at most %zu expected", path, size, max);
    }
    p = hd_malloc(size + 1);
    if (!p) {
        close(fd);
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for %zu bytes", path, size);
    }
    while (got < size) {
        ssize_t k = hd_fault_hit(HD_FAULT_READ) ? (errno = EIO, -1) : read(fd, p + got, size - got);

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0) {
            hd_err_errno(err, HD_ERR_IO, "%s: cannot read", path);
            hd_free(p);
            close(fd);
            return HD_ERR_IO;
        }
        if (k == 0)
            break;
        got += (size_t)k;
    }
    close(fd);
    p[got] = 0;
    *data = p;
    *n = got;
    return HD_OK;
}

bool hd_file_exists(const char *path)
{
    struct stat st;

    return !stat(path, &st);
}

bool hd_file_is_dir(const char *path)
{
    struct stat st;

    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

char *hd_path_join(const char *dir, const char *name)
{
    size_t nd = strlen(dir), nn = strlen(name);
    char *p = hd_malloc(nd + nn + 2);

    if (p) {
        memcpy(p, dir, nd);
        if (nd && dir[nd - 1] != '/')
            p[nd++] = '/';
        memcpy(p + nd, name, nn + 1);
    }
    return p;
}

const char *hd_path_base(const char *path)
{
    const char *s = strrchr(path, '/');

    return s ? s + 1 : path;
}

/* ---- output ---- */

#define OUT_BUF ((size_t)1 << 20)
#define N_LIVE 16

static char live[N_LIVE][PATH_MAX];        /* temporary names a signal handler may have to remove; "" is free */
static pthread_mutex_t live_lock = PTHREAD_MUTEX_INITIALIZER;      /* between threads; the handler only reads */
static pthread_once_t mode_once = PTHREAD_ONCE_INIT;
static mode_t mode_mask;

/* The mask can only be read by setting it, which other threads' files must not notice: once. */
static void read_mask(void)
{
    umask(mode_mask = umask(077));
}

static void live_add(const char *tmp)
{
    pthread_mutex_lock(&live_lock);
    for (int i = 0; i < N_LIVE; i++)
        if (!live[i][0] && strlen(tmp) < PATH_MAX) {
            memcpy(live[i] + 1, tmp + 1, strlen(tmp));
            live[i][0] = tmp[0];           /* last, so that the handler never sees half a name */
            break;
        }
    pthread_mutex_unlock(&live_lock);
}

static void live_remove(const char *tmp)
{
    pthread_mutex_lock(&live_lock);
    for (int i = 0; i < N_LIVE; i++)
        if (!strcmp(live[i], tmp))
            live[i][0] = 0;
    pthread_mutex_unlock(&live_lock);
}

void hd_out_abort_all(void)
{
    for (int i = 0; i < N_LIVE; i++)
        if (live[i][0])
            unlink(live[i]);
}

/* A file without a name in path's directory, which name_it() can give one; -1 where there is no such thing. */
static int open_nameless(const char *path)
{
    size_t n_dir = (size_t)(hd_path_base(path) - path);
    char self[32], *dir = hd_malloc(n_dir + 2);
    int fd = -1;

    if (dir) {
        memcpy(dir, n_dir ? path : ".", n_dir ? n_dir : 1);
        dir[n_dir ? n_dir : 1] = 0;
        fd = open(dir, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
        hd_free(dir);
    }
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    if (fd >= 0 && access(self, F_OK)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* The temporary name of a file that had none: free until now, whoever else looks for one. */
static bool name_it(struct hd_out *o)
{
    static unsigned count;
    char self[32], *end = o->tmp + strlen(o->tmp) - 6;

    snprintf(self, sizeof self, "/proc/self/fd/%d", o->fd);
    for (int i = 0; i < 100 && !o->named; i++) {
        unsigned parts[] = {(unsigned)getpid(), __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED)};

        snprintf(end, 7, "%06x", (unsigned)(hd_hash(HD_HASH_INIT, parts, sizeof parts) & 0xFFFFFF));
        live_add(o->tmp);
        o->named = !linkat(AT_FDCWD, self, AT_FDCWD, o->tmp, AT_SYMLINK_FOLLOW);
        if (!o->named) {
            live_remove(o->tmp);
            if (errno != EEXIST)
                break;
        }
    }
    return o->named;
}

int hd_out_open(struct hd_out *o, const char *path, struct hd_err *err)
{
    struct stat st;
    size_t n = strlen(path);

    memset(o, 0, sizeof *o);
    o->fd = -1;
    if (!stat(path, &st) && !S_ISREG(st.st_mode))
        return hd_err_set(err, HD_ERR_IO, "%s: is %s; expected a regular file or a new name", path, kind_of(st.st_mode));
    o->path = hd_strdup(path);
    o->tmp = hd_malloc(n + 16);
    o->buf = hd_malloc(OUT_BUF);
    if (!o->path || !o->tmp || !o->buf) {
        hd_out_abort(o);
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for an output buffer", path);
    }
    snprintf(o->tmp, n + 16, "%s.tmpXXXXXX", path);
    if (hd_fault_hit(HD_FAULT_WRITE)) {
        errno = EIO;
    } else if ((o->fd = open_nameless(path)) < 0 && (o->fd = mkostemp(o->tmp, O_CLOEXEC)) >= 0) {
        o->named = true;
        live_add(o->tmp);
    }
    if (o->fd < 0) {
        hd_err_errno(err, HD_ERR_IO, "%s: cannot create", path);
        hd_out_abort(o);
        return HD_ERR_IO;
    }
    return HD_OK;
}

static void flush(struct hd_out *o)
{
    size_t done = 0;

    while (!o->failed && done < o->n_buf) {
        ssize_t k = hd_fault_hit(HD_FAULT_WRITE) ? (errno = EIO, -1) : write(o->fd, o->buf + done, o->n_buf - done);

        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0) {
            hd_err_errno(&o->err, HD_ERR_IO, "%s: cannot write", o->path);
            o->failed = true;
            break;
        }
        done += (size_t)k;
    }
    o->n_buf = 0;
}

void hd_out_write(struct hd_out *o, const void *p, size_t n)
{
    const unsigned char *s = p;

    while (n && !o->failed) {
        size_t k = OUT_BUF - o->n_buf < n ? OUT_BUF - o->n_buf : n;

        memcpy(o->buf + o->n_buf, s, k);
        o->n_buf += k;
        s += k;
        n -= k;
        if (o->n_buf == OUT_BUF)
            flush(o);
    }
}

void hd_out_abort(struct hd_out *o)
{
    if (o->fd >= 0)
        close(o->fd);
    if (o->named) {
        unlink(o->tmp);
        live_remove(o->tmp);
    }
    hd_free(o->path);
    hd_free(o->tmp);
    hd_free(o->buf);
    memset(o, 0, sizeof *o);
    o->fd = -1;
}

int hd_out_commit(struct hd_out *o, struct hd_err *err)
{
    int rc = HD_OK;

    pthread_once(&mode_once, read_mask);
    flush(o);
    if (!o->failed && (fchmod(o->fd, o->secret ? 0600 : 0666 & ~mode_mask) || fsync(o->fd))) {
        hd_err_errno(&o->err, HD_ERR_IO, "%s: cannot write", o->path);
        o->failed = true;
    }
    if (!o->failed && !o->named && !name_it(o)) {
        hd_err_errno(&o->err, HD_ERR_IO, "%s: cannot create", o->path);
        o->failed = true;
    }
    if (!o->failed && rename(o->tmp, o->path)) {
        hd_err_errno(&o->err, HD_ERR_IO, "%s: cannot rename", o->path);
        o->failed = true;
    }
    if (o->failed) {
        if (err)
            *err = o->err;
        rc = o->err.code;
    } else {
        live_remove(o->tmp);
        o->named = false;
    }
    hd_out_abort(o);
    return rc;
}
