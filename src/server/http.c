/* http.c: see http.h. */
#include "server/http.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>

#include "base/mem.h"

#define TICK_S 0.1
#define LINGER_S 2.0
#define LINGER_BYTES (64 << 20)
#define BODY_GRACE_S 10.0             /* then a body must have come at this rate */
#define BODY_RATE 4096.0
#define PIPELINE_BYTES (64 << 10)     /* more than this is not read ahead while a reply is due */
#define N_LISTENER 4

enum phase {
    HEAD,                             /* waiting for a request */
    BODY,
    BUSY,                             /* the server owes a reply */
    FLUSH,                            /* the last bytes go out, then LINGER (or, cut, the end) */
    LINGER                            /* our side is closed; what still comes is thrown away */
};

struct hd_conn {
    struct hd_http *http;
    struct hd_conn *prev, *next;
    struct bufferevent *bev;
    enum phase phase;
    double since, moved;              /* phase began; the output last moved */
    struct hd_str head, body, headers;        /* headers: of the reply to come */
    size_t seen, n_left;              /* n_left: of a body with a length */
    struct hd_chunked chunked;
    uint64_t n_linger;
    bool in_exchange, head_only, keep_alive, chunked_out, cut, dead, working, client_closed, local;
    bool idle;                        /* between two requests, and nothing of the next one is there */
    unsigned char peer[16];           /* its address; IPv4 as ::ffff:a.b.c.d */
    bool loopback;
    struct hd_exchange x;
};

struct hd_http {
    struct event_base *base;
    struct hd_http_limits lim;
    struct hd_http_calls calls;
    void *arg;
    struct evconnlistener *listener[N_LISTENER];
    int n_listener;
    bool paused;
    char *unix_path;
    struct hd_conn *conns, *dead;
    int n_conn;
    struct event *tick, *reaper;
    char date[40];
    time_t date_at;
};

double hd_http_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the life of a connection ---- */

static void enter(struct hd_conn *c, enum phase phase)
{
    c->phase = phase;
    c->since = hd_http_now();
}

static void pause_listening(struct hd_http *h, bool on)
{
    h->paused = on;
    for (int i = 0; i < h->n_listener; i++)
        if (on)
            evconnlistener_disable(h->listener[i]);
        else
            evconnlistener_enable(h->listener[i]);
}

/* Takes the connection out of use. It is freed by reap(), when nobody can be using it any more. */
static void kill_conn(struct hd_conn *c)
{
    struct hd_http *h = c->http;

    if (c->dead)
        return;
    c->dead = true;
    bufferevent_disable(c->bev, EV_READ | EV_WRITE);
    if (c->in_exchange) {
        c->in_exchange = false;
        h->calls.gone(h->arg, &c->x);
    }
    if (c->prev)
        c->prev->next = c->next;
    else
        h->conns = c->next;
    if (c->next)
        c->next->prev = c->prev;
    h->n_conn--;
    c->next = h->dead;
    h->dead = c;
    event_active(h->reaper, EV_TIMEOUT, 0);
}

static void free_conn(struct hd_conn *c)
{
    bufferevent_free(c->bev);
    hd_str_release(&c->head);
    hd_str_release(&c->body);
    hd_str_release(&c->headers);
    hd_free(c);
}

static void reap(evutil_socket_t fd, short what, void *arg)
{
    struct hd_http *h = arg;
    struct hd_conn *c;

    while ((c = h->dead)) {
        h->dead = c->next;
        free_conn(c);
    }
    if (h->paused && h->n_conn < h->lim.n_conn_max)
        pause_listening(h, false);
}

/* ---- reading ---- */

static void make_id(char id[40])
{
    unsigned char b[16];
    int n = 4;

    if (getrandom(b, sizeof b, 0) != sizeof b)
        memset(b, 0, sizeof b);
    memcpy(id, "req_", 4);
    for (int i = 0; i < 16; i++)
        n += snprintf(id + n, 40 - (size_t)n, "%02x", b[i]);
}

static void start_exchange(struct hd_conn *c)
{
    memset(&c->x, 0, sizeof c->x);
    c->x.conn = c;
    c->x.local = c->local;
    c->x.loopback = c->loopback;
    c->x.t0 = hd_http_now();
    make_id(c->x.id);
    hd_str_reset(&c->headers);
    hd_str_reset(&c->body);
    c->in_exchange = true;
    c->chunked_out = c->head_only = c->cut = false;
}

