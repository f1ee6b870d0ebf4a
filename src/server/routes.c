/* routes.c: see routes.h. Paths are compared byte by byte: what is not in this table does not exist, however it is spelled. */
#include "server/routes.h"

#include <string.h>

#include "server/api.h"

#define GET HD_METHOD_GET
#define POST HD_METHOD_POST
#define PUBLIC HD_ROUTE_PUBLIC
#define ANTHROPIC HD_ROUTE_ANTHROPIC
#define PREFIX HD_ROUTE_PREFIX
#define WORK HD_ROUTE_WORK
#define ADMIN HD_ROUTE_ADMIN
#define ABSENT HD_ROUTE_ABSENT

static void say_absent(struct hd_server *s, struct hd_exchange *x, const char *what)
{
    struct hd_problem p;

    hd_problem_set(&p, 404, NULL, "%s", what);
    hd_reply_problem(s, x, &p);
}

static void no_embeddings(struct hd_server *s, struct hd_exchange *x)
{
    say_absent(s, x, "This engine does not serve embeddings.");
}

static void no_files(struct hd_server *s, struct hd_exchange *x)
{
    say_absent(s, x, "This engine stores no files.");
}

static void no_batches(struct hd_server *s, struct hd_exchange *x)
{
    say_absent(s, x, "This engine has no batches: send the requests themselves, as many at once as you like.");
}

static const struct hd_route routes[] = {
    {"/health", GET, PUBLIC, hd_api_health},
    {"/v1/health", GET, PUBLIC, hd_api_health},
    {"/ready", GET, PUBLIC, hd_api_health},
    {"/ping", GET, PUBLIC, hd_api_ping},
    {"/", GET, PUBLIC, hd_api_root},
    {"/page.css", GET, PUBLIC, hd_api_file},
    {"/page.js", GET, PUBLIC, hd_api_file},
    {"/openapi.yaml", GET, PUBLIC, hd_api_description},

    {"/chat/completions", POST, WORK, hd_api_chat},
    {"/v1/chat/completions", POST, WORK, hd_api_chat},
    {"/beta/chat/completions", POST, WORK, hd_api_chat},
    {"/beta/v1/chat/completions", POST, WORK, hd_api_chat},

    {"/completions", POST, WORK, hd_api_completions},
    {"/v1/completions", POST, WORK, hd_api_completions},
    {"/beta/completions", POST, WORK, hd_api_completions},
    {"/beta/v1/completions", POST, WORK, hd_api_completions},

    {"/responses", POST, WORK, hd_api_responses},
    {"/v1/responses", POST, WORK, hd_api_responses},
    {"/responses/", GET, PREFIX, hd_api_stored_response},
    {"/v1/responses/", GET, PREFIX, hd_api_stored_response},

    {"/v1/messages", POST, WORK | ANTHROPIC, hd_api_messages},
    {"/anthropic/v1/messages", POST, WORK | ANTHROPIC, hd_api_messages},
    {"/anthropic/messages", POST, WORK | ANTHROPIC, hd_api_messages},
    {"/v1/messages/count_tokens", POST, ANTHROPIC, hd_api_count_tokens},
    {"/anthropic/v1/messages/count_tokens", POST, ANTHROPIC, hd_api_count_tokens},
    {"/anthropic/messages/count_tokens", POST, ANTHROPIC, hd_api_count_tokens},

    {"/tokenize", POST, 0, hd_api_tokenize},
    {"/v1/tokenize", POST, 0, hd_api_tokenize},
    {"/detokenize", POST, 0, hd_api_detokenize},
    {"/v1/detokenize", POST, 0, hd_api_detokenize},
    {"/tokenizer_info", GET, 0, hd_api_tokenizer_info},
    {"/v1/tokenizer_info", GET, 0, hd_api_tokenizer_info},
    {"/apply-template", POST, 0, hd_api_apply_template},

    {"/models", GET, 0, hd_api_models},
    {"/v1/models", GET, 0, hd_api_models},
    {"/beta/models", GET, 0, hd_api_models},
    {"/anthropic/v1/models", GET, ANTHROPIC, hd_api_models},
    {"/models/", GET, PREFIX, hd_api_model},
    {"/v1/models/", GET, PREFIX, hd_api_model},
    {"/anthropic/v1/models/", GET, ANTHROPIC | PREFIX, hd_api_model},
    {"/user/balance", GET, 0, hd_api_balance},
    {"/v1/user/balance", GET, 0, hd_api_balance},

    {"/version", GET, 0, hd_api_version},
    {"/props", GET, 0, hd_api_props},
    {"/metrics", GET, 0, hd_api_metrics},

    {"/slots", GET, ADMIN, hd_api_slots},
    {"/admin/slots", GET, ADMIN, hd_api_slots},
    {"/admin/abort", POST, ADMIN, hd_api_abort},
    {"/admin/flush", POST, ADMIN, hd_api_flush},
    {"/admin/drain", POST, ADMIN, hd_api_drain},

    {"/embeddings", POST, ABSENT, no_embeddings},
    {"/v1/embeddings", POST, ABSENT, no_embeddings},
    {"/files", GET, ABSENT, no_files},
    {"/v1/files", GET, ABSENT, no_files},
    {"/anthropic/v1/files", GET, ANTHROPIC | ABSENT, no_files},
    {"/files", POST, ABSENT, no_files},
    {"/v1/files", POST, ABSENT, no_files},
    {"/anthropic/v1/files", POST, ANTHROPIC | ABSENT, no_files},
    {"/files/", GET, PREFIX | ABSENT, no_files},
    {"/v1/files/", GET, PREFIX | ABSENT, no_files},
    {"/v1/batches", GET, ABSENT, no_batches},
    {"/v1/batches", POST, ABSENT, no_batches},
    {"/v1/messages/batches", GET, ANTHROPIC | ABSENT, no_batches},
    {"/v1/messages/batches", POST, ANTHROPIC | ABSENT, no_batches},
};

