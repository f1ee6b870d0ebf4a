/* json.h: jansson with the errors and limits of hadal. Reads strictly: UTF-8, no duplicate keys, depth at most 2048.
 *
 * Getters take an object, a key and the file's name for messages: "config.json: hidden_size: found "x"; expected an integer from 1 to 1048576".
 */
#ifndef HD_BASE_JSON_H
#define HD_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* Parses n bytes; what names the source in messages. NULL with *err written on failure. Release with json_decref(). */
json_t *hd_json_parse(const char *p, size_t n, const char *what, struct hd_err *err);
json_t *hd_json_read(const char *path, size_t max_bytes, struct hd_err *err);
/* Calls fn with every line's value, in order, blank lines apart, until one fails; what is "FILE: line 12". Errors: FORMAT, or fn's. */
int hd_jsonl_each(const char *p, size_t n, const char *file, int (*fn)(void *arg, const json_t *line, const char *what, struct hd_err *err), void *arg, struct hd_err *err);
/* Says what jansson found wrong. */
int hd_json_error(const json_error_t *e, const char *what, struct hd_err *err);

/* A field that must be there, or (the _or forms) has a default; JSON null counts as absent. */
int hd_json_int(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *out, const char *file, struct hd_err *err);
int hd_json_int_or(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t dflt, int64_t *out, const char *file, struct hd_err *err);
int hd_json_real_or(const json_t *o, const char *key, double lo, double hi, double dflt, double *out, const char *file, struct hd_err *err);
int hd_json_bool_or(const json_t *o, const char *key, bool dflt, bool *out, const char *file, struct hd_err *err);
int hd_json_str_or(const json_t *o, const char *key, const char *dflt, const char **out, const char *file, struct hd_err *err);  /* borrowed */

/* "found ...": the value, shortened, for messages. Returns buf. */
const char *hd_json_brief(const json_t *v, char buf[64]);

/* Points jansson at base/mem.h, once, before the first use. */
void hd_json_init(void);

#endif
