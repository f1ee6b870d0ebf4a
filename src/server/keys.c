/* keys.c: see keys.h. */
#include "server/keys.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"

int hd_keys_add(struct hd_keys *k, const char *label, struct hd_view key, struct hd_err *err)
{
    struct hd_key *out;

    if (!key.n || key.n > HD_KEY_MAX)
        return hd_err_set(err, HD_ERR_USAGE, "an API key has 1 to %d bytes; found %zu", HD_KEY_MAX, key.n);
    for (size_t i = 0; i < key.n; i++)
        if ((unsigned char)key.p[i] <= 0x20 || (unsigned char)key.p[i] >= 0x7F)
            return hd_err_set(err, HD_ERR_USAGE, "an API key holds a blank or a byte that a header cannot carry");
    if (!HD_GROW(k->key, k->cap, k->n + 1, 4096))
        return hd_err_set(err, HD_ERR_MEMORY, "no room for more than %zu API keys", k->n);
    out = &k->key[k->n++];
    memset(out, 0, sizeof *out);
    memcpy(out->text, key.p, key.n);
    out->n = key.n;
    if (label)
        snprintf(out->label, sizeof out->label, "%s", label);
    else
        snprintf(out->label, sizeof out->label, "key%zu", k->n);
    return HD_OK;
}

static int add_line(struct hd_keys *k, char *line, struct hd_err *err)
{
    char *colon = strchr(line, ':'), *key = colon ? colon + 1 : line;

    key += strspn(key, " \t");
    key[strcspn(key, " \t\r")] = 0;
    if (colon)
        *colon = 0;
    if (colon && (!*line || strlen(line) > 31 || strspn(line, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != strlen(line)))
        return hd_err_set(err, HD_ERR_FORMAT, "a label has 1 to 31 letters, digits, dots, dashes or underscores");
    return hd_keys_add(k, colon ? line : NULL, (struct hd_view){key, strlen(key)}, err);
}

int hd_keys_read(struct hd_keys *k, const char *path, struct hd_err *err)
{
    struct stat st;
    char *data;
    size_t n;
    int rc = HD_OK, n_line = 0;

    if (!stat(path, &st) && (st.st_mode & 077))
        return hd_err_set(err, HD_ERR_IO, "%s: others may read it (mode %03o); expected 600", path, (unsigned)st.st_mode & 0777);
    HD_TRY(hd_file_read(path, 1 << 20, &data, &n, err));
    for (char *line = data, *next; rc == HD_OK && line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        n_line++;
        line += strspn(line, " \t");
        if (!line[strspn(line, "\r")] || *line == '#')
            continue;
        if ((rc = add_line(k, line, err)) < 0)
            hd_err_prepend(err, "%s: line %d", path, n_line);
    }
    explicit_bzero(data, n);
    hd_free(data);
    return rc;
}

void hd_keys_release(struct hd_keys *k)
{
    if (k->key)
        explicit_bzero(k->key, k->n * sizeof *k->key);
    hd_free(k->key);
    memset(k, 0, sizeof *k);
}

const char *hd_keys_check(const struct hd_keys *k, struct hd_view presented)
{
    char padded[HD_KEY_MAX] = {0};
    const char *found = NULL;

    if (presented.n)
        memcpy(padded, presented.p, presented.n < sizeof padded ? presented.n : sizeof padded);
    for (size_t i = 0; i < k->n; i++) {
        volatile unsigned char diff = (unsigned char)(k->key[i].n != presented.n);

        for (int b = 0; b < HD_KEY_MAX; b++)
            diff |= (unsigned char)(k->key[i].text[b] ^ padded[b]);
        found = diff ? found : k->key[i].label;
    }
    return found;
}
