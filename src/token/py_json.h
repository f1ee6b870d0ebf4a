/* py_json.h: JSON text as Python's json.loads and json.dumps(x, ensure_ascii=False) have it: what DeepSeek's encoders put into prompts.
 *
 * Python's integers have any length and its reals overflow to Infinity. A number that int64 or double cannot hold is read as a string
 * that begins with U+0000, and written as the number.
 */
#ifndef HD_TOKEN_PY_JSON_H
#define HD_TOKEN_PY_JSON_H

#include "base/json.h"
#include "base/str.h"

/* Parses n bytes: any value, the last of duplicate keys. NULL on failure; release with json_decref(). */
json_t *hd_py_json_parse(const char *p, size_t n);
/* A file's object, strictly (duplicate keys are refused), with Python's numbers. NULL with *err written on failure. */
json_t *hd_py_json_read(const char *path, size_t max_bytes, struct hd_err *err);

/* A string, and not a number kept as one. */
bool hd_py_json_is_string(const json_t *v);
void hd_py_json(const json_t *v, struct hd_str *out);

#endif
