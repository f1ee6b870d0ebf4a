/* routes.h: which handler answers a path. */
#ifndef HD_SERVER_ROUTES_H
#define HD_SERVER_ROUTES_H

#include "server/http.h"

struct hd_server;

/* A handler replies, now or later. */
typedef void (*hd_route_fn)(struct hd_server *s, struct hd_exchange *x);

enum { HD_ROUTE_PUBLIC = 1, HD_ROUTE_ANTHROPIC = 2, HD_ROUTE_PREFIX = 4, HD_ROUTE_WORK = 8, HD_ROUTE_ADMIN = 16, HD_ROUTE_ABSENT = 32 };   /* WORK: not while draining; ABSENT: only says that there is no such thing */

struct hd_route {
    const char *path;                 /* PREFIX: ends with '/', and something follows */
    enum hd_method method;
    int flags;
    hd_route_fn fn;
};

/* The route of a path (a slash at its end does not matter) and method. HEAD is GET's. NULL: none; *allow is then the other methods that the
 * path has, "" when it has none. */
const struct hd_route *hd_route_find(struct hd_view path, enum hd_method method, const char **allow);
/* What a PREFIX route's path has behind the prefix, percent-decoded into buf; false: malformed or longer than n. */
bool hd_route_rest(const struct hd_exchange *x, char *buf, size_t n);
/* For tests: the i-th route, or NULL. */
const struct hd_route *hd_route_at(int i);

#endif
