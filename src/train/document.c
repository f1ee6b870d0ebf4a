/* document.c: see document.h. Every shape of conversation becomes "messages"; what an assistant said is what one more message adds to the prompt. */
#include "train/document.h"

#include <string.h>

#include "base/mem.h"
#include "token/chat.h"
#include "token/vocab.h"

#define TOKENS_MAX ((size_t)1 << 32)

/* ---- marks ---- */

static int grow(struct hd_document *d, struct hd_err *err)
{
    return HD_GROW(d->skip, d->cap, d->ids.n + 1, TOKENS_MAX) ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu tokens", d->ids.n);
}

static int mark_all(struct hd_document *d, size_t from, bool skip, struct hd_err *err)
{
    HD_TRY(grow(d, err));
    memset(d->skip + from, skip, d->ids.n - from);
    return HD_OK;
}

static int push_end(struct hd_document *d, const struct hd_tokenizer *tok, struct hd_err *err)
{
    int32_t end = hd_tokenizer_end(tok);

    return end < 0 || hd_ids_push(&d->ids, end) ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu tokens", d->ids.n);
}

static int push_begin(struct hd_document *d, const struct hd_tokenizer *tok, struct hd_err *err)
{
    int32_t bos = hd_tokenizer_bos(tok);

    return bos < 0 || hd_ids_push(&d->ids, bos) ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu tokens", d->ids.n);
}

static int push_text(struct hd_document *d, struct hd_tokenizer *tok, const json_t *v, const char *key, struct hd_err *err)
{
    if (!json_is_string(v))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: expected a string", key);
    return hd_tokenize(tok, json_string_value(v), json_string_length(v), 0, &d->ids, err);
}

/* ---- conversations ---- */

/* The first n messages as a prompt; open: the assistant's turn is begun behind them. */
static int prompt_ids(struct hd_tokenizer *tok, const json_t *line, size_t n, bool open, struct hd_ids *out, struct hd_err *err)
{
    json_t *doc = json_copy((json_t *)line), *list = json_array();
    struct hd_chat_options opt = {.no_generation_prompt = !open};
    struct hd_chat_text text;
    int rc;

    for (size_t i = 0; i < n; i++)
        json_array_append(list, json_array_get(json_object_get(line, "messages"), i));
    json_object_set_new(doc, "messages", list);
    hd_chat_text_init(&text);
    out->n = 0;
    rc = hd_chat_render(tok, doc, &opt, &text, err);
    if (rc == HD_OK)
        rc = hd_chat_ids(tok, &text, out, err);
    hd_chat_text_release(&text);
    json_decref(doc);
    return rc;
}

static bool begins(const struct hd_ids *whole, const struct hd_ids *part)
{
    return part->n <= whole->n && !memcmp(whole->id, part->id, part->n * sizeof *part->id);
}

static bool learned(const json_t *message)
{
    const json_t *weight = json_object_get(message, "weight");

    return hd_chat_role_is(message, "assistant") && !(json_is_number(weight) && json_number_value(weight) == 0);
}

static int mark_answers(struct hd_document *d, struct hd_tokenizer *tok, const json_t *line, struct hd_ids *before, struct hd_ids *after, struct hd_err *err)
{
    const json_t *messages = json_object_get(line, "messages");

    for (size_t i = 1; i < json_array_size(messages); i++) {
        if (!learned(json_array_get(messages, i)))
            continue;
        HD_TRY(prompt_ids(tok, line, i, true, before, err));
        HD_TRY(prompt_ids(tok, line, i + 1, false, after, err));
        if (!begins(after, before) || !begins(&d->ids, after))
            return hd_err_set(err, HD_ERR_UNSUPPORTED, "messages[%zu]: the chat format writes this turn otherwise once others follow: it cannot be told what of it was said", i);
        memset(d->skip + before->n, 0, after->n - before->n);
    }
    return HD_OK;
}

static int add_messages(struct hd_document *d, struct hd_tokenizer *tok, const json_t *line, bool all, struct hd_err *err)
{
    struct hd_ids before = {0}, after = {0};
    int rc = prompt_ids(tok, line, json_array_size(json_object_get(line, "messages")), false, &d->ids, err);

    if (rc == HD_OK)
        rc = mark_all(d, 0, !all, err);
    if (rc == HD_OK && !all)
        rc = mark_answers(d, tok, line, &before, &after, err);
    hd_ids_release(&before);
    hd_ids_release(&after);
    return rc;
}

static int say(json_t *list, const char *role, const json_t *text, const char *key, struct hd_err *err)
{
    if (!json_is_string(text))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: expected a string", key);
    json_array_append_new(list, json_pack("{s:s, s:O}", "role", role, "content", (json_t *)text));
    return HD_OK;
}

