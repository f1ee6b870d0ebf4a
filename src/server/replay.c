/* replay.c: see replay.h. */
#include "server/replay.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "server/answering.h"
#include "server/replay_disk.h"
#include "token/py_json.h"

#define TURNS 16384
#define BYTES ((size_t)128 << 20)

struct hd_replay {
    pthread_mutex_t lock;
    struct hd_replay_turn turn[TURNS];        /* a ring */
    uint64_t first, next;             /* numbers of the oldest and of the next one */
    size_t bytes;
    json_t *by_id;                    /* a call's id, or a key, to its turn's number */
    struct hd_replay_disk *disk;      /* or NULL */
};

static void release(struct hd_replay_turn *t)
{
    hd_free(t->tenant);
    hd_free(t->reasoning);
    hd_free(t->content);
    json_decref(t->calls);
    hd_ids_release(&t->ids);
    memset(t, 0, sizeof *t);
}

static void drop_oldest(struct hd_replay *r, bool file)
{
    uint64_t number = r->first++;
    struct hd_replay_turn *t = &r->turn[number % TURNS];
    const json_t *c;
    size_t i;

    json_array_foreach(t->calls, i, c) json_object_del(r->by_id, hd_text_of(c, "id"));
    if (t->key[0] && (uint64_t)json_integer_value(json_object_get(r->by_id, t->key)) == number)
        json_object_del(r->by_id, t->key);
    if (file && r->disk && t->number)
        hd_replay_disk_drop(r->disk, t->tenant, t->number);
    r->bytes -= t->bytes;
    release(t);
}

void hd_replay_free(struct hd_replay *r)
{
    if (!r)
        return;
    hd_replay_disk_close(r->disk);
    while (r->first < r->next)
        drop_oldest(r, false);
    json_decref(r->by_id);
    pthread_mutex_destroy(&r->lock);
    hd_free(r);
}

void hd_replay_clear(struct hd_replay *r)
{
    pthread_mutex_lock(&r->lock);
    while (r->first < r->next)
        drop_oldest(r, true);
    pthread_mutex_unlock(&r->lock);
}

/* ---- chains ---- */

/* Without newlines at its ends, which clients trim. */
static struct hd_view trimmed(const char *s)
{
    struct hd_view v = {s + strspn(s, "\n"), 0};

    for (v.n = strlen(v.p); v.n && v.p[v.n - 1] == '\n'; v.n--)
        ;
    return v;
}

static uint64_t chain_text(uint64_t h, struct hd_view v)
{
    return hd_hash(hd_hash(h, &v.n, sizeof v.n), v.p, v.n);
}

/* Reasoning and arguments come back in many forms: they do not count. */
uint64_t hd_replay_chain(uint64_t chain, const json_t *message)
{
    const char *role = hd_text_of(message, "role");
    const json_t *c;
    size_t i;

    chain = chain_text(chain ? chain : HD_HASH_INIT, (struct hd_view){role, strlen(role)});
    chain = chain_text(chain, trimmed(hd_text_of(message, "content")));
    json_array_foreach(json_object_get(message, "tool_calls"), i, c)
    {
        const char *id = hd_text_of(c, "id");

        chain = chain_text(chain, (struct hd_view){id, strlen(id)});
    }
    return chain;
}

/* No call's id begins so. */
static void key_of(char key[20], const char *tenant, uint64_t chain, const char *content)
{
    uint64_t h = chain_text(chain_text(chain, (struct hd_view){tenant, strlen(tenant)}), trimmed(content));

    snprintf(key, 20, "=%016llx", (unsigned long long)h);
}

/* ---- keeping ---- */