/* Says no to bytes that are no request; the connection ends with it. */
static void refuse(struct hd_conn *c, int status, const char *why)
{
    if (!c->in_exchange)
        start_exchange(c);
    enter(c, BUSY);
    c->keep_alive = false;
    c->http->calls.refused(c->http->arg, &c->x, status, why);
    HD_ASSERT(c->x.complete || c->dead);
}

static void body_complete(struct hd_conn *c)
{
    enter(c, BUSY);
    c->x.body = hd_str_get(&c->body);
    c->x.n_body = c->body.n;
    c->http->calls.request(c->http->arg, &c->x);
}

/* false: no head yet. */
static bool read_head(struct hd_conn *c, struct evbuffer *in)
{
    size_t have = evbuffer_get_length(in), most = HD_HTTP_LINE_MAX + HD_HTTP_FIELDS_BYTES + 4;
    size_t look = have < most ? have : most;
    const char *p = look ? (const char *)evbuffer_pullup(in, (ev_ssize_t)look) : "", *why;
    int n = look ? hd_http_head_end(p, look, &c->seen) : 0, status;
    bool body;

    if (n < 0) {
        refuse(c, -n, n == -414 ? "the request line is too long" : n == -431 ? "the headers are too long" : "the head has a line that does not end with CR LF");
        return true;
    }
    if (n == 0)
        return false;
    c->seen = 0;
    start_exchange(c);
    hd_str_reset(&c->head);
    if (!hd_str_add(&c->head, p, (size_t)n)) {
        kill_conn(c);
        return true;
    }
    evbuffer_drain(in, (size_t)n);
    status = hd_http_head_parse(&c->x.head, c->head.s, c->head.n, &why);
    if (status) {
        refuse(c, status, why);
        return true;
    }
    body = c->x.head.chunked || c->x.head.content_length > 0;
    c->head_only = c->x.head.method == HD_METHOD_HEAD;
    c->keep_alive = c->x.head.keep_alive && !body;      /* until the body has been read */
    enter(c, BUSY);
    if (!c->http->calls.head(c->http->arg, &c->x))
        return true;
    if (!body) {
        body_complete(c);
        return true;
    }
    if (c->x.head.content_length > (int64_t)c->http->lim.body_max) {
        refuse(c, 413, "the body is too large");
        return true;
    }
    c->keep_alive = c->x.head.keep_alive;
    c->n_left = c->x.head.chunked ? 0 : (size_t)c->x.head.content_length;
    memset(&c->chunked, 0, sizeof c->chunked);
    enter(c, BODY);
    if (c->x.head.expect_continue)
        bufferevent_write(c->bev, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    return true;
}

/* One contiguous piece of a body; false: no more to do for now. */
static bool read_body(struct hd_conn *c, struct evbuffer *in)
{
    struct hd_view data;
    size_t n = evbuffer_get_contiguous_space(in), used;
    const char *p = n ? (const char *)evbuffer_pullup(in, (ev_ssize_t)n) : NULL;
    int rc = 0;

    if (!n)
        return false;
    if (c->x.head.chunked) {
        rc = hd_chunked_feed(&c->chunked, p, n, &used, &data);
    } else {
        used = n < c->n_left ? n : c->n_left;
        data = (struct hd_view){p, used};
        c->n_left -= used;
        rc = c->n_left == 0;
    }
    if (rc < 0) {
        refuse(c, 400, "the chunked body is malformed");
    } else if (data.n && !hd_str_add(&c->body, data.p, data.n)) {
        refuse(c, 413, "the body is too large");
    } else {
        evbuffer_drain(in, used);
        if (rc)
            body_complete(c);
    }
    return true;
}

static void throw_away(struct hd_conn *c, struct evbuffer *in)
{
    c->n_linger += evbuffer_get_length(in);
    evbuffer_drain(in, evbuffer_get_length(in));
    if (c->n_linger > LINGER_BYTES)
        kill_conn(c);
}

/* Whatever can be done with the bytes that are there. */
static void work(struct hd_conn *c)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    bool more = true;

    if (c->working)
        return;
    c->working = true;
    while (more && !c->dead) {
        switch (c->phase) {
        case HEAD: more = read_head(c, in); break;
        case BODY: more = read_body(c, in); break;
        case LINGER: throw_away(c, in); /* fall through */
        default: more = false; break;
        }
    }
    c->working = false;
    if (!c->dead)
        bufferevent_setwatermark(c->bev, EV_READ, 0, c->phase == BUSY || c->phase == FLUSH ? PIPELINE_BYTES : 0);
}

