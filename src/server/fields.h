/* fields.h: fields of a request's JSON, with the problem that a wrong one is.
 *
 * Absent and null leave the output as it is. A wrong type is 400, a value out of range 422. Functions return HD_OK or a status
 * below zero with *p set.
 */
#ifndef HD_SERVER_FIELDS_H
#define HD_SERVER_FIELDS_H

#include "base/json.h"
#include "server/problem.h"

const json_t *hd_field(const json_t *o, const char *key);     /* NULL when absent or null */
int hd_field_int(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *out, struct hd_problem *p);
int hd_field_real(const json_t *o, const char *key, double lo, double hi, double *out, struct hd_problem *p);
int hd_field_bool(const json_t *o, const char *key, bool *out, struct hd_problem *p);
int hd_field_str(const json_t *o, const char *key, const char **out, struct hd_problem *p);   /* borrowed */
const char *hd_text_of(const json_t *o, const char *key);     /* "" unless it is a string */
bool hd_text_is(const json_t *o, const char *key, const char *want);

/* Depth and number of values of JSON text, before it is parsed; strings are skipped. false: more than that. */
bool hd_json_within(const char *p, size_t n, int depth_max, int64_t values_max);

#endif
