/* tb_events.c: see tb_events.h. */
#include "train/tb_events.h"

#include <string.h>

#define POLY 0x82f63b78u              /* Castagnoli, reflected */

uint32_t hd_crc32c(const void *p, size_t n)
{
    const unsigned char *b = p;
    uint32_t c = ~0u;

    for (size_t i = 0; i < n; i++) {
        c ^= b[i];
        for (int k = 0; k < 8; k++)
            c = c & 1 ? c >> 1 ^ POLY : c >> 1;
    }
    return ~c;
}

static void put_masked(struct hd_str *out, const void *p, size_t n)
{
    uint32_t c = hd_crc32c(p, n);

    c = (c >> 15 | c << 17) + 0xa282ead8u;
    hd_str_add(out, (const char *)&c, sizeof c);
}

static void put_record(struct hd_str *out, const struct hd_str *event)
{
    uint64_t n = event->n;

    hd_str_add(out, (const char *)&n, sizeof n);
    put_masked(out, &n, sizeof n);
    hd_str_add(out, event->s, event->n);
    put_masked(out, event->s, event->n);
}

/* ---- protobuf ---- */

static void put_varint(struct hd_str *s, uint64_t v)
{
    for (; v >= 128; v >>= 7)
        hd_str_putc(s, (char)(v | 128));
    hd_str_putc(s, (char)v);
}

static void put_field(struct hd_str *s, int number, int wire)
{
    put_varint(s, (uint64_t)(number << 3 | wire));
}

static void put_bytes(struct hd_str *s, int number, const char *p, size_t n)
{
    put_field(s, number, 2);
    put_varint(s, n);
    hd_str_add(s, p, n);
}

static void put_time(struct hd_str *s, double wall_time)
{
    put_field(s, 1, 1);
    hd_str_add(s, (const char *)&wall_time, sizeof wall_time);
}

void hd_tb_begin(struct hd_str *out, double wall_time)
{
    static const char version[] = "brain.Event:2";
    struct hd_str event;

    hd_str_init(&event, 0);
    put_time(&event, wall_time);
    put_bytes(&event, 3, version, sizeof version - 1);
    put_record(out, &event);
    out->failed |= event.failed;
    hd_str_release(&event);
}

void hd_tb_scalar(struct hd_str *out, double wall_time, int64_t step, const char *tag, float value)
{
    struct hd_str event, summary, v;

    hd_str_init(&event, 0);
    hd_str_init(&summary, 0);
    hd_str_init(&v, 0);
    put_bytes(&v, 1, tag, strlen(tag));
    put_field(&v, 2, 5);
    hd_str_add(&v, (const char *)&value, sizeof value);
    put_bytes(&summary, 1, v.s, v.n);
    put_time(&event, wall_time);
    put_field(&event, 2, 0);
    put_varint(&event, (uint64_t)step);
    put_bytes(&event, 5, summary.s, summary.n);
    put_record(out, &event);
    out->failed |= event.failed || summary.failed || v.failed;
    hd_str_release(&event);
    hd_str_release(&summary);
    hd_str_release(&v);
}
