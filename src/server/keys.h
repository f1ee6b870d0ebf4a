/* keys.h: API keys with labels, compared in constant time.
 *
 * A file has one key a line, "KEY" or "LABEL:KEY"; empty lines and lines that begin with # are skipped. Nobody but its owner may read it.
 */
#ifndef HD_SERVER_KEYS_H
#define HD_SERVER_KEYS_H

#include "base/err.h"
#include "base/str.h"

#define HD_KEY_MAX 256

struct hd_key {
    char label[32];
    char text[HD_KEY_MAX];            /* zero behind the key */
    size_t n;
};

struct hd_keys {
    struct hd_key *key;
    size_t n, cap;
};

/* label NULL: "key1", "key2", ... Errors: USAGE (empty, too long, control bytes), MEMORY. */
int hd_keys_add(struct hd_keys *k, const char *label, struct hd_view key, struct hd_err *err);
int hd_keys_read(struct hd_keys *k, const char *path, struct hd_err *err);
void hd_keys_release(struct hd_keys *k);      /* wipes them */

/* The label of the key that was presented, or NULL. Takes the same time whichever it is and however much of it is right. */
const char *hd_keys_check(const struct hd_keys *k, struct hd_view presented);

#endif
