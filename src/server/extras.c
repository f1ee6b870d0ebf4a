/* extras.c: see extras.h. */
#include "server/extras.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "sample/json_vocab.h"
#include "sample/schema.h"

/* ---- what is refused ---- */

enum { ANY, NUMBER, NO, YES };        /* what a field may say all the same: nothing; one number; false; true. Empty lists and texts always */

static const struct {
    const char *name;
    int may;
    double number;
} refused[] = {
    {"guided_grammar", ANY, 0}, {"grammar", ANY, 0}, {"structural_tag", ANY, 0}, {"regex", ANY, 0}, {"ebnf", ANY, 0},
    {"use_beam_search", NO, 0}, {"length_penalty", NUMBER, 1}, {"early_stopping", NO, 0}, {"no_repeat_ngram_size", NUMBER, 0},
    {"typical_p", NUMBER, 1}, {"tfs_z", NUMBER, 1}, {"top_a", NUMBER, 0}, {"top_n_sigma", NUMBER, -1}, {"mirostat", NUMBER, 0}, {"mirostat_mode", NUMBER, 0},
    {"xtc_probability", NUMBER, 0}, {"dry_multiplier", NUMBER, 0}, {"dynatemp_range", NUMBER, 0}, {"smoothing_factor", NUMBER, 0},
    {"bad_words", ANY, 0}, {"allowed_token_ids", ANY, 0}, {"logits_processors", ANY, 0}, {"include_stop_str_in_output", NO, 0}, {"skip_special_tokens", YES, 0},
    {"truncate_prompt_tokens", ANY, 0}, {"chat_template", ANY, 0}, {"add_generation_prompt", YES, 0}, {"continue_final_message", NO, 0}, {"documents", ANY, 0},
    {"lora", ANY, 0}, {"web_search_options", ANY, 0},
};

static bool says_nothing(const json_t *v, int may, double number)
{
    if (json_is_boolean(v))
        return may == NO ? json_is_false(v) : may == YES && json_is_true(v);
    if (json_is_number(v))
        return may == NUMBER && json_number_value(v) == number;
    return json_is_string(v) ? !json_string_length(v) : json_is_array(v) ? !json_array_size(v) : json_is_object(v) && !json_object_size(v);
}

static int refuse(const struct hd_ask *a, struct hd_problem *p)
{
    for (int i = 0; i < HD_LEN(refused); i++) {
        const json_t *v = hd_field(a->body, refused[i].name);

        if (v && !says_nothing(v, refused[i].may, refused[i].number)) {
            hd_problem_set(p, 400, refused[i].name, "%s: this server does not support it, and the answer would be another one without", refused[i].name);
            p->code = "unsupported_parameter";
            return HD_ERR_UNSUPPORTED;
        }
    }
    return HD_OK;
}

/* ---- ends ---- */

static int read_stop_ids(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    const json_t *list = hd_field(a->body, "stop_token_ids"), *v;
    size_t i;

    if (list && !json_is_array(list))
        return hd_problem_set(p, 400, "stop_token_ids", "stop_token_ids: expected a list of token ids");
    if (json_array_size(list) > HD_STOP_MAX)
        return hd_problem_set(p, 400, "stop_token_ids", "stop_token_ids: found %zu; at most %d expected", json_array_size(list), HD_STOP_MAX);
    json_array_foreach((json_t *)list, i, v)
    {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= hd_tokenizer_size(s->tok))
            return hd_problem_set(p, 422, "stop_token_ids", "stop_token_ids[%zu]: expected a token id below %lld", i, (long long)hd_tokenizer_size(s->tok));
        a->stop_id[a->n_stop_id++] = (int32_t)json_integer_value(v);
    }
    return HD_OK;
}

bool hd_extras_is_stop(const struct hd_ask *a, int32_t id)
{
    for (int i = 0; i < a->n_stop_id; i++)
        if (a->stop_id[i] == id)
            return true;
    return false;
}

struct least {
    const struct hd_json_vocab *v;
    int64_t left;
    int n_stop;
    int32_t stop[HD_STOP_MAX];
};

static void least_mask(void *self, float *logits, int64_t n_vocab)
{
    const struct least *m = self;

    if (m->left <= 0)
        return;
    hd_json_vocab_go_on(m->v, logits, n_vocab);
    for (int i = 0; i < m->n_stop; i++)
        if (m->stop[i] < n_vocab)
            logits[m->stop[i]] = -INFINITY;
}

static void least_take(void *self, int32_t id)
{
    ((struct least *)self)->left--;
}

static void least_free(void *self)
{
    hd_free(self);
}