static void on_read(struct bufferevent *bev, void *arg)
{
    struct hd_conn *c = arg;

    if (c->dead)
        return;
    if (c->idle)
        c->since = hd_http_now();     /* the first bytes of a next request: its time begins */
    c->idle = false;
    work(c);
}

/* ---- writing ---- */

static void after_flush(struct hd_conn *c)
{
    if (c->cut || c->client_closed) {
        kill_conn(c);
        return;
    }
    shutdown(bufferevent_getfd(c->bev), SHUT_WR);
    c->n_linger = 0;
    enter(c, LINGER);
    work(c);
}

static void on_write(struct bufferevent *bev, void *arg)
{
    struct hd_conn *c = arg;

    if (c->dead)
        return;
    c->moved = hd_http_now();
    if (c->x.full && c->in_exchange) {
        c->x.full = false;
        c->http->calls.flows(c->http->arg, &c->x);
    }
    if (!c->dead && c->phase == FLUSH && !evbuffer_get_length(bufferevent_get_output(bev)))
        after_flush(c);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    struct hd_conn *c = arg;

    if (c->dead)
        return;
    c->client_closed = true;
    if ((what & BEV_EVENT_EOF) && (c->phase == HEAD || c->phase == FLUSH) && evbuffer_get_length(bufferevent_get_output(bev)))
        enter(c, FLUSH);              /* the reply is complete: a client that closed its side only may still read it */
    else
        kill_conn(c);
}

/* ---- time ---- */

static void check_time(struct hd_conn *c, double now)
{
    const struct hd_http_limits *lim = &c->http->lim;
    double age = now - c->since;
    bool begun = evbuffer_get_length(bufferevent_get_input(c->bev)) > 0;

    switch (c->phase) {
    case HEAD:
        if (begun && age > lim->head_s)
            refuse(c, 408, "the head took too long");
        else if (!begun && age > (c->idle ? lim->idle_s : lim->head_s))
            kill_conn(c);
        break;
    case BODY:
        if (age > lim->body_s || (age > BODY_GRACE_S && (double)c->body.n < age * BODY_RATE))
            refuse(c, 408, "the body took too long");
        break;
    case BUSY:
        if (c->x.full && now - c->moved > lim->stall_s)
            kill_conn(c);
        break;
    case FLUSH:
        if (now - (c->moved > c->since ? c->moved : c->since) > lim->stall_s)
            kill_conn(c);
        break;
    case LINGER:
        if (age > LINGER_S)
            kill_conn(c);
        break;
    }
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct hd_http *h = arg;
    double now = hd_http_now();

    for (struct hd_conn *c = h->conns, *next; c; c = next) {
        next = c->next;
        check_time(c, now);
    }
    h->calls.tick(h->arg, now);
    if (h->paused && h->n_conn < h->lim.n_conn_max)
        pause_listening(h, false);
    if (!h->n_conn && !h->paused)
        event_del(h->tick);
}

/* ---- listening ---- */

static void note_peer(struct hd_conn *c, const struct sockaddr *addr)
{
    static const unsigned char mapped[12] = {[10] = 0xFF, [11] = 0xFF}, one[16] = {[15] = 1};

    if (addr->sa_family == AF_INET) {
        memcpy(c->peer, mapped, sizeof mapped);
        memcpy(c->peer + 12, &((const struct sockaddr_in *)addr)->sin_addr, 4);
    } else if (addr->sa_family == AF_INET6) {
        memcpy(c->peer, &((const struct sockaddr_in6 *)addr)->sin6_addr, 16);
    }
    c->loopback = !memcmp(c->peer, one, 16) || (!memcmp(c->peer, mapped, 12) && c->peer[12] == 127);
}

