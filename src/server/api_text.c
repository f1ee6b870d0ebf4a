/* api_text.c: text to tokens and back, and what a chat becomes before the model sees it: for client authors and evaluations. Speaks vLLM's
 * dialect and llama-server's. */
#include <string.h>

#include "base/mem.h"
#include "server/api.h"
#include "server/prep.h"

static void reply_text(struct hd_exchange *x, struct hd_str *out)
{
    hd_reply_json(x, 200, out);
    hd_str_release(out);
}

static void put_ids(const struct hd_ids *ids, struct hd_str *out)
{
    hd_str_putc(out, '[');
    for (size_t i = 0; i < ids->n; i++)
        hd_str_printf(out, i ? ",%d" : "%d", ids->id[i]);
    hd_str_putc(out, ']');
}

/* Pieces that are not whole UTF-8 are lists of bytes, as llama-server has them. */
static void put_pieces(const struct hd_server *s, const struct hd_ids *ids, struct hd_str *out)
{
    hd_str_putc(out, '[');
    for (size_t i = 0; i < ids->n; i++) {
        struct hd_view v = hd_token_text(s->tok, ids->id[i], true);
        bool whole = true;

        for (size_t k = 0; k < v.n && whole;) {
            int len;

            whole = hd_utf8_get(v.p + k, v.n - k, &len) >= 0;
            k += (size_t)len;
        }
        hd_str_printf(out, "%s{\"id\":%d,\"piece\":", i ? "," : "", ids->id[i]);
        if (whole) {
            hd_str_json(out, v.p, v.n);
        } else {
            for (size_t k = 0; k < v.n; k++)
                hd_str_printf(out, k ? ",%d" : "[%d", (unsigned char)v.p[k]);
            hd_str_putc(out, ']');
        }
        hd_str_putc(out, '}');
    }
    hd_str_putc(out, ']');
}

static int push_id(struct hd_ids *ids, int64_t id, struct hd_problem *p)
{
    if (!HD_GROW(ids->id, ids->cap, ids->n + 1, (size_t)1 << 28))
        return hd_problem_set(p, 500, NULL, "no memory");
    ids->id[ids->n++] = (int32_t)id;
    return HD_OK;
}

/* messages are rendered as a chat request's are; a prompt is text. */
static int tokenize(struct hd_server *s, struct hd_ask *a, struct hd_ids *ids, struct hd_problem *p)
{
    const json_t *text = hd_field(a->body, "prompt");
    bool vllm = text != NULL, special, parse_special = false;
    struct hd_err err;

    if (hd_field(a->body, "messages")) {
        if (!hd_field(a->body, "model"))
            json_object_set_new(a->body, "model", json_string(s->opt.model_id));
        HD_TRY(hd_chat_read(s, a, p));
        HD_TRY(hd_ask_render(s, a, NULL, p));
        *ids = a->prompt[0];
        a->prompt[0] = (struct hd_ids){0};
        return HD_OK;
    }
    text = text ? text : hd_field(a->body, "content");
    special = vllm;                   /* each dialect's default */
    HD_TRY(hd_field_bool(a->body, "add_special_tokens", &special, p));
    HD_TRY(hd_field_bool(a->body, "add_special", &special, p));
    HD_TRY(hd_field_bool(a->body, "parse_special", &parse_special, p));
    if (!json_is_string(text))
        return hd_problem_set(p, 400, "prompt", "prompt (or content): expected a string");
    if (special && hd_tokenizer_bos(s->tok) >= 0)
        HD_TRY(push_id(ids, hd_tokenizer_bos(s->tok), p));
    if (hd_tokenize(hd_prep_tokenizer(s), json_string_value(text), json_string_length(text), parse_special ? HD_TOK_SPECIAL : 0, ids, &err) < 0)
        return hd_problem_from(p, &err);
    return HD_OK;
}

/* ---- replies that take long to make: texts, made where the prompt is ---- */

static struct hd_str *new_reply(struct hd_ask *a, struct hd_problem *p)
{
    struct hd_str *out = hd_malloc(sizeof *out);

    if (out)
        hd_str_init(out, 0);
    else
        hd_problem_set(p, 500, NULL, "no memory");
    a->extra = out;
    return out;
}

static void free_reply(void *extra)
{
    hd_str_release(extra);
    hd_free(extra);
}

static void reply(struct hd_server *s, struct hd_exchange *x, int rc, struct hd_ask *a, struct hd_problem *p)
{
    if (rc == HD_OK)
        hd_reply_json(x, 200, a->extra);
    else
        hd_reply_problem(s, x, p);
    if (rc == HD_OK)
        free_reply(a->extra);
    hd_ask_release(a);
}

static int make_tokens(struct hd_server *s, const struct hd_exchange *x, struct hd_ask *a, struct hd_problem *p)
{
    json_t *body = hd_body_json(x, p);
    struct hd_ids ids = {0};
    bool pieces = false;
    struct hd_str *out;
    int rc;

    hd_ask_init(a, x, body);
    if (!body)
        return HD_ERR_USAGE;
    HD_TRY(hd_field_bool(body, "with_pieces", &pieces, p));
    rc = tokenize(s, a, &ids, p);
    if (rc == HD_OK && !(out = new_reply(a, p)))
        rc = HD_ERR_MEMORY;
    if (rc == HD_OK) {
        hd_str_puts(out, "{\"tokens\":");
        if (pieces)
            put_pieces(s, &ids, out);
        else
            put_ids(&ids, out);
        hd_str_printf(out, ",\"count\":%zu,\"max_model_len\":%lld}", ids.n, (long long)s->runner.n_ctx);
    }
    hd_ids_release(&ids);
    return rc;
}

