/* schema_number.h: numbers between bounds, as a part of a grammar: at most 18 digits, six of them behind the point where there is one. */
#ifndef HD_SAMPLE_SCHEMA_NUMBER_H
#define HD_SAMPLE_SCHEMA_NUMBER_H

#include <jansson.h>

#include "sample/pattern.h"

struct hd_schema_range {
    bool real, bounded;
    int64_t lo, hi;                   /* in units of the last digit */
};

void hd_schema_range_init(struct hd_schema_range *r, bool real);
/* false: nothing that is written here reaches it. */
bool hd_schema_range_bound(struct hd_schema_range *r, const json_t *v, bool upper, bool exclusive);
/* raw: a spelling of plain text. */
int hd_schema_range_add(const struct hd_schema_range *r, struct hd_spelling *raw, uint32_t from, uint32_t to, struct hd_err *err);

#endif