/* One address cannot hold all connections by doing nothing with them. */
static void close_idle_of(struct hd_http *h, const struct hd_conn *from)
{
    struct hd_conn *oldest = NULL;
    int n = 0;

    for (struct hd_conn *c = h->conns; c; c = c->next)
        if (c->phase == HEAD && !c->local && !memcmp(c->peer, from->peer, sizeof c->peer)) {
            n++;
            if (c != from && (!oldest || c->since < oldest->since))
                oldest = c;
        }
    if (n > h->lim.n_idle_max && oldest)
        kill_conn(oldest);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *addr, int n_addr, void *arg)
{
    struct hd_http *h = arg;
    struct hd_conn *c = hd_calloc(1, sizeof *c);
    struct timeval tv = {0, (long)(TICK_S * 1e6)};
    int one = 1;

    if (!c || !(c->bev = bufferevent_socket_new(h->base, fd, BEV_OPT_CLOSE_ON_FREE))) {
        hd_free(c);
        evutil_closesocket(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->http = h;
    c->local = addr->sa_family == AF_UNIX;
    note_peer(c, addr);
    hd_str_init(&c->head, HD_HTTP_LINE_MAX + HD_HTTP_FIELDS_BYTES + 4);
    hd_str_init(&c->body, h->lim.body_max);
    hd_str_init(&c->headers, 16384);
    if ((c->next = h->conns))
        h->conns->prev = c;
    h->conns = c;
    if (++h->n_conn >= h->lim.n_conn_max)
        pause_listening(h, true);
    enter(c, HEAD);
    bufferevent_setcb(c->bev, on_read, on_write, on_event, c);
    bufferevent_setwatermark(c->bev, EV_WRITE, HD_HTTP_FLOWS, 0);
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
    if (h->lim.n_idle_max && !c->local)
        close_idle_of(h, c);
    if (!event_pending(h->tick, EV_TIMEOUT, NULL))
        event_add(h->tick, &tv);
}

/* Out of file descriptors: the tick tries again. */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
    struct hd_http *h = arg;
    struct timeval tv = {0, (long)(TICK_S * 1e6)};

    pause_listening(h, true);
    event_add(h->tick, &tv);
}

static int add_listener(struct hd_http *h, const struct sockaddr *sa, int n, const char *what, struct hd_err *err)
{
    struct evconnlistener *l;

    HD_ASSERT(h->n_listener < N_LISTENER);
    errno = 0;
    l = evconnlistener_new_bind(h->base, on_accept, h, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_EXEC, 511, sa, n);
    if (!l)
        return hd_err_errno(err, HD_ERR_IO, "%s: cannot listen", what);
    evconnlistener_set_error_cb(l, on_accept_error);
    h->listener[h->n_listener++] = l;
    return HD_OK;
}

static int resolve(const char *host, int port, struct addrinfo **out, struct hd_err *err)
{
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE};
    char service[16];

    snprintf(service, sizeof service, "%d", port);
    if (getaddrinfo(!strcmp(host, "localhost") ? "127.0.0.1" : host, service, &want, out))
        return hd_err_set(err, HD_ERR_USAGE, "--host: found \"%.60s\"; expected a numeric address or localhost", host);
    return HD_OK;
}

int hd_http_listen(struct hd_http *h, const char *host, int port, int *port_out, struct hd_err *err)
{
    struct addrinfo *ai;
    struct sockaddr_storage sa;
    socklen_t n = sizeof sa;
    char what[80];
    int rc;

    HD_TRY(resolve(host, port, &ai, err));
    snprintf(what, sizeof what, "%.60s port %d", host, port);
    rc = add_listener(h, ai->ai_addr, (int)ai->ai_addrlen, what, err);
    freeaddrinfo(ai);
    if (rc == HD_OK && !getsockname(evconnlistener_get_fd(h->listener[h->n_listener - 1]), (struct sockaddr *)&sa, &n))
        *port_out = ntohs(sa.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port : ((struct sockaddr_in *)&sa)->sin_port);
    return rc;
}