static json_t *calls_of(const struct hd_choice *c)
{
    json_t *list = json_array();

    for (size_t i = 0; i < c->n_call; i++) {
        const struct hd_tool_call *call = &c->call[i];
        json_t *o = json_pack("{s:s%, s:s%, s:s%}", "id", hd_str_get(&call->id), call->id.n, "name", hd_str_get(&call->name), call->name.n, "arguments", hd_str_get(&call->args), call->args.n);

        if (!o || json_array_append_new(list, o)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static size_t bytes_of(const struct hd_replay_turn *t)
{
    return sizeof *t + strlen(t->tenant) + strlen(t->reasoning) + 2 * strlen(t->content) + t->ids.n * 12 + json_array_size(t->calls) * 512;
}

static bool copy_turn(struct hd_replay_turn *t, const char *tenant, const struct hd_choice *c)
{
    const struct hd_ids *prompt = &c->answer->ask.prompt[c->prompt];
    size_t n_open = c->answer->ask.n_opened;

    t->tenant = hd_strdup(tenant);
    t->reasoning = hd_strndup(hd_str_get(&c->reasoning), c->reasoning.n);
    t->content = hd_strndup(hd_str_get(&c->content), c->content.n);
    t->calls = calls_of(c);
    if (!t->tenant || !t->reasoning || !t->content || !t->calls || n_open > prompt->n || !HD_GROW(t->ids.id, t->ids.cap, n_open + c->ids.n + 1, (size_t)1 << 28))
        return false;
    if (!c->n_call)
        key_of(t->key, tenant, c->answer->ask.chain, t->content);
    memcpy(t->ids.id, prompt->id + prompt->n - n_open, n_open * sizeof *c->ids.id);
    memcpy(t->ids.id + n_open, c->ids.id, c->ids.n * sizeof *c->ids.id);
    t->ids.n = n_open + c->ids.n;
    t->thought = c->answer->ask.start == HD_PARSE_IN_REASONING;
    t->bytes = bytes_of(t);
    return true;
}

/* Takes what is in t. */
static void add_turn(struct hd_replay *r, struct hd_replay_turn *t)
{
    const json_t *call;
    size_t i;

    while (r->first < r->next && (r->next - r->first == TURNS || r->bytes + t->bytes > BYTES))
        drop_oldest(r, true);
    json_array_foreach(t->calls, i, call) json_object_set_new(r->by_id, hd_text_of(call, "id"), json_integer((json_int_t)r->next));
    if (t->key[0])
        json_object_set_new(r->by_id, t->key, json_integer((json_int_t)r->next));
    r->bytes += t->bytes;
    r->turn[r->next++ % TURNS] = *t;
}

/* ---- in files ---- */

static json_t *turn_json(const struct hd_replay_turn *t)
{
    json_t *ids = json_array(), *v;

    for (size_t i = 0; i < t->ids.n; i++)
        json_array_append_new(ids, json_integer(t->ids.id[i]));
    v = json_pack("{s:s, s:s, s:s, s:O, s:o, s:b}", "tenant", t->tenant, "reasoning", t->reasoning, "content", t->content, "calls", t->calls, "ids", ids, "thought", t->thought);
    return v;
}

static bool read_ids(const json_t *list, struct hd_ids *out)
{
    const json_t *v;
    size_t i;

    if (!json_array_size(list) || !HD_GROW(out->id, out->cap, json_array_size(list), (size_t)1 << 28))
        return false;
    json_array_foreach((json_t *)list, i, v)
    {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
            return false;
        out->id[out->n++] = (int32_t)json_integer_value(v);
    }
    return true;
}

static bool has_calls(const json_t *calls)
{
    const json_t *c;
    size_t i;

    json_array_foreach((json_t *)calls, i, c) if (!hd_text_of(c, "id")[0] || !hd_text_of(c, "name")[0] || !json_is_string(json_object_get(c, "arguments"))) return false;
    return json_array_size(calls) > 0;
}

static bool load_turn(void *arg, uint64_t number, const json_t *v)
{
    json_t *calls = json_object_get(v, "calls");
    struct hd_replay_turn t = {.number = number, .thought = json_is_true(json_object_get(v, "thought"))};

    t.tenant = hd_strdup(hd_text_of(v, "tenant"));
    t.reasoning = hd_strdup(hd_text_of(v, "reasoning"));
    t.content = hd_strdup(hd_text_of(v, "content"));
    if (!t.tenant || !t.reasoning || !t.content || !has_calls(calls) || !read_ids(json_object_get(v, "ids"), &t.ids)) {
        release(&t);
        return false;
    }
    t.calls = json_incref(calls);
    t.bytes = bytes_of(&t);
    add_turn(arg, &t);
    return true;
}

int hd_replay_create(struct hd_replay **out, const char *dir, const struct hd_tokenizer *tok, struct hd_err *err)
{
    struct hd_replay *r = hd_calloc(1, sizeof *r);
    int rc = HD_OK;

    if (!r || !(r->by_id = json_object())) {
        hd_free(r);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the server");
    }
    pthread_mutex_init(&r->lock, NULL);
    if (dir)
        rc = hd_replay_disk_open(&r->disk, dir, tok, err);
    if (rc == HD_OK && dir)
        rc = hd_replay_disk_load(r->disk, TURNS, load_turn, r, err);
    if (rc < 0)
        hd_replay_free(r);
    else
        *out = r;
    return rc;
}

/* ---- what a model said ---- */

void hd_replay_keep(struct hd_replay *r, const char *tenant, const struct hd_choice *c)
{
    struct hd_replay_turn t = {0};

    if (!(c->n_call || c->content.n) || !c->ids.n || c->answer->ask.continued || memchr(hd_str_get(&c->content), 0, c->content.n) || memchr(hd_str_get(&c->reasoning), 0, c->reasoning.n))
        return;                       /* texts with NUL are too rare to carry lengths around */
    if (!copy_turn(&t, tenant, c)) {
        release(&t);
        return;
    }
    if (r->disk && c->n_call)
        t.number = hd_replay_disk_put(r->disk, tenant, turn_json(&t));
    pthread_mutex_lock(&r->lock);
    add_turn(r, &t);
    pthread_mutex_unlock(&r->lock);
}

/* ---- restoring ---- */

static const struct hd_replay_turn *find(const struct hd_replay *r, const char *tenant, const char *id)
{
    const json_t *n = json_object_get(r->by_id, id);
    const struct hd_replay_turn *t = n ? &r->turn[(uint64_t)json_integer_value(n) % TURNS] : NULL;

    return t && t->tenant && !strcmp(t->tenant, tenant) ? t : NULL;
}

/* A number, also one that py_json.h keeps as a string, as JavaScript has it. */
static bool as_double(const json_t *v, double *out)
{
    bool huge = json_is_string(v) && !hd_py_json_is_string(v);

    *out = huge ? strtod(json_string_value(v) + 1, NULL) : json_number_value(v);
    return huge || json_is_number(v);
}

/* Equal values: numbers as doubles; the order of keys does not matter. */
static bool same_value(const json_t *a, const json_t *b)
{
    const json_t *v;
    const char *key;
    double da, db;
    size_t i, len;

    if (as_double(a, &da) && as_double(b, &db))
        return da == db;
    if (json_is_object(a) && json_is_object(b)) {
        if (json_object_size(a) != json_object_size(b))
            return false;
        json_object_keylen_foreach((json_t *)a, key, len, v) if (!same_value(v, json_object_getn(b, key, len)))
            return false;
        return true;
    }
    if (json_is_array(a) && json_is_array(b)) {
        if (json_array_size(a) != json_array_size(b))
            return false;
        json_array_foreach((json_t *)a, i, v) if (!same_value(v, json_array_get(b, i)))
            return false;
        return true;
    }
    return a && b && json_equal((json_t *)a, (json_t *)b);
}

static bool same_text(const char *a, const char *b)
{
    json_t *va, *vb;
    bool same;

    if (!strcmp(a, b))
        return true;
    va = hd_py_json_parse(a, strlen(a));
    vb = hd_py_json_parse(b, strlen(b));
    same = same_value(va, vb);
    json_decref(va);
    json_decref(vb);
    return same;
}

/* Equal but for newlines at both ends. */
static bool same_trimmed(const char *a, const char *b)
{
    struct hd_view va = trimmed(a), vb = trimmed(b);

    return va.n == vb.n && !memcmp(va.p, vb.p, va.n);
}

static bool same_turn(const struct hd_replay_turn *t, const json_t *message)
{
    const json_t *calls = json_object_get(message, "tool_calls"), *reasoning = json_object_get(message, "reasoning_content"), *c;
    size_t i;

    if (json_array_size(calls) != json_array_size(t->calls) || !same_trimmed(t->content, hd_text_of(message, "content")))
        return false;
    if (json_string_length(reasoning) && !same_trimmed(t->reasoning, json_string_value(reasoning)))
        return false;
    json_array_foreach((json_t *)calls, i, c)
    {
        const json_t *f = json_object_get(c, "function"), *mine = json_array_get(t->calls, i);

        if (strcmp(hd_text_of(c, "id"), hd_text_of(mine, "id")) || strcmp(hd_text_of(f, "name"), hd_text_of(mine, "name")) ||
            !same_text(hd_text_of(mine, "arguments"), hd_text_of(f, "arguments")))
            return false;
    }
    return true;
}

static bool restore(const struct hd_replay_turn *t, json_t *message, struct hd_replay_spot *out)
{
    json_t *c;
    size_t i;

    *out = (struct hd_replay_spot){.thought = t->thought};
    if (!HD_GROW(out->ids.id, out->ids.cap, t->ids.n + 1, (size_t)1 << 28))
        return false;
    memcpy(out->ids.id, t->ids.id, t->ids.n * sizeof *t->ids.id);
    out->ids.n = t->ids.n;
    json_object_set_new(message, "reasoning_content", json_string(t->reasoning));
    json_object_set_new(message, "content", json_string(t->content));
    json_array_foreach(json_object_get(message, "tool_calls"), i, c)
        json_object_set_new(json_object_get(c, "function"), "arguments", json_string(hd_text_of(json_array_get(t->calls, i), "arguments")));
    return true;
}

bool hd_replay_restore(struct hd_replay *r, const char *tenant, uint64_t chain, json_t *message, struct hd_replay_spot *out)
{
    const json_t *calls = json_object_get(message, "tool_calls");
    const struct hd_replay_turn *t;
    char key[20];
    bool found;

    if (!json_array_size(calls))
        key_of(key, tenant, chain, hd_text_of(message, "content"));
    pthread_mutex_lock(&r->lock);
    t = find(r, tenant, json_array_size(calls) ? hd_text_of(json_array_get(calls, 0), "id") : key);
    found = t && same_turn(t, message) && restore(t, message, out);
    pthread_mutex_unlock(&r->lock);
    return found;
}

void hd_replay_spot_release(struct hd_replay_spot *spot)
{
    hd_ids_release(&spot->ids);
    hd_free(spot->text);
}

/* ---- ids ---- */

static int render(const struct hd_tokenizer *t, const json_t *message, const char *thinking, struct hd_chat_text *out)
{
    json_t *doc = json_pack("{s:[{s:s, s:s}], s:s, s:b}", "messages", "role", "user", "content", "", "thinking", thinking, "drop_thinking", 0);
    struct hd_chat_options opt = {0};
    struct hd_err err;
    int rc;

    if (message)
        json_array_append(json_object_get(doc, "messages"), (json_t *)message);
    rc = hd_chat_render(t, doc, &opt, out, &err);
    json_decref(doc);
    return rc;
}

/* Where the assistant's header begins. */
static size_t header_at(const struct hd_str *head)
{
    static const char mark[] = "<｜Assistant｜>";

    for (size_t i = head->n; i-- > 0;)
        if (head->n - i >= sizeof mark - 1 && !memcmp(head->s + i, mark, sizeof mark - 1))
            return i;
    return head->n;
}

/* Two prompts that differ by the message tell. */
void hd_replay_text(const struct hd_tokenizer *t, struct hd_replay_spot *spot, const json_t *message, const char *thinking)
{
    static const char end[] = "<｜end▁of▁sentence｜>";
    bool calls = json_array_size(json_object_get(message, "tool_calls")) > 0;
    struct hd_chat_text head, whole;

    if (spot->thought != (strcmp(thinking, "off") != 0))
        return;
    hd_chat_text_init(&head);
    hd_chat_text_init(&whole);
    if (render(t, NULL, thinking, &head) == HD_OK && render(t, message, thinking, &whole) == HD_OK && whole.text.n > head.text.n && !memcmp(whole.text.s, head.text.s, head.text.n)) {
        size_t n = whole.text.n - head.text.n, from = calls ? head.text.n : header_at(&head.text);

        if (n > sizeof end - 1 && !memcmp(whole.text.s + whole.text.n - (sizeof end - 1), end, sizeof end - 1) && (calls || from < head.text.n)) {
            spot->n_lead = head.text.n - from;
            spot->n_tail = calls ? 0 : sizeof end - 1;
            spot->text = hd_strndup(whole.text.s + from, whole.text.n - from - (sizeof end - 1) + spot->n_tail);
        }
    }
    hd_chat_text_release(&head);
    hd_chat_text_release(&whole);
}

/* Ids of the bytes from..to of a rendered prompt. */
static int ids_between(struct hd_tokenizer *t, const struct hd_chat_text *c, size_t from, size_t to, struct hd_ids *out, struct hd_err *err)
{
    struct hd_chat_text part;
    int rc;

    hd_chat_text_init(&part);
    for (size_t i = 0; i < c->n_span; i++) {
        size_t begin = c->span[i].begin > from ? c->span[i].begin : from, end = c->span[i].end < to ? c->span[i].end : to;
        char *text;

        if (begin >= end)
            continue;
        if (!c->span[i].marker) {
            hd_chat_put(&part, c->text.s + begin, end - begin);
            continue;
        }
        if ((text = hd_strndup(c->text.s + begin, end - begin)))
            hd_chat_mark(&part, text);
        part.text.failed |= !text;
        hd_free(text);
    }
    rc = part.text.failed ? hd_err_set(err, HD_ERR_MEMORY, "no memory for the prompt") : hd_chat_ids(t, &part, out, err);
    hd_chat_text_release(&part);
    return rc;
}

static int append_ids(struct hd_ids *out, const struct hd_ids *more, struct hd_err *err)
{
    if (!HD_GROW(out->id, out->cap, out->n + more->n, (size_t)1 << 28))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu token ids", out->n + more->n);
    memcpy(out->id + out->n, more->id, more->n * sizeof *more->id);
    out->n += more->n;
    return HD_OK;
}

int hd_replay_ids(struct hd_tokenizer *t, const struct hd_chat_text *c, const struct hd_replay_spot *spot, int n_spot, struct hd_ids *out, int *n_exact, struct hd_err *err)
{
    const char *text = hd_str_get(&c->text);
    size_t at = 0;

    *n_exact = 0;
    for (int i = 0; i < n_spot; i++) {
        size_t n = spot[i].text ? strlen(spot[i].text) : 0;
        const char *p = n ? memmem(text + at, c->text.n - at, spot[i].text, n) : NULL;

        if (!p)
            continue;
        HD_TRY(ids_between(t, c, at, (size_t)(p - text) + spot[i].n_lead, out, err));
        HD_TRY(append_ids(out, &spot[i].ids, err));
        at = (size_t)(p - text) + n - spot[i].n_tail;
        ++*n_exact;
    }
    return ids_between(t, c, at, c->text.n, out, err);
}
