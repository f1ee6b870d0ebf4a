/* py_json.h: JSON text as Python's json.dumps(x, ensure_ascii=False) writes it: what DeepSeek's encoders put into prompts. */
#ifndef HD_TOKEN_PY_JSON_H
#define HD_TOKEN_PY_JSON_H

#include "base/json.h"
#include "base/str.h"

void hd_py_json(const json_t *v, struct hd_str *out);

#endif