static int from_sharegpt(const json_t *line, json_t *list, struct hd_err *err)
{
    static const char *const role[][2] = {{"human", "user"}, {"user", "user"}, {"gpt", "assistant"}, {"chatgpt", "assistant"}, {"assistant", "assistant"}, {"system", "system"}};
    const json_t *c = json_object_get(line, "conversations"), *m;
    size_t i;

    if (!json_is_array(c))
        return hd_err_set(err, HD_ERR_FORMAT, "conversations: expected a list");
    json_array_foreach((json_t *)c, i, m)
    {
        const char *from = json_string_value(json_object_get(m, "from"));
        int k = 0;

        while (k < HD_LEN(role) && (!from || strcmp(from, role[k][0])))
            k++;
        if (k == HD_LEN(role))
            return hd_err_set(err, HD_ERR_FORMAT, "conversations[%zu]: from: found \"%.40s\"; expected human, gpt or system", i, from ? from : "");
        HD_TRY(say(list, role[k][1], json_object_get(m, "value"), "value", err));
    }
    return HD_OK;
}

static int from_alpaca(const json_t *line, json_t *list, struct hd_err *err)
{
    const json_t *system = json_object_get(line, "system"), *input = json_object_get(line, "input"), *instruction = json_object_get(line, "instruction"), *pair;
    json_t *asked;
    size_t i;
    int rc;

    if (json_is_string(system) && json_string_length(system))
        HD_TRY(say(list, "system", system, "system", err));
    json_array_foreach(json_object_get(line, "history"), i, pair)
    {
        HD_TRY(say(list, "user", json_array_get(pair, 0), "history", err));
        HD_TRY(say(list, "assistant", json_array_get(pair, 1), "history", err));
    }
    if (!json_is_string(instruction) || (input && !json_is_null(input) && !json_is_string(input)))
        return hd_err_set(err, HD_ERR_FORMAT, "instruction, input: expected strings");
    asked = json_string_length(input) ? json_pack("s%++%", json_string_value(instruction), json_string_length(instruction), "\n\n", json_string_value(input), json_string_length(input))
                                      : json_incref((json_t *)instruction);
    rc = say(list, "user", asked, "instruction", err);
    json_decref(asked);
    return rc < 0 ? rc : say(list, "assistant", json_object_get(line, "output"), "output", err);
}

static int add_other(struct hd_document *d, struct hd_tokenizer *tok, const json_t *line, bool all, int (*read)(const json_t *, json_t *, struct hd_err *), struct hd_err *err)
{
    json_t *list = json_array(), *doc = json_pack("{s:o}", "messages", list);
    int rc = doc ? read(line, list, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a conversation");

    if (rc == HD_OK)
        rc = add_messages(d, tok, doc, all, err);
    json_decref(doc);
    return rc;
}

/* ---- texts ---- */

static int add_text(struct hd_document *d, struct hd_tokenizer *tok, const json_t *line, struct hd_err *err)
{
    HD_TRY(push_begin(d, tok, err));
    HD_TRY(push_text(d, tok, json_object_get(line, "text"), "text", err));
    HD_TRY(push_end(d, tok, err));
    return mark_all(d, 0, false, err);
}

static int add_completion(struct hd_document *d, struct hd_tokenizer *tok, const json_t *line, bool all, struct hd_err *err)
{
    size_t n;

    HD_TRY(push_begin(d, tok, err));
    HD_TRY(push_text(d, tok, json_object_get(line, "prompt"), "prompt", err));
    n = d->ids.n;
    HD_TRY(mark_all(d, 0, !all, err));
    HD_TRY(push_text(d, tok, json_object_get(line, "completion"), "completion", err));
    HD_TRY(push_end(d, tok, err));
    return mark_all(d, n, false, err);
}

int hd_document_read(struct hd_document *d, struct hd_tokenizer *tok, const json_t *line, bool all, struct hd_err *err)
{
    d->ids.n = 0;
    if (!json_is_object(line))
        return hd_err_set(err, HD_ERR_FORMAT, "expected an object");
    if (json_object_get(line, "messages"))
        return add_messages(d, tok, line, all, err);
    if (json_object_get(line, "conversations"))
        return add_other(d, tok, line, all, from_sharegpt, err);
    if (json_object_get(line, "instruction"))
        return add_other(d, tok, line, all, from_alpaca, err);
    if (json_object_get(line, "completion"))
        return add_completion(d, tok, line, all, err);
    if (json_object_get(line, "text"))
        return add_text(d, tok, line, err);
    return hd_err_set(err, HD_ERR_FORMAT, "found none of text, messages, conversations, instruction, completion");
}

void hd_document_release(struct hd_document *d)
{
    hd_ids_release(&d->ids);
    hd_free(d->skip);
    memset(d, 0, sizeof *d);
}

void hd_document_texts(const json_t *line, void (*fn)(void *arg, const char *text, size_t n), void *arg)
{
    static const char *const names[] = {"role", "from"};
    const char *key;
    const json_t *v;
    size_t i;

    if (json_is_string(line)) {
        fn(arg, json_string_value(line), json_string_length(line));
    } else if (json_is_array(line)) {
        json_array_foreach((json_t *)line, i, v) hd_document_texts(v, fn, arg);
    } else if (json_is_object(line)) {
        json_object_foreach((json_t *)line, key, v)
            if (strcmp(key, names[0]) && strcmp(key, names[1]))
                hd_document_texts(v, fn, arg);
    }
}
