/* http.h: HTTP/1.1 on one event loop: listening, connections, requests in, replies and streams out. Knows nothing of models.
 *
 * Built on libevent's sockets, buffers and timers, with a parser of its own (http_head.h): evhttp 2.1 answers malformed requests with
 * HTML, reads a whole body before anybody can refuse it, and takes Content-Length beside Transfer-Encoding for two requests.
 *
 * A connection serves one exchange after the other; what a client pipelines waits in its socket. A client that closes its side of a
 * connection while a reply is due counts as gone.
 *
 * Threads  everything here runs on the loop's thread
 */
#ifndef HD_SERVER_HTTP_H
#define HD_SERVER_HTTP_H

#include <event2/event.h>

#include "base/err.h"
#include "server/http_head.h"

#define HD_HTTP_FULL (1 << 20)        /* a stream whose reader leaves this much lying is full ... */
#define HD_HTTP_FLOWS (256 << 10)     /* ... until it has gone down to this */

struct hd_http;
struct hd_conn;

/* One request and its reply. Lives from the head's arrival until `done` or `gone` has returned. */
struct hd_exchange {
    struct hd_conn *conn;
    struct hd_http_head head;
    const char *body;
    size_t n_body;
    char id[40];                      /* unguessable; sent as x-request-id */
    double t0;                        /* seconds, monotonic: the head was complete */
    void *owner;                      /* for whoever answers later */
    void *pending;                    /* its body is being read (prep.h) */
    const void *route;                /* for the server above */
    char tenant[32];                  /* whose key was sent */
    bool answered;                    /* a model answers: what becomes of it is told elsewhere */
    int status;                       /* of the reply, 0 before it */
    bool local;                       /* through a Unix socket */
    bool loopback;                    /* from this machine */
    bool streaming, full, complete;
    uint64_t n_sent;                  /* bytes of bodies */
};

struct hd_http_limits {
    size_t body_max;
    int n_conn_max;
    int n_idle_max;                   /* of one address, waiting for a request; the oldest of more is closed. 0: no limit */
    double head_s, idle_s, body_s, stall_s;   /* for a head to arrive, between requests, for a body, for a full stream to move */
};

struct hd_http_calls {
    /* The head is complete. false: it has replied, the body is not wanted (and the connection closes if there is one). */
    bool (*head)(void *arg, struct hd_exchange *x);
    void (*request)(void *arg, struct hd_exchange *x);        /* with the body; reply now or later */
    /* The request could not be read; reply now. */
    void (*refused)(void *arg, struct hd_exchange *x, int status, const char *why);
    void (*flows)(void *arg, struct hd_exchange *x);          /* a full stream is not any more */
    void (*gone)(void *arg, struct hd_exchange *x);           /* the client left, or stalled, before the reply was complete */
    void (*done)(void *arg, struct hd_exchange *x);           /* the reply is complete */
    void (*tick)(void *arg, double now);                      /* some times a second, while there are connections */
};

int hd_http_create(struct hd_http **out, struct event_base *base, const struct hd_http_limits *lim, const struct hd_http_calls *calls, void *arg, struct hd_err *err);
void hd_http_free(struct hd_http *h);

/* host: a numeric address or "localhost". port 0: any; *port_out says which. Errors: IO, USAGE. */
int hd_http_listen(struct hd_http *h, const char *host, int port, int *port_out, struct hd_err *err);
int hd_http_listen_unix(struct hd_http *h, const char *path, struct hd_err *err);
void hd_http_stop_listening(struct hd_http *h);
/* Ends connections that wait for a request; others end with their reply. */
void hd_http_close_idle(struct hd_http *h);
int hd_http_n_conn(const struct hd_http *h);

/* Is this a loopback address (or "localhost")? */
bool hd_http_is_loopback(const char *host);

/* Moves the body into *out, which it outlives its client in; body is "" from then on, n_body what it was. */
void hd_exchange_take_body(struct hd_exchange *x, struct hd_str *out);

/* ---- replies ---- */

/* Adds a header line to the reply to come. value holds no control bytes. */
void hd_exchange_header(struct hd_exchange *x, const char *name, const char *value);
void hd_exchange_reply(struct hd_exchange *x, int status, const char *type, const char *body, size_t n);
/* A reply in pieces; n = 0 is no piece. Nothing is sent to a client that is gone. */
void hd_exchange_begin(struct hd_exchange *x, int status, const char *type);
void hd_exchange_write(struct hd_exchange *x, const char *p, size_t n);
void hd_exchange_end(struct hd_exchange *x);
/* Ends a stream so that the client sees it was cut: what has been written is sent, the terminator is not. */
void hd_exchange_cut(struct hd_exchange *x);

double hd_http_now(void);             /* seconds, monotonic */

#endif
