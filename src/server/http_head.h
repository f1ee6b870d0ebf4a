/* http_head.h: the head of an HTTP/1.1 request and chunked bodies, read strictly. No sockets in here.
 *
 * Whatever RFC 9112 lets a server refuse is refused: bare LF, folded lines, NUL and other control bytes, blanks before a colon,
 * Content-Length beside Transfer-Encoding or twice, any coding but chunked. A proxy in front and this parser can then never
 * disagree about where a request ends.
 */
#ifndef HD_SERVER_HTTP_HEAD_H
#define HD_SERVER_HTTP_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

#define HD_HTTP_LINE_MAX 8192         /* request line, and each header line */
#define HD_HTTP_PATH_MAX 2048
#define HD_HTTP_QUERY_MAX 4096
#define HD_HTTP_FIELDS_BYTES 32768    /* all header lines together */
#define HD_HTTP_FIELDS 100

enum hd_method { HD_METHOD_GET, HD_METHOD_HEAD, HD_METHOD_POST, HD_METHOD_OPTIONS, HD_METHOD_OTHER };

struct hd_http_field {
    struct hd_view name, value;       /* the name as it was sent */
};

/* Views into the bytes that were parsed. */
struct hd_http_head {
    enum hd_method method;
    struct hd_view method_name, path, query;  /* query: without '?', may be empty */
    struct hd_view host;              /* the target's authority, else Host; p NULL: none (HTTP/1.0) */
    struct hd_http_field field[HD_HTTP_FIELDS];
    int n_field;
    int64_t content_length;           /* -1: not given */
    bool chunked, keep_alive, expect_continue, http10;
};

/* Looks for the end of a head. *seen: bytes looked at before, kept by the caller, 0 at first.
 * 0: not yet, more bytes are needed; > 0: its length, the empty line included; < 0: minus the HTTP status that says why not. */
int hd_http_head_end(const char *p, size_t n, size_t *seen);

/* p[0..n) is a head with its empty line. Returns 0, or the HTTP status (400, 414, 431, 501, 505) and why. */
int hd_http_head_parse(struct hd_http_head *h, const char *p, size_t n, const char **why);

/* The value of the first such field (name in lower case), or p NULL. */
struct hd_view hd_http_head_get(const struct hd_http_head *h, const char *name);
/* Equal but for the case of ASCII letters. */
bool hd_view_is_nocase(struct hd_view v, const char *lower);

/* ---- chunked bodies ---- */

struct hd_chunked {
    int state;
    uint64_t left;                    /* of the chunk */
    int n_digit, n_line;              /* bytes of the line so far */
    int n_trailer;
};

/* Takes bytes from p; *used says how many. *data is what of them is body (may be empty).
 * 1: the body is complete; 0: go on with the rest, or with more; -1: malformed. Zeroed struct to begin with. */
int hd_chunked_feed(struct hd_chunked *c, const char *p, size_t n, size_t *used, struct hd_view *data);

#endif
