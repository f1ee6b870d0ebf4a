/* access_log.c: see access_log.h. Everything that a client chose is written as a JSON string, so that no line can be forged. */
#include "server/access_log.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"

static void put_time(double at, struct hd_str *out)
{
    time_t t = (time_t)at;
    char text[32];
    struct tm tm;

    gmtime_r(&t, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    hd_str_printf(out, "{\"time\":\"%s.%03dZ\"", text, (int)((at - (double)t) * 1e3));
}

static void put_text(struct hd_str *out, const char *name, const char *value)
{
    hd_str_printf(out, ",\"%s\":", name);
    hd_str_json(out, value, strnlen(value, 200));
}

static void write_line(int fd, struct hd_str *s)
{
    ssize_t n;

    hd_str_puts(s, "}\n");
    n = s->failed ? 0 : write(fd, s->s, s->n);
    (void)n;
    hd_str_release(s);
}

void hd_log_record(int fd, const struct hd_record *r, const char *user)
{
    struct hd_str s;

    if (fd < 0)
        return;
    hd_str_init(&s, 0);
    put_time(r->at, &s);
    put_text(&s, "id", r->id);
    put_text(&s, "key", r->key);
    if (*user)
        hd_str_printf(&s, ",\"user\":\"%08x\"", (unsigned)(hd_hash(HD_HASH_INIT, user, strlen(user)) & 0xFFFFFFFFu));
    put_text(&s, "path", r->path);
    put_text(&s, "model", r->model);
    hd_str_printf(&s,
                  ",\"status\":%d,\"stream\":%s,\"prompt_tokens\":%lld,\"cached_tokens\":%lld,\"completion_tokens\":%lld,\"reasoning_tokens\":%lld,\"queue_ms\":%.1f,"
                  "\"first_token_ms\":%.1f,\"prefill_ms\":%.1f,\"decode_ms\":%.1f,\"total_ms\":%.1f,\"finish\":\"%s\"",
                  r->status, r->stream ? "true" : "false", (long long)r->prompt, (long long)r->cached, (long long)r->completion, (long long)r->reasoning, r->queue_s * 1e3,
                  r->first_s * 1e3, r->prefill_s * 1e3, r->decode_s * 1e3, r->total_s * 1e3, r->finish);
    write_line(fd, &s);
}

void hd_log_request(int fd, const char *id, const char *key, const char *path, int status, double seconds)
{
    struct timespec t;
    struct hd_str s;

    if (fd < 0)
        return;
    clock_gettime(CLOCK_REALTIME, &t);
    hd_str_init(&s, 0);
    put_time((double)t.tv_sec + 1e-9 * (double)t.tv_nsec - seconds, &s);
    put_text(&s, "id", id);
    put_text(&s, "key", key);
    put_text(&s, "path", path);
    hd_str_printf(&s, ",\"status\":%d,\"total_ms\":%.1f", status, seconds * 1e3);
    write_line(fd, &s);
}