/* HEAD of these is how clients ask whether anybody is there. */
static const char *const bases[] = {"/", "/v1", "/beta", "/beta/v1", "/anthropic", "/anthropic/v1"};
static const struct hd_route base_route = {"/", GET, PUBLIC, hd_api_ping};

static bool matches(const struct hd_route *r, struct hd_view path)
{
    size_t n = strlen(r->path);

    if (r->flags & PREFIX)
        return path.n > n && !memcmp(path.p, r->path, n);
    return hd_view_is(path, r->path);
}

const struct hd_route *hd_route_find(struct hd_view path, enum hd_method method, const char **allow)
{
    bool get = false, post = false, head = method == HD_METHOD_HEAD;

    *allow = "";
    if (path.n > 1 && path.p[path.n - 1] == '/')
        path.n--;
    for (int i = 0; i < HD_LEN(routes); i++) {
        if (!matches(&routes[i], path))
            continue;
        if (routes[i].method == (head ? GET : method))
            return &routes[i];
        get |= routes[i].method == GET;
        post |= routes[i].method == POST;
    }
    for (int i = 0; i < HD_LEN(bases) && head; i++)
        if (hd_view_is(path, bases[i]))
            return &base_route;
    *allow = get && post ? "GET, HEAD, POST, OPTIONS" : get ? "GET, HEAD, OPTIONS" : post ? "POST, OPTIONS" : "";
    return NULL;
}

const struct hd_route *hd_route_at(int i)
{
    return i >= 0 && i < HD_LEN(routes) ? &routes[i] : NULL;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool hd_route_rest(const struct hd_exchange *x, char *buf, size_t n)
{
    const struct hd_route *r = x->route;
    struct hd_view v = x->head.path;
    size_t len = 0;

    v.p += strlen(r->path);
    v.n -= strlen(r->path);
    if (v.n && v.p[v.n - 1] == '/')
        v.n--;
    for (size_t i = 0; i < v.n; i++) {
        int c = (unsigned char)v.p[i];

        if (c == '%') {
            if (i + 2 >= v.n || hex(v.p[i + 1]) < 0 || hex(v.p[i + 2]) < 0)
                return false;
            c = hex(v.p[i + 1]) << 4 | hex(v.p[i + 2]);
            i += 2;
        }
        if (c < 0x20 || len + 1 >= n)
            return false;
        buf[len++] = (char)c;
    }
    buf[len] = 0;
    return len > 0;
}