void hd_api_tokenize(struct hd_server *s, struct hd_exchange *x)
{
    static const struct hd_prep_kind kind = {make_tokens, reply, free_reply};

    hd_prep(s, x, &kind);
}

static int read_ids(const struct hd_server *s, const json_t *list, struct hd_ids *ids, struct hd_problem *p)
{
    const json_t *v;
    size_t i;

    if (!json_is_array(list))
        return hd_problem_set(p, 400, "tokens", "tokens: expected a list of token ids");
    json_array_foreach((json_t *)list, i, v)
    {
        if (!json_is_integer(v))
            return hd_problem_set(p, 400, "tokens", "tokens[%zu]: expected an integer", i);
        if (json_integer_value(v) < 0 || json_integer_value(v) >= hd_tokenizer_size(s->tok))
            return hd_problem_set(p, 422, "tokens", "tokens[%zu]: found %lld; expected an id below %lld", i, (long long)json_integer_value(v), (long long)hd_tokenizer_size(s->tok));
        HD_TRY(push_id(ids, json_integer_value(v), p));
    }
    return HD_OK;
}

void hd_api_detokenize(struct hd_server *s, struct hd_exchange *x)
{
    struct hd_problem p = {0};
    json_t *body = hd_body_json(x, &p);
    int rc = body ? HD_OK : HD_ERR_USAGE;
    struct hd_ids ids = {0};
    struct hd_str text, out;

    if (rc == HD_OK)
        rc = read_ids(s, json_object_get(body, "tokens"), &ids, &p);
    if (rc == HD_OK) {
        hd_str_init(&text, 0);
        hd_str_init(&out, 0);
        hd_detokenize(s->tok, ids.id, ids.n, true, &text);
        hd_str_puts(&out, "{\"prompt\":");
        hd_str_json(&out, hd_str_get(&text), text.n);
        hd_str_puts(&out, ",\"content\":");
        hd_str_json(&out, hd_str_get(&text), text.n);
        hd_str_puts(&out, "}");
        reply_text(x, &out);
        hd_str_release(&text);
    } else {
        hd_reply_problem(s, x, &p);
    }
    hd_ids_release(&ids);
    json_decref(body);
}

/* The text of a special token, or null. */
static json_t *special(const struct hd_server *s, int32_t id)
{
    struct hd_view v = id >= 0 ? hd_token_text(s->tok, id, true) : (struct hd_view){NULL, 0};

    return v.n ? json_stringn(v.p, v.n) : json_null();
}

static int32_t end_id(const struct hd_server *s)
{
    for (int32_t i = 0; i < hd_tokenizer_size(s->tok); i++)
        if (hd_tokenizer_is_end(s->tok, i))
            return i;
    return -1;
}

void hd_api_tokenizer_info(struct hd_server *s, struct hd_exchange *x)
{
    const char *tpl = hd_tokenizer_template(s->tok);
    int32_t end = end_id(s);

    hd_reply_value(x, 200, json_pack("{s:o, s:o, s:o, s:o, s:I}", "bos_token", special(s, hd_tokenizer_bos(s->tok)), "eos_token", special(s, end), "pad_token", special(s, end),
                                     "chat_template", tpl[0] ? json_string(tpl) : json_null(), "vocab_size", (json_int_t)hd_tokenizer_size(s->tok)));
}

/* What a chat request's model would read: text, and the ids, in which markers are markers and text is text. */
static int make_prompt(struct hd_server *s, const struct hd_exchange *x, struct hd_ask *a, struct hd_problem *p)
{
    json_t *body = hd_body_json(x, p);
    struct hd_str text, *out;
    int rc;

    hd_ask_init(a, x, body);
    if (!body)
        return HD_ERR_USAGE;
    if (!hd_field(body, "model"))
        json_object_set_new(body, "model", json_string(s->opt.model_id));
    HD_TRY(hd_chat_read(s, a, p));
    hd_str_init(&text, 0);
    rc = hd_ask_render(s, a, &text, p);
    if (rc == HD_OK && !(out = new_reply(a, p)))
        rc = HD_ERR_MEMORY;
    if (rc == HD_OK) {
        hd_str_puts(out, "{\"prompt\":");
        hd_str_json(out, hd_str_get(&text), text.n);
        hd_str_puts(out, ",\"tokens\":");
        put_ids(&a->prompt[0], out);
        hd_str_printf(out, ",\"count\":%zu}", a->prompt[0].n);
    }
    hd_str_release(&text);
    return rc;
}

void hd_api_apply_template(struct hd_server *s, struct hd_exchange *x)
{
    static const struct hd_prep_kind kind = {make_prompt, reply, free_reply};

    hd_prep(s, x, &kind);
}
