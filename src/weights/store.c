/* store.c: see store.h. */
#include "weights/store.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/hash.h"
#include "base/mem.h"

#define CONFIG_MAX ((size_t)16 << 20)
#define INDEX_MAX ((size_t)256 << 20)
#define FILES_MAX 4096

static size_t slot_of(const struct hd_store *st, const char *name, size_t n)
{
    uint64_t h = hd_hash(HD_HASH_INIT, name, n);
    size_t i = (h ^ h >> 29) & (st->n_hash - 1);

    while (st->hash[i]) {
        const struct hd_entry *e = &st->entry[st->hash[i] - 1];

        if (e->name.n == n && !memcmp(e->name.p, name, n))
            break;
        i = (i + 1) & (st->n_hash - 1);
    }
    return i;
}

static bool rehash(struct hd_store *st)
{
    size_t n = st->n_hash ? st->n_hash * 2 : 256;
    uint32_t *h = hd_calloc(n, sizeof *h);

    if (!h)
        return false;
    hd_free(st->hash);
    st->hash = h;
    st->n_hash = n;
    for (size_t i = 0; i < st->n_entry; i++)
        h[slot_of(st, st->entry[i].name.p, st->entry[i].name.n)] = (uint32_t)i + 1;
    return true;
}

struct hd_entry *hd_store_find(const struct hd_store *st, const char *name)
{
    size_t i;

    if (!st->n_hash)
        return NULL;
    i = slot_of(st, name, strlen(name));
    return st->hash[i] ? &st->entry[st->hash[i] - 1] : NULL;
}

struct hd_entry *hd_store_add(struct hd_store *st, const char *name, size_t n, struct hd_err *err)
{
    struct hd_entry *e;
    char *copy;
    size_t slot;

    if ((st->n_entry + 1) * 2 > st->n_hash && !rehash(st))
        goto no_memory;
    slot = slot_of(st, name, n);
    if (st->hash[slot]) {
        hd_err_set(err, HD_ERR_FORMAT, "tensor %.*s: found twice", (int)(n > 200 ? 200 : n), name);
        return NULL;
    }
    if (!HD_GROW(st->entry, st->cap_entry, st->n_entry + 1, HD_ENTRY_MAX) || !(copy = hd_arena_strdup(&st->arena, name, n)))
        goto no_memory;
    e = &st->entry[st->n_entry++];
    *e = (struct hd_entry){.name = {copy, n}, .type = -1, .dim = {1, 1, 1, 1}};
    st->hash[slot] = (uint32_t)st->n_entry;
    return e;
no_memory:
    hd_err_set(err, HD_ERR_MEMORY, "no memory for tensor %zu of the directory", st->n_entry + 1);
    return NULL;
}

/* Maps a file and gives its index, or a status below zero. name is what messages and shards call it. */
static int add_file(struct hd_store *st, const char *path, struct hd_err *err)
{
    struct hd_file_map *files = hd_realloc(st->files, (size_t)(st->n_file + 1) * sizeof *files);
    char **names;

    if (files)
        st->files = files;
    names = files ? hd_realloc(st->file_names, (size_t)(st->n_file + 1) * sizeof *names) : NULL;
    if (!names)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", path);
    st->file_names = names;
    HD_TRY(hd_file_map(&st->files[st->n_file], path, err));
    if (!(names[st->n_file] = hd_strdup(path))) {
        hd_file_unmap(&st->files[st->n_file]);
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", path);
    }
    return st->n_file++;
}

static int add_safetensors(struct hd_store *st, const char *path, struct hd_err *err)
{
    int file = add_file(st, path, err);
    int rc;

    if (file < 0)
        return file;
    rc = hd_safetensors_parse(st, file, err);
    return rc < 0 ? hd_err_prepend(err, "%s", path) : HD_OK;
}

/* A shard must be a plain name inside the directory. */
static bool plain_name(const char *s)
{
    return *s && strcmp(s, ".") && strcmp(s, "..") && !strchr(s, '/') && strlen(s) < 256;
}

