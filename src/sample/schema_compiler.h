/* schema_compiler.h: the inside of schema.c, for the files that it is made of: schema_parts.c (lists of schemas, multiplied out),
 * schema.c (values), schema_object.c (objects), schema_dsml.c (a tool's parameters). */
#ifndef HD_SAMPLE_SCHEMA_COMPILER_H
#define HD_SAMPLE_SCHEMA_COMPILER_H

#include "base/mem.h"
#include "sample/pattern.h"
#include "sample/schema.h"
#include "sample/schema_check.h"
#include "sample/schema_number.h"

#define PARTS_MAX 24

enum { T_NULL = 1, T_BOOL = 2, T_INT = 4, T_REAL = 8, T_STRING = 16, T_ARRAY = 32, T_OBJECT = 64, T_ALL = 127 };

/* All of them must hold. */
struct hd_schema_parts {
    const json_t *s[PARTS_MAX];
    int n;
    bool never;                       /* false was among them */
};

struct hd_schema_alts {
    struct hd_schema_parts *a;
    size_t n, cap;
};

struct hd_schema_value_rule {
    struct hd_schema_parts parts;
    uint32_t rule;
};

struct hd_schema_number_rule {
    struct hd_schema_range range;
    uint32_t rule;
};

struct hd_schema_compiler {
    struct hd_grammar *g;
    struct hd_schema_number_rule *number;
    size_t n_number, cap_number;
    struct hd_spelling json, raw;
    struct hd_schema_places places;
    struct hd_schema_value_rule *rule;
    size_t n_rule, cap_rule;
    int64_t work;
    struct hd_err *err;
};

/* ---- errors ---- */

int hd_schema_no_memory(struct hd_schema_compiler *c);
int hd_schema_refuse(struct hd_schema_compiler *c, int code, const json_t *s, const char *key, const char *what);
/* HD_OK while the grammar has room. */
int hd_schema_full(struct hd_schema_compiler *c);

/* ---- lists ---- */

int hd_schema_add_part(struct hd_schema_compiler *c, struct hd_schema_parts *p, const json_t *s);
unsigned hd_schema_type_of(const json_t *v);
int64_t hd_schema_count(const json_t *s, const char *key, int64_t otherwise);
bool hd_schema_all_may_take(const struct hd_schema_parts *p, const json_t *v, const json_t *of);
const json_t *hd_schema_named_values(const struct hd_schema_parts *p, const json_t **one);
unsigned hd_schema_types(const struct hd_schema_parts *p);
int hd_schema_member(struct hd_schema_compiler *c, const struct hd_schema_parts *p, const char *name, struct hd_schema_parts *out);
/* Alternatives without anyOf, oneOf and $ref; out->a is the caller's to free. */
int hd_schema_expand(struct hd_schema_compiler *c, const struct hd_schema_parts *p, int depth, struct hd_schema_alts *out);

/* ---- values ---- */

int hd_schema_rule(struct hd_schema_compiler *c, const struct hd_schema_parts *p, uint32_t *rule);
/* Values of the types only; raw: strings without quotes and escapes. */
int hd_schema_add_values(struct hd_schema_compiler *c, const struct hd_schema_parts *p, unsigned only, bool raw, uint32_t from, uint32_t to);

/* ---- objects ---- */

struct hd_schema_names {
    const char **name;
    bool *required;
    size_t n, cap, cap_required;
    json_t *index;                    /* name: its number */
};

int hd_schema_by_text(const void *a, const void *b);
int hd_schema_names(struct hd_schema_compiler *c, const struct hd_schema_parts *p, struct hd_schema_names *m);
void hd_schema_names_release(struct hd_schema_names *m);
int hd_schema_others(struct hd_schema_compiler *c, const struct hd_schema_parts *p, bool *may, struct hd_schema_parts *out);
/* Behind a member that leads to next: the states for "none is there yet" and "some are", moved on. */
void hd_schema_pass(struct hd_grammar *g, bool required, uint32_t next, uint32_t *none, uint32_t *some);
int hd_schema_check_counts(struct hd_schema_compiler *c, const struct hd_schema_parts *p, const struct hd_schema_names *m);
int hd_schema_add_object(struct hd_schema_compiler *c, const struct hd_schema_parts *p, uint32_t from, uint32_t to);

/* Names that are none of m, from one state to f->end. */
struct hd_schema_free {
    struct hd_spelling *spelling;
    uint32_t any, end;                /* any: where a name is that cannot become one of m; the caller leads from there to end */
    const uint32_t *never;            /* characters that no such name has */
    int n_never;
    bool may_be_empty;
};
int hd_schema_free_name(struct hd_schema_compiler *c, const struct hd_schema_names *m, const struct hd_schema_free *f, uint32_t from);

/* ---- the frame of a compilation into a grammar that is there ---- */

int hd_schema_begin(struct hd_schema_compiler *c, struct hd_grammar *g, const json_t *schema, struct hd_schema_parts *p, struct hd_err *err);
int hd_schema_fill(struct hd_schema_compiler *c);     /* the rules that were asked for */
void hd_schema_end(struct hd_schema_compiler *c);

#endif
