/* schema.h: a JSON Schema as a grammar: what fits the grammar is valid.
 *
 * Of the 2020-12 keywords: type, enum, const, properties, required, additionalProperties, minProperties and maxProperties (where they say
 * nothing new), items, prefixItems, minItems, maxItems, minLength, maxLength, pattern, format, minimum, maximum, exclusiveMinimum,
 * exclusiveMaximum, multipleOf 1, anyOf, oneOf (where the alternatives exclude one another), allOf, $ref within the document, $defs (and
 * definitions, $def). Annotations are skipped. Any other keyword is an error: nothing is left unchecked.
 *
 * Narrower than the schema, so that models end and answers are what was meant:
 *   members come in the order of properties; others behind them, and only where additionalProperties is said or no properties are;
 *   a schema without type has the type that its keywords speak of; integers have at most 18 digits, numbers 12 and 6 behind the point where
 *   they are bounded, else 15, 16 and a two-digit exponent; text has one spelling (as Python's json.dumps, non-ASCII as it is).
 * A free key may come twice; readers take the last one.
 *
 * Errors   name the keyword and its place, as a JSON pointer behind #
 */
#ifndef HD_SAMPLE_SCHEMA_H
#define HD_SAMPLE_SCHEMA_H

#include <jansson.h>

#include "sample/grammar.h"

#define HD_SCHEMA_NESTED 64           /* schemas inside one another */
#define HD_SCHEMA_VALUES 200000       /* keywords, enum's values, ... in all */

/* Errors: UNSUPPORTED, USAGE (not a schema), LIMIT, MEMORY. */
int hd_schema_compile(struct hd_grammar **out, const json_t *schema, struct hd_err *err);
/* Text as it is, no JSON: one of a list of strings; all of a text that matches a regular expression (pattern.h). */
int hd_schema_compile_choice(struct hd_grammar **out, const json_t *list, struct hd_err *err);
int hd_schema_compile_regex(struct hd_grammar **out, const char *pattern, struct hd_err *err);
/* Into a grammar that is being built: a value as JSON text between two states. */
int hd_schema_add(struct hd_grammar *g, const json_t *schema, uint32_t from, uint32_t to, struct hd_err *err);

/* How DeepSeek-V4 writes a tool's arguments: <DSML parameter name="K" string="true|false">V</DSML parameter>, a line each; strings as they are,
 * everything else as JSON. Between two states, from behind the head's newline to behind the newline that ends the last one.
 *
 * schema: NULL: no parameters; one without properties: any. A free key has at most 64 characters beyond those that it shares with declared
 * ones, and no quotation mark, < or >. Errors: as above; a schema of something else than an object, or of named ones, is UNSUPPORTED. */
struct hd_schema_dsml {
    int32_t marker;                   /* the id of ｜DSML｜ */
    const char *parameter;            /* the tag's name */
};
int hd_schema_add_dsml(struct hd_grammar *g, const json_t *schema, const struct hd_schema_dsml *form, uint32_t from, uint32_t to, struct hd_err *err);

#endif