int hd_http_listen_unix(struct hd_http *h, const char *path, struct hd_err *err)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct stat st;
    int rc;

    if (strlen(path) >= sizeof sa.sun_path)
        return hd_err_set(err, HD_ERR_USAGE, "--unix: the path is longer than %zu bytes", sizeof sa.sun_path - 1);
    strcpy(sa.sun_path, path);
    if (!lstat(path, &st) && S_ISSOCK(st.st_mode))
        unlink(path);                 /* left by an earlier run */
    rc = add_listener(h, (struct sockaddr *)&sa, sizeof sa, path, err);
    if (rc == HD_OK && chmod(path, 0660))
        rc = hd_err_errno(err, HD_ERR_IO, "%s: cannot set its mode", path);
    if (rc == HD_OK && !(h->unix_path = hd_strdup(path)))
        rc = hd_err_set(err, HD_ERR_MEMORY, "no memory for a socket's path");
    return rc;
}

bool hd_http_is_loopback(const char *host)
{
    struct addrinfo *ai;
    bool yes = false;

    if (resolve(host, 0, &ai, NULL) < 0)
        return false;
    if (ai->ai_family == AF_INET)
        yes = ntohl(((struct sockaddr_in *)ai->ai_addr)->sin_addr.s_addr) >> 24 == 127;
    else if (ai->ai_family == AF_INET6)
        yes = IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)ai->ai_addr)->sin6_addr);
    freeaddrinfo(ai);
    return yes;
}

int hd_http_create(struct hd_http **out, struct event_base *base, const struct hd_http_limits *lim, const struct hd_http_calls *calls, void *arg, struct hd_err *err)
{
    struct hd_http *h = hd_calloc(1, sizeof *h);

    if (h) {
        *h = (struct hd_http){.base = base, .lim = *lim, .calls = *calls, .arg = arg};
        h->tick = event_new(base, -1, EV_PERSIST, on_tick, h);
        h->reaper = event_new(base, -1, 0, reap, h);
    }
    if (!h || !h->tick || !h->reaper) {
        hd_http_free(h);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the server");
    }
    *out = h;
    return HD_OK;
}

void hd_http_stop_listening(struct hd_http *h)
{
    for (int i = 0; i < h->n_listener; i++)
        evconnlistener_free(h->listener[i]);
    h->n_listener = 0;
    if (h->unix_path)
        unlink(h->unix_path);
    hd_free(h->unix_path);
    h->unix_path = NULL;
}

void hd_http_close_idle(struct hd_http *h)
{
    for (struct hd_conn *c = h->conns, *next; c; c = next) {
        next = c->next;
        c->keep_alive = false;
        if (c->phase != HEAD || evbuffer_get_length(bufferevent_get_input(c->bev)))
            continue;
        if (evbuffer_get_length(bufferevent_get_output(c->bev)))
            enter(c, FLUSH);
        else
            kill_conn(c);
    }
}

int hd_http_n_conn(const struct hd_http *h)
{
    return h->n_conn;
}

void hd_http_free(struct hd_http *h)
{
    if (!h)
        return;
    hd_http_stop_listening(h);
    while (h->conns)
        kill_conn(h->conns);
    h->paused = false;
    reap(-1, 0, h);
    if (h->tick)
        event_free(h->tick);
    if (h->reaper)
        event_free(h->reaper);
    hd_free(h);
}

/* ---- replies ---- */

