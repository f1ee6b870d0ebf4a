/* schema_check.h: is it a schema, of keywords that are known here? And where each of its parts stands. */
#ifndef HD_SAMPLE_SCHEMA_CHECK_H
#define HD_SAMPLE_SCHEMA_CHECK_H

#include <jansson.h>

#include "base/err.h"
#include "base/str.h"

struct hd_schema_place {
    const json_t *schema, *root;
    size_t path;                      /* in paths */
};

struct hd_schema_places {
    struct hd_schema_place *place;    /* open addressing by schema */
    size_t n, cap;
    int64_t n_value;
    struct hd_str paths;
};

void hd_schema_places_init(struct hd_schema_places *p);
void hd_schema_places_release(struct hd_schema_places *p);
/* Adds root and all in it. Errors: USAGE, UNSUPPORTED, LIMIT, MEMORY. */
int hd_schema_check(struct hd_schema_places *p, const json_t *root, struct hd_err *err);
/* "#/properties/a"; "#" when it is not known (true and false). */
const char *hd_schema_path(const struct hd_schema_places *p, const json_t *schema);
/* Which comes first in the document? Larger: later. */
size_t hd_schema_order(const struct hd_schema_places *p, const json_t *schema);
/* What s's $ref means: a schema that was checked. Errors: USAGE. */
int hd_schema_resolve(const struct hd_schema_places *p, const json_t *s, const json_t **out, struct hd_err *err);

#endif