static int shard_file(struct hd_store *st, const char *index, const char *shard, struct hd_err *err)
{
    char *path;
    int rc;

    for (int i = 0; i < st->n_file; i++)
        if (!strcmp(hd_path_base(st->file_names[i]), shard))
            return i;
    if (st->n_file >= FILES_MAX)
        return hd_err_set(err, HD_ERR_LIMIT, "%s: more than %d shards", index, FILES_MAX);
    if (!(path = hd_path_join(st->path, shard)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", index);
    rc = add_safetensors(st, path, err);
    hd_free(path);
    return rc < 0 ? rc : st->n_file - 1;
}

static int open_index(struct hd_store *st, const char *index, struct hd_err *err)
{
    json_t *j = hd_json_read(index, INDEX_MAX, err), *map, *v;
    const char *name;
    int rc = HD_OK;

    if (!j)
        return err->code;
    map = json_object_get(j, "weight_map");
    if (!json_is_object(map) || !json_object_size(map))
        rc = hd_err_set(err, HD_ERR_FORMAT, "%s: weight_map: expected an object that maps tensors to files", index);
    else
        json_object_foreach(map, name, v)
        {
            const char *shard = json_string_value(v);
            const struct hd_entry *e;
            int file;

            if (!shard || strlen(shard) != json_string_length(v) || !plain_name(shard)) {
                char buf[64];

                rc = hd_err_set(err, HD_ERR_FORMAT, "%s: tensor %.200s: found file %s; expected a name inside the directory", index, name, hd_json_brief(v, buf));
                break;
            }
            if ((rc = file = shard_file(st, index, shard, err)) < 0)
                break;
            e = hd_store_find(st, name);
            if (!e || e->file != file) {
                rc = hd_err_set(err, HD_ERR_FORMAT, "%s: tensor %.200s: is not in %s as the index says", index, name, shard);
                break;
            }
        }
    json_decref(j);
    return rc < 0 ? rc : HD_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* No index: every *.safetensors of the directory, in the order of their names. */
static int open_all(struct hd_store *st, bool plan, struct hd_err *err)
{
    char **names = NULL;
    size_t n = 0, cap = 0;
    struct dirent *de;
    DIR *d = opendir(st->path);
    int rc = HD_OK;

    if (!d)
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot open", st->path);
    while (rc == HD_OK && (de = readdir(d))) {
        size_t len = strlen(de->d_name);

        if (len < 13 || strcmp(de->d_name + len - 12, ".safetensors") || de->d_name[0] == '.')
            continue;
        if (!HD_GROW(names, cap, n + 1, FILES_MAX) || !(names[n] = hd_path_join(st->path, de->d_name)))
            rc = hd_err_set(err, HD_ERR_LIMIT, "%s: more than %d safetensors files, or no memory for their names", st->path, FILES_MAX);
        else
            n++;
    }
    closedir(d);
    if (n)
        qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 0; i < n && rc == HD_OK; i++)
        rc = add_safetensors(st, names[i], err);
    if (rc == HD_OK && n == 0 && !plan)
        rc = hd_err_set(err, HD_ERR_IO, "%s: found no *.safetensors; expected weights beside config.json", st->path);
    for (size_t i = 0; i < n; i++)
        hd_free(names[i]);
    hd_free(names);
    return rc;
}

static int open_dir(struct hd_store *st, bool plan, bool bare, struct hd_err *err)
{
    char *single = hd_path_join(st->path, "model.safetensors"), *index = hd_path_join(st->path, "model.safetensors.index.json");
    int rc;

    st->config_path = hd_path_join(st->path, "config.json");
    if (!single || !index || !st->config_path)
        rc = hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", st->path);
    else if (!(st->config = hd_json_read(st->config_path, CONFIG_MAX, err)))
        rc = err->code;
    else if (!json_is_object(st->config))
        rc = hd_err_set(err, HD_ERR_FORMAT, "%s: expected a JSON object", st->config_path);
    else if (bare)
        rc = HD_OK;
    else if (hd_file_exists(index))
        rc = open_index(st, index, err);
    else if (hd_file_exists(single))
        rc = add_safetensors(st, single, err);
    else
        rc = open_all(st, plan, err);
    hd_free(single);
    hd_free(index);
    return rc;
}

/* One more file of a GGUF model: its tensors join the store; its metadata says which part it is and is dropped. */
static int add_part(struct hd_store *st, const char *path, int64_t no, int64_t count, struct hd_err *err)
{
    struct hd_gguf_kv *kv = st->kv;
    size_t n_kv = st->n_kv;
    int64_t found;
    int rc = add_file(st, path, err);

    if (rc < 0)
        return rc;
    if ((rc = hd_gguf_parse(st, rc, err)) == HD_OK && (rc = hd_gguf_int(st, "split.count", count, count, &found, err)) == HD_OK)
        rc = hd_gguf_int(st, "split.no", no, no, &found, err);
    st->kv = kv;
    st->n_kv = n_kv;
    return rc < 0 ? hd_err_prepend(err, "%s", path) : HD_OK;
}

/* PREFIX-00001-of-00003.gguf stands for all of its parts. */
static int add_parts(struct hd_store *st, struct hd_err *err)
{
    int64_t count, no, n_tensor;
    char tail[64], *path;
    size_t stem = strlen(st->path);
    int rc = HD_OK;

    HD_TRY(hd_gguf_int_or(st, "split.count", 0, FILES_MAX, 1, &count, err));
    if (count <= 1)
        return HD_OK;
    HD_TRY(hd_gguf_int(st, "split.no", 0, count - 1, &no, err));
    if (no)
        return hd_err_set(err, HD_ERR_FORMAT, "is part %lld of %lld; expected the first one, whose name ends in -00001-of-%05lld.gguf", (long long)no + 1, (long long)count,
                          (long long)count);
    snprintf(tail, sizeof tail, "-00001-of-%05lld.gguf", (long long)count);
    if (stem <= strlen(tail) || strcmp(st->path + stem - strlen(tail), tail))
        return hd_err_set(err, HD_ERR_FORMAT, "is the first of %lld parts; expected a name that ends in %s, beside the others", (long long)count, tail);
    stem -= strlen(tail);
    if (!(path = hd_strdup(st->path)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory");
    for (no = 1; no < count && rc == HD_OK; no++) {
        snprintf(tail, sizeof tail, "-%05lld-of-%05lld.gguf", (long long)no + 1, (long long)count);
        memcpy(path + stem, tail, strlen(tail));      /* as long as the one before */
        rc = add_part(st, path, no, count, err);
    }
    hd_free(path);
    HD_TRY(rc);
    HD_TRY(hd_gguf_int_or(st, "split.tensors.count", 0, (int64_t)HD_ENTRY_MAX, (int64_t)st->n_entry, &n_tensor, err));
    return n_tensor == (int64_t)st->n_entry ? HD_OK
                                            : hd_err_set(err, HD_ERR_FORMAT, "split.tensors.count: found %lld; the parts have %zu", (long long)n_tensor, st->n_entry);
}

static int open_gguf(struct hd_store *st, struct hd_err *err)
{
    int rc;

    if (!(st->config_path = hd_strdup(st->path)))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", st->path);
    if ((rc = add_file(st, st->path, err)) < 0)
        return rc;
    if ((rc = hd_gguf_parse(st, 0, err)) == HD_OK)
        rc = add_parts(st, err);
    return rc < 0 ? hd_err_prepend(err, "%s", st->path) : HD_OK;
}

int hd_store_open(struct hd_store *st, const char *path, int flags, struct hd_err *err)
{
    struct hd_err local = {0};
    int rc;

    memset(st, 0, sizeof *st);
    hd_arena_init(&st->arena, 0);
    st->check_left = flags & HD_STORE_CHECK ? INT64_MAX : (int64_t)16 << 20;
    if (!(st->path = hd_strdup(path))) {
        rc = hd_err_set(&local, HD_ERR_MEMORY, "%s: no memory", path);
    } else if (hd_file_is_dir(path)) {
        st->kind = HD_STORE_DIR;
        rc = open_dir(st, flags & HD_STORE_PLAN, (flags & HD_STORE_BARE) == HD_STORE_BARE, &local);
    } else {
        st->kind = HD_STORE_GGUF;
        rc = open_gguf(st, &local);
    }
    if (rc < 0) {
        hd_store_close(st);
        if (err)
            *err = local;
    }
    return rc;
}

void hd_store_close(struct hd_store *st)
{
    for (int i = 0; i < st->n_file; i++) {
        hd_file_unmap(&st->files[i]);
        hd_free(st->file_names[i]);
    }
    hd_free(st->files);
    hd_free(st->file_names);
    hd_free(st->entry);
    hd_free(st->hash);
    hd_free(st->path);
    hd_free(st->config_path);
    if (st->config)
        json_decref(st->config);
    hd_arena_release(&st->arena);
    memset(st, 0, sizeof *st);
}

bool hd_store_quantised(const struct hd_store *st)
{
    if (json_object_get(st->config, "quantization_config"))
        return true;
    for (size_t i = 0; i < st->n_entry; i++)
        if (st->entry[i].n_dim > 1 && st->entry[i].type >= 0 && hd_dtypes[st->entry[i].type].block_len > 1)
            return true;
    return false;
}

void hd_store_cool(const struct hd_store *st)
{
    for (int i = 0; i < st->n_file; i++)
        if (st->files[i].n)
            madvise((void *)st->files[i].data, st->files[i].n, MADV_DONTNEED);
}

bool hd_store_locate(const struct hd_store *st, const void *p, int *file, int64_t *at)
{
    uintptr_t a = (uintptr_t)p;

    for (int i = 0; i < st->n_file; i++) {
        uintptr_t begin = (uintptr_t)st->files[i].data;

        if (a >= begin && a < begin + st->files[i].n) {
            *file = i;
            *at = (int64_t)(a - begin);
            return true;
        }
    }
    return false;
}
