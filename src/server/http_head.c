/* http_head.c: see http_head.h. */
#include "server/http_head.h"

#include <string.h>

#include "base/err.h"

static bool is_token(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

bool hd_view_is_nocase(struct hd_view v, const char *want)
{
    size_t i = 0;

    while (i < v.n && want[i] && lower(v.p[i]) == want[i])
        i++;
    return i == v.n && !want[i];
}

int hd_http_head_end(const char *p, size_t n, size_t *seen)
{
    const char *first = memchr(p, '\n', n), *lf;
    size_t n_line = first ? (size_t)(first - p) + 1 : 0;

    if (n_line > HD_HTTP_LINE_MAX || (!first && n > HD_HTTP_LINE_MAX))
        return -414;
    while (*seen < n && (lf = memchr(p + *seen, '\n', n - *seen))) {
        size_t at = (size_t)(lf - p);

        if (at < 1 || p[at - 1] != '\r')
            return -400;
        if (at >= 3 && p[at - 2] == '\n')
            return at + 1 - n_line > HD_HTTP_FIELDS_BYTES ? -431 : (int)at + 1;
        if (at < 2)
            return -400;              /* an empty line where the request line should be */
        *seen = at + 1;
    }
    return first && n - n_line > HD_HTTP_FIELDS_BYTES ? -431 : 0;
}

/* The next line without its CRLF; *p moves behind it. */
static struct hd_view next_line(const char **p, const char *end)
{
    const char *lf = memchr(*p, '\n', (size_t)(end - *p));
    struct hd_view line = {*p, (size_t)(lf - *p) - 1};

    *p = lf + 1;
    return line;
}

static int refuse(int status, const char *what, const char **why)
{
    *why = what;
    return status;
}

static enum hd_method method_of(struct hd_view v)
{
    static const struct {
        const char *name;
        enum hd_method method;
    } known[] = {{"GET", HD_METHOD_GET}, {"HEAD", HD_METHOD_HEAD}, {"POST", HD_METHOD_POST}, {"OPTIONS", HD_METHOD_OPTIONS}};

    for (int i = 0; i < HD_LEN(known); i++)
        if (hd_view_is(v, known[i].name))
            return known[i].method;
    return HD_METHOD_OTHER;
}

/* "/path?query", or "http://authority/path?query" as proxies write it. */
static int read_target(struct hd_http_head *h, struct hd_view t, const char **why)
{
    const char *q;

    for (size_t i = 0; i < t.n; i++)
        if ((unsigned char)t.p[i] <= 0x20 || (unsigned char)t.p[i] >= 0x7F)
            return refuse(400, "the request target holds a byte that must be percent-encoded", why);
    for (int k = 0; k < 2; k++) {
        const char *scheme = k ? "https://" : "http://";
        size_t n = strlen(scheme), end;

        if (t.n < n || memcmp(t.p, scheme, n))
            continue;
        for (end = n; end < t.n && t.p[end] != '/' && t.p[end] != '?'; end++)
            ;
        h->host = (struct hd_view){t.p + n, end - n};
        t = (struct hd_view){t.p + end, t.n - end};
        if (!t.n || t.p[0] == '?')
            return refuse(400, "the request target has no path", why);
        break;
    }
    if (t.n == 1 && t.p[0] == '*' && h->method == HD_METHOD_OPTIONS)
        t = (struct hd_view){"/", 1};
    if (!t.n || t.p[0] != '/')
        return refuse(400, "the request target must begin with /", why);
    q = memchr(t.p, '?', t.n);
    h->path = (struct hd_view){t.p, q ? (size_t)(q - t.p) : t.n};
    h->query = q ? (struct hd_view){q + 1, t.n - h->path.n - 1} : (struct hd_view){"", 0};
    if (h->path.n > HD_HTTP_PATH_MAX || h->query.n > HD_HTTP_QUERY_MAX)
        return refuse(414, "the path or the query is too long", why);
    return 0;
}

static int read_request_line(struct hd_http_head *h, struct hd_view line, const char **why)
{
    const char *s1 = memchr(line.p, ' ', line.n), *s2 = s1 ? memchr(s1 + 1, ' ', line.n - (size_t)(s1 + 1 - line.p)) : NULL;
    struct hd_view version;

    if (!s2)
        return refuse(400, "the request line is not METHOD TARGET HTTP/1.1", why);
    h->method_name = (struct hd_view){line.p, (size_t)(s1 - line.p)};
    if (!h->method_name.n || h->method_name.n > 32)
        return refuse(400, "the method is malformed", why);
    for (size_t i = 0; i < h->method_name.n; i++)
        if (!is_token((unsigned char)h->method_name.p[i]))
            return refuse(400, "the method is malformed", why);
    h->method = method_of(h->method_name);
    version = (struct hd_view){s2 + 1, line.n - (size_t)(s2 + 1 - line.p)};
    if (version.n != 8 || memcmp(version.p, "HTTP/", 5))
        return refuse(400, "the request line is not METHOD TARGET HTTP/1.1", why);
    if (version.p[5] != '1' || version.p[6] != '.' || (version.p[7] != '0' && version.p[7] != '1'))
        return refuse(505, "HTTP/1.1 is spoken here", why);
    h->http10 = version.p[7] == '0';
    h->keep_alive = !h->http10;
    return read_target(h, (struct hd_view){s1 + 1, (size_t)(s2 - s1) - 1}, why);
}

static int read_length(struct hd_http_head *h, struct hd_view v, const char **why)
{
    int64_t n = 0;

    if (h->content_length >= 0)
        return refuse(400, "Content-Length is given twice", why);
    if (!v.n || v.n > 18)
        return refuse(400, "Content-Length is malformed", why);
    for (size_t i = 0; i < v.n; i++) {
        if (v.p[i] < '0' || v.p[i] > '9')
            return refuse(400, "Content-Length is malformed", why);
        n = n * 10 + (v.p[i] - '0');
    }
    h->content_length = n;
    return 0;
}

/* "close", or a list that holds it. */
static void read_connection(struct hd_http_head *h, struct hd_view v)
{
    while (v.n) {
        const char *comma = memchr(v.p, ',', v.n);
        struct hd_view item = {v.p, comma ? (size_t)(comma - v.p) : v.n};

        v.p += item.n + (comma != NULL);
        v.n -= item.n + (comma != NULL);
        while (item.n && (item.p[0] == ' ' || item.p[0] == '\t')) {
            item.p++;
            item.n--;
        }
        while (item.n && (item.p[item.n - 1] == ' ' || item.p[item.n - 1] == '\t'))
            item.n--;
        if (hd_view_is_nocase(item, "close"))
            h->keep_alive = false;
        else if (hd_view_is_nocase(item, "keep-alive") && h->http10)
            h->keep_alive = true;
    }
}

static int read_field(struct hd_http_head *h, struct hd_view name, struct hd_view value, bool *host_seen, const char **why)
{
    if (hd_view_is_nocase(name, "content-length"))
        return read_length(h, value, why);
    if (hd_view_is_nocase(name, "transfer-encoding")) {
        if (h->chunked || !hd_view_is_nocase(value, "chunked") || h->http10)
            return refuse(400, "Transfer-Encoding: only chunked is understood", why);
        h->chunked = true;
    } else if (hd_view_is_nocase(name, "host")) {
        if (*host_seen)
            return refuse(400, "Host is given twice", why);
        *host_seen = true;
        if (!h->host.p)
            h->host = value;
    } else if (hd_view_is_nocase(name, "connection")) {
        read_connection(h, value);
    } else if (hd_view_is_nocase(name, "expect")) {
        if (!hd_view_is_nocase(value, "100-continue"))
            return refuse(417, "Expect: only 100-continue is understood", why);
        h->expect_continue = true;
    }
    return 0;
}

static int split_field(struct hd_view line, struct hd_view *name, struct hd_view *value, const char **why)
{
    const char *colon = memchr(line.p, ':', line.n);

    if (line.n > HD_HTTP_LINE_MAX)
        return refuse(431, "a header line is too long", why);
    if (line.p[0] == ' ' || line.p[0] == '\t')
        return refuse(400, "folded header lines are not understood", why);
    if (!colon || colon == line.p)
        return refuse(400, "a header line has no name", why);
    *name = (struct hd_view){line.p, (size_t)(colon - line.p)};
    *value = (struct hd_view){colon + 1, line.n - name->n - 1};
    for (size_t i = 0; i < name->n; i++)
        if (!is_token((unsigned char)name->p[i]))
            return refuse(400, "a header's name is malformed", why);
    while (value->n && (value->p[0] == ' ' || value->p[0] == '\t')) {
        value->p++;
        value->n--;
    }
    while (value->n && (value->p[value->n - 1] == ' ' || value->p[value->n - 1] == '\t'))
        value->n--;
    for (size_t i = 0; i < value->n; i++)
        if (((unsigned char)value->p[i] < 0x20 && value->p[i] != '\t') || value->p[i] == 0x7F)
            return refuse(400, "a header's value holds control bytes", why);
    return 0;
}

int hd_http_head_parse(struct hd_http_head *h, const char *p, size_t n, const char **why)
{
    const char *end = p + n;
    bool host_seen = false;
    int status;

    memset(h, 0, sizeof *h);
    h->content_length = -1;
    *why = "";
    if ((status = read_request_line(h, next_line(&p, end), why)))
        return status;
    while (end - p > 2) {
        struct hd_view line = next_line(&p, end), name, value;

        if (h->n_field == HD_HTTP_FIELDS)
            return refuse(431, "too many header lines", why);
        if ((status = split_field(line, &name, &value, why)) || (status = read_field(h, name, value, &host_seen, why)))
            return status;
        h->field[h->n_field++] = (struct hd_http_field){name, value};
    }
    if (h->chunked && h->content_length >= 0)
        return refuse(400, "Content-Length and Transfer-Encoding exclude each other", why);
    if (!h->http10 && !host_seen)
        return refuse(400, "Host is missing", why);
    return 0;
}

struct hd_view hd_http_head_get(const struct hd_http_head *h, const char *name)
{
    for (int i = 0; i < h->n_field; i++)
        if (hd_view_is_nocase(h->field[i].name, name))
            return h->field[i].value;
    return (struct hd_view){NULL, 0};
}

/* ---- chunked ---- */

enum { C_SIZE, C_EXT, C_SIZE_LF, C_DATA, C_DATA_CR, C_DATA_LF, C_TRAILER, C_TRAILER_LF, C_LAST_LF, C_DONE };

#define EXT_MAX 256
#define TRAILER_MAX 4096

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : lower(c) >= 'a' && lower(c) <= 'f' ? lower(c) - 'a' + 10 : -1;
}

