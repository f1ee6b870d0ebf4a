/* token_classes.c: see token_classes.h. */
#include "token/token_classes.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/hash.h"
#include "base/mem.h"
#include "token/vocab.h"

/* Unicode's White_Space, which trimming goes by (unlike U+001C..1F and U+200B). */
static bool is_space(int32_t c)
{
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

/* Text as a decoder gives it back unharmed: well-formed, and without the replacement character that stands for harm. */
static bool is_text(const char *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        int len;

        int32_t cp = hd_utf8_get(p + i, n - i, &len);

        if (cp < 0 || cp == 0xFFFD)
            return false;
        i += (size_t)len;
    }
    return true;
}

void hd_spell_bytes(const char *p, size_t n, struct hd_str *out)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t b = (unsigned char)p[i], cp = b, k = 0;
        char buf[4];

        if (!((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174)) {
            for (uint32_t c = 0; c < b; c++)
                k += !((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174);
            cp = 256 + k;
        }
        hd_str_add(out, buf, (size_t)hd_utf8_put(buf, cp));
    }
}

static int normalise(const char *p, size_t n, struct hd_str *out)
{
    /* NFKC then NFD is NFKD */
    utf8proc_int32_t *cp = NULL;
    utf8proc_ssize_t len, k = 0, from = 0;

    len = utf8proc_decompose((const utf8proc_uint8_t *)p, (utf8proc_ssize_t)n, NULL, 0, UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE);
    if (len < 0 || !(cp = hd_malloc((size_t)(len + 1) * sizeof *cp)))
        return HD_ERR_MEMORY;
    utf8proc_decompose((const utf8proc_uint8_t *)p, (utf8proc_ssize_t)n, cp, len, UTF8PROC_COMPAT | UTF8PROC_DECOMPOSE);
    for (utf8proc_ssize_t i = 0; i < len; i++) {
        utf8proc_category_t c = utf8proc_category(cp[i]);

        if (c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME)
            continue;
        if (cp[i] == ' ' || cp[i] == '\t' || cp[i] == '\r' || cp[i] == '\n') {
            if (k > 0 && cp[k - 1] == ' ')
                continue;
            cp[k++] = ' ';
        } else {
            cp[k++] = utf8proc_tolower(cp[i]);
        }
    }
    if (!(k == 1 && cp[0] == ' ')) {              /* a lone space stays */
        while (k > 0 && is_space(cp[k - 1]))
            k--;
        while (from < k && is_space(cp[from]))
            from++;
    }
    for (utf8proc_ssize_t i = from; i < k; i++) {
        char buf[4];

        hd_str_add(out, buf, (size_t)hd_utf8_put(buf, cp[i] == 0xE000 ? ' ' : (uint32_t)cp[i]));
    }
    hd_free(cp);
    return HD_OK;
}

struct key {
    size_t at, n;
    int32_t class;
};

int hd_token_classes(const struct hd_tokenizer *t, int64_t n, int32_t *map, int64_t *n_class, struct hd_err *err)
{
    struct hd_str all, one;
    struct key *slot;
    size_t n_slot = 64;
    int32_t next = 0, nothing = -1;
    int rc = HD_OK;

    while (n_slot < 2 * (size_t)n)
        n_slot *= 2;
    slot = hd_calloc(n_slot, sizeof *slot);
    hd_str_init(&all, 0);
    hd_str_init(&one, 0);
    for (int64_t id = 0; id < n && slot && rc == HD_OK; id++) {
        struct hd_view v = id < hd_tokenizer_size(t) ? hd_token_text(t, (int32_t)id, true) : (struct hd_view){NULL, 0};
        size_t i;

        if (!v.n) {
            if (nothing < 0)
                nothing = next++;
            map[id] = nothing;
            continue;
        }
        hd_str_reset(&one);
        if (!is_text(v.p, v.n))
            hd_spell_bytes(v.p, v.n, &one);
        else
            rc = normalise(v.p, v.n, &one);
        if (!one.n)
            hd_str_add(&one, v.p, v.n);
        i = hd_hash(HD_HASH_INIT, hd_str_get(&one), one.n) & (n_slot - 1);
        while (slot[i].n && (slot[i].n != one.n || memcmp(all.s + slot[i].at, one.s, one.n)))
            i = (i + 1) & (n_slot - 1);
        if (!slot[i].n) {
            slot[i] = (struct key){all.n, one.n, next++};
            hd_str_add(&all, one.s, one.n);
        }
        map[id] = slot[i].class;
        if (all.failed || one.failed)
            rc = HD_ERR_MEMORY;
    }
    if (!slot || rc < 0)
        rc = hd_err_set(err, HD_ERR_MEMORY, "no memory for the classes of %lld tokens", (long long)n);
    hd_free(slot);
    hd_str_release(&all);
    hd_str_release(&one);
    *n_class = next - (nothing >= 0);
    return rc;
}