static const char *reason(int status)
{
    static const struct {
        int status;
        const char *text;
    } known[] = {{200, "OK"}, {204, "No Content"}, {400, "Bad Request"}, {401, "Unauthorized"}, {402, "Payment Required"}, {403, "Forbidden"}, {404, "Not Found"},
                 {405, "Method Not Allowed"}, {408, "Request Timeout"}, {413, "Content Too Large"}, {414, "URI Too Long"}, {415, "Unsupported Media Type"},
                 {417, "Expectation Failed"}, {422, "Unprocessable Content"}, {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"},
                 {500, "Internal Server Error"}, {501, "Not Implemented"}, {503, "Service Unavailable"}, {505, "HTTP Version Not Supported"}, {529, "Overloaded"}};

    for (int i = 0; i < HD_LEN(known); i++)
        if (known[i].status == status)
            return known[i].text;
    return "Status";
}

static const char *date_line(struct hd_http *h)
{
    time_t now = time(NULL);
    struct tm tm;

    if (now != h->date_at && gmtime_r(&now, &tm))
        strftime(h->date, sizeof h->date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    h->date_at = now;
    return h->date;
}

void hd_exchange_header(struct hd_exchange *x, const char *name, const char *value)
{
    hd_str_printf(&x->conn->headers, "%s: %s\r\n", name, value);
}

void hd_exchange_take_body(struct hd_exchange *x, struct hd_str *out)
{
    struct hd_conn *c = x->conn;

    *out = c->body;
    hd_str_init(&c->body, c->http->lim.body_max);
    x->body = "";
}

/* length < 0: a body in pieces. */
static void send_head(struct hd_exchange *x, int status, const char *type, int64_t length)
{
    struct hd_conn *c = x->conn;
    struct hd_str s;

    x->status = status;
    c->chunked_out = length < 0 && !x->head.http10;
    if (length < 0 && x->head.http10)
        c->keep_alive = false;
    hd_str_init(&s, 0);
    hd_str_printf(&s, "HTTP/1.1 %d %s\r\nDate: %s\r\nx-request-id: %s\r\nX-Content-Type-Options: nosniff\r\n", status, reason(status), date_line(c->http), x->id);
    if (type)
        hd_str_printf(&s, "Content-Type: %s\r\n", type);
    if (length >= 0 && status != 204)
        hd_str_printf(&s, "Content-Length: %lld\r\n", (long long)length);
    if (c->chunked_out)
        hd_str_puts(&s, "Transfer-Encoding: chunked\r\n");
    if (!c->keep_alive || x->head.http10)
        hd_str_puts(&s, c->keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n");
    hd_str_add(&s, hd_str_get(&c->headers), c->headers.n);
    hd_str_puts(&s, "\r\n");
    if (s.failed)
        kill_conn(c);
    else
        bufferevent_write(c->bev, s.s, s.n);
    hd_str_release(&s);
}

/* The reply is complete: on to the next request, or to the end of the connection. */
static void finish(struct hd_exchange *x)
{
    struct hd_conn *c = x->conn;

    x->complete = true;
    if (!c->in_exchange)
        return;
    c->in_exchange = false;
    c->http->calls.done(c->http->arg, x);
    hd_str_release(&c->body);
    if (c->dead)
        return;
    c->moved = hd_http_now();
    if (c->keep_alive) {
        enter(c, HEAD);
        c->idle = !evbuffer_get_length(bufferevent_get_input(c->bev));
        work(c);
        return;
    }
    enter(c, FLUSH);
    if (!evbuffer_get_length(bufferevent_get_output(c->bev)))
        after_flush(c);
}

void hd_exchange_reply(struct hd_exchange *x, int status, const char *type, const char *body, size_t n)
{
    struct hd_conn *c = x->conn;

    if (x->status || c->dead)
        return;
    send_head(x, status, type, (int64_t)n);
    if (n && !c->head_only && !c->dead)
        bufferevent_write(c->bev, body, n);
    x->n_sent += n;
    finish(x);
}

void hd_exchange_begin(struct hd_exchange *x, int status, const char *type)
{
    if (x->status || x->conn->dead)
        return;
    x->streaming = true;
    send_head(x, status, type, -1);
}

void hd_exchange_write(struct hd_exchange *x, const char *p, size_t n)
{
    struct hd_conn *c = x->conn;
    char size[24];

    if (!n || c->dead || c->head_only)
        return;
    if (c->chunked_out)
        bufferevent_write(c->bev, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", n));
    bufferevent_write(c->bev, p, n);
    if (c->chunked_out)
        bufferevent_write(c->bev, "\r\n", 2);
    x->n_sent += n;
    if (!x->full && evbuffer_get_length(bufferevent_get_output(c->bev)) > HD_HTTP_FULL) {
        x->full = true;
        c->moved = hd_http_now();
    }
}

void hd_exchange_end(struct hd_exchange *x)
{
    struct hd_conn *c = x->conn;

    if (c->chunked_out && !c->dead && !c->head_only)
        bufferevent_write(c->bev, "0\r\n\r\n", 5);
    finish(x);
}

void hd_exchange_cut(struct hd_exchange *x)
{
    x->conn->keep_alive = false;
    x->conn->cut = true;
    finish(x);
}
