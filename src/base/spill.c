/* spill.c: see spill.h. */
#include "base/spill.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

#define STEP ((size_t)1 << 22)

/* For file systems that have no files without a name. */
static int open_unlinked(const char *dir)
{
    char *path = hd_path_join(dir, ".spill-XXXXXX");
    int fd = path ? mkostemp(path, O_CLOEXEC) : -1;

    if (fd >= 0)
        unlink(path);
    hd_free(path);
    return fd;
}

int hd_spill_open(struct hd_spill *s, const char *dir, struct hd_err *err)
{
    *s = (struct hd_spill){.fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)};
    if (s->fd < 0)
        s->fd = open_unlinked(dir);
    if (s->fd < 0)
        return hd_err_set(err, HD_ERR_IO, "%s: %s", dir, strerror(errno));
    s->open = true;
    return HD_OK;
}

int hd_spill_grow(struct hd_spill *s, size_t n, struct hd_err *err)
{
    size_t cap = s->cap ? s->cap : STEP;
    void *p;
    int rc;

    if (n <= s->cap)
        return HD_OK;
    while (cap < n)
        cap += cap / 2 / STEP * STEP + STEP;
    rc = posix_fallocate(s->fd, (off_t)s->cap, (off_t)(cap - s->cap));
    if (rc)
        return hd_err_set(err, HD_ERR_IO, "%zu MB for data that do not fit into memory: %s", cap >> 20, strerror(rc));
    p = s->p ? mremap(s->p, s->cap, cap, MREMAP_MAYMOVE) : mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
    if (p == MAP_FAILED)
        return hd_err_set(err, HD_ERR_MEMORY, "%zu MB cannot be mapped: %s", cap >> 20, strerror(errno));
    s->p = p;
    s->cap = cap;
    return HD_OK;
}

void hd_spill_close(struct hd_spill *s)
{
    if (s->p)
        munmap(s->p, s->cap);
    if (s->open)
        close(s->fd);
    *s = (struct hd_spill){0};
}