int hd_extras_min(const struct hd_server *s, const struct hd_ask *a, struct hd_constraint *out, struct hd_err *err)
{
    struct least *m = hd_calloc(1, sizeof *m);

    if (!m)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a constraint");
    *m = (struct least){.v = s->json_vocab, .left = a->n_min, .n_stop = a->n_stop_id};
    memcpy(m->stop, a->stop_id, sizeof m->stop);
    *out = (struct hd_constraint){m, least_mask, least_take, least_free};
    return HD_OK;
}

/* ---- what the answer must be ---- */

static int compiled(struct hd_ask *a, const char *field, int rc, const struct hd_err *err, struct hd_problem *p)
{
    if (rc == HD_OK)
        a->strict_format = true;
    return rc == HD_OK ? HD_OK : rc == HD_ERR_MEMORY ? hd_problem_from(p, err) : hd_problem_set(p, 400, field, "%s: %s", field, err->msg);
}

/* A schema, or the text of one. */
static int read_schema(struct hd_ask *a, const char *field, const json_t *v, struct hd_problem *p)
{
    json_t *schema = json_is_string(v) ? json_loadb(json_string_value(v), json_string_length(v), 0, NULL) : json_incref((json_t *)v);
    struct hd_err err;
    int rc;

    if (!json_is_object(schema)) {
        json_decref(schema);
        return hd_problem_set(p, 400, field, "%s: expected a JSON schema, or its text", field);
    }
    rc = compiled(a, field, hd_schema_compile(&a->grammar, schema, &err), &err, p);
    json_decref(schema);
    return rc;
}

static int read_choices(struct hd_ask *a, const char *field, const json_t *list, struct hd_problem *p)
{
    const json_t *v;
    struct hd_err err;
    size_t i;

    if (!json_is_array(list) || !json_array_size(list))
        return hd_problem_set(p, 400, field, "%s: expected a list of texts", field);
    json_array_foreach((json_t *)list, i, v) if (!json_is_string(v)) return hd_problem_set(p, 400, field, "%s[%zu]: expected a string", field, i);
    return compiled(a, field, hd_schema_compile_choice(&a->grammar, list, &err), &err, p);
}

static int read_regex(struct hd_ask *a, const char *field, const json_t *v, struct hd_problem *p)
{
    struct hd_err err;

    if (!json_is_string(v))
        return hd_problem_set(p, 400, field, "%s: expected a regular expression", field);
    return compiled(a, field, hd_schema_compile_regex(&a->grammar, json_string_value(v), &err), &err, p);
}

static int read_guides(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    static const struct {
        const char *name, *inner;     /* its own field, and that of structured_outputs */
        int (*read)(struct hd_ask *a, const char *field, const json_t *v, struct hd_problem *p);
    } guides[] = {{"guided_json", "json", read_schema}, {"guided_choice", "choice", read_choices}, {"guided_regex", "regex", read_regex}, {"json_schema", NULL, read_schema}};
    const json_t *outputs = hd_field(a->body, "structured_outputs");
    const char *found = NULL;

    if (outputs && !json_is_object(outputs))
        return hd_problem_set(p, 400, "structured_outputs", "structured_outputs: expected an object");
    if (hd_field(outputs, "grammar") || hd_field(outputs, "structural_tag"))
        return hd_problem_set(p, 400, "structured_outputs", "structured_outputs: expected json, choice or regex; grammars are not supported");
    for (int i = 0; i < HD_LEN(guides); i++) {
        const json_t *v = hd_field(a->body, guides[i].name), *inner = guides[i].inner ? hd_field(outputs, guides[i].inner) : NULL;

        if (!v && !inner)
            continue;
        if (found || (v && inner) || hd_field(a->body, "response_format"))
            return hd_problem_set(p, 400, guides[i].name, "%s: there is another field already that says what the answer must be", guides[i].name);
        found = v ? guides[i].name : "structured_outputs";
        HD_TRY(guides[i].read(a, found, v ? v : inner, p));
    }
    if (found && (!s->json_vocab || !s->json_vocab->spells))
        return hd_problem_set(p, 400, found, "%s: this model's vocabulary cannot be kept to a form", found);
    if (found && a->n_min)
        return hd_problem_set(p, 400, "min_tokens", "min_tokens and %s exclude each other", found);
    return HD_OK;
}

int hd_extras_read(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p)
{
    HD_TRY(refuse(a, p));
    HD_TRY(hd_field_real(a->body, "repeat_penalty", 0.01, 100, &a->sample.repetition, p));
    HD_TRY(hd_field_int(a->body, "min_tokens", 0, (int64_t)1 << 40, &a->n_min, p));
    if (a->n_min && !s->json_vocab)
        a->n_min = 0;                 /* nothing ends there but the window */
    HD_TRY(read_stop_ids(s, a, p));
    return read_guides(s, a, p);
}