/* One byte of framing; false: malformed. */
static bool chunk_byte(struct hd_chunked *c, char b)
{
    int d = hex(b);

    switch (c->state) {
    case C_SIZE:
        if (d >= 0) {
            if (++c->n_digit > 15)
                return false;
            c->left = c->left << 4 | (unsigned)d;
            return true;
        }
        c->state = b == '\r' ? C_SIZE_LF : C_EXT;
        return c->n_digit > 0 && (b == '\r' || b == ';');
    case C_EXT:
        if (b == '\r')
            c->state = C_SIZE_LF;
        return ++c->n_line <= EXT_MAX && b != '\n' && b != 0;
    case C_SIZE_LF:
        c->state = c->left ? C_DATA : C_TRAILER;
        c->n_digit = c->n_line = 0;
        return b == '\n';
    case C_DATA_CR:
        c->state = C_DATA_LF;
        return b == '\r';
    case C_DATA_LF:
        c->state = C_SIZE;
        return b == '\n';
    case C_TRAILER:
        if (b == '\r')
            c->state = c->n_line ? C_TRAILER_LF : C_LAST_LF;
        c->n_line++;
        return ++c->n_trailer <= TRAILER_MAX && b != '\n' && b != 0;
    case C_TRAILER_LF:
        c->state = C_TRAILER;
        c->n_line = 0;
        return b == '\n';
    case C_LAST_LF:
        c->state = C_DONE;
        return b == '\n';
    }
    return false;
}

int hd_chunked_feed(struct hd_chunked *c, const char *p, size_t n, size_t *used, struct hd_view *data)
{
    size_t i = 0;

    *data = (struct hd_view){p, 0};
    while (i < n && c->state != C_DONE) {
        if (c->state == C_DATA) {
            size_t take = n - i < c->left ? n - i : (size_t)c->left;

            *data = (struct hd_view){p + i, take};
            c->left -= take;
            if (!c->left)
                c->state = C_DATA_CR;
            *used = i + take;
            return 0;
        }
        if (!chunk_byte(c, p[i++]))
            return -1;
    }
    *used = i;
    return c->state == C_DONE;
}
