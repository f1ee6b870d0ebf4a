/* json_scan.h: one JSON value watched byte by byte: is it still one, is it whole, and what would complete it.
 *
 * For text that streams through: nothing is kept but the state, so that a value which ends too early can still be closed.
 * Strict: RFC 8259; no NaN, no raw control characters in strings; depth at most HD_JSON_SCAN_DEPTH. UTF-8 is not checked.
 */
#ifndef HD_TOKEN_JSON_SCAN_H
#define HD_TOKEN_JSON_SCAN_H

#include <stdbool.h>
#include <stdint.h>

#define HD_JSON_SCAN_DEPTH 1024

struct hd_json_scan {
    uint8_t state;
    bool key;                         /* the string is a member's name */
    int n_hex, depth;
    const char *rest;                 /* of true, false, null */
    uint64_t array[HD_JSON_SCAN_DEPTH / 64];      /* a bit a level: 1 array, 0 object */
};

void hd_json_scan_init(struct hd_json_scan *s);
/* false: no JSON value begins with the bytes so far; stays false. */
bool hd_json_scan_byte(struct hd_json_scan *s, char c);
bool hd_json_scan_whole(const struct hd_json_scan *s);
bool hd_json_scan_in_string(const struct hd_json_scan *s);
/* Bytes that bring the value closer to its end, NULL when it is whole or broken. Append, feed back, ask again. */
const char *hd_json_scan_closer(const struct hd_json_scan *s);

#endif
