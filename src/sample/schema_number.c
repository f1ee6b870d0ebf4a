/* schema_number.c: see schema_number.h. Numbers of one length are compared with both bounds digit by digit: a state knows whether what is
 * written is the beginning of the lower bound, of the upper one, of both or of none. */
#include "sample/schema_number.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS 18
#define PLACES 6
#define UNIT 1000000
#define LARGEST (INT64_C(1000000000000000000) - 1)

void hd_schema_range_init(struct hd_schema_range *r, bool real)
{
    *r = (struct hd_schema_range){.real = real, .lo = -LARGEST, .hi = LARGEST};
}

/* Units as the number that a reader takes them for. */
static double read_back(const struct hd_schema_range *r, int64_t units)
{
    char text[40];

    if (!r->real)
        return (double)units;
    snprintf(text, sizeof text, "%s%lld.%06lld", units < 0 ? "-" : "", llabs((long long)(units / UNIT)), llabs((long long)(units % UNIT)));
    return strtod(text, NULL);
}

/* Readers round, and never out of order: the nearest units that are read as a number within the bound. */
static int64_t within(const struct hd_schema_range *r, double bound, int64_t units, bool upper, bool exclusive)
{
    int64_t step = upper ? -1 : 1;

    for (int i = 0; i < 4096 && llabs(units) < LARGEST; i++, units += step) {
        double d = read_back(r, units);

        if (upper ? (exclusive ? d < bound : d <= bound) : (exclusive ? d > bound : d >= bound))
            break;
    }
    return units;
}

bool hd_schema_range_bound(struct hd_schema_range *r, const json_t *v, bool upper, bool exclusive)
{
    double d = json_number_value(v), edge = r->real ? 1e12 : 1e18;
    int64_t units;

    r->bounded = true;
    if (fabs(d) >= edge)
        return upper ? d > 0 : d < 0;             /* all are on its good side, or none */
    if (json_is_integer(v))
        units = json_integer_value(v) * (r->real ? UNIT : 1) + (exclusive ? upper ? -1 : 1 : 0);
    else if (r->real)
        units = upper ? (int64_t)floorl((long double)d * UNIT) + 1 : (int64_t)ceill((long double)d * UNIT) - 1;
    else
        units = upper ? (int64_t)floor(d) - (exclusive && d == floor(d)) : (int64_t)ceil(d) + (exclusive && d == ceil(d));
    if (r->real)
        units = within(r, d, units, upper, exclusive);
    if (upper && units < r->hi)
        r->hi = units;
    if (!upper && units > r->lo)
        r->lo = units;
    return true;
}

/* ---- digits ---- */

struct digits {
    struct hd_grammar *g;
    char lo[DIGITS + 8], hi[DIGITS + 8];
    int n, n_whole;                   /* before the point */
    bool some[2][2];                  /* states that somebody comes to, by: as lo so far, as hi so far */
    uint32_t state[2][2];
};

static bool only_zeros(const char *s)
{
    return s[strspn(s, "0")] == 0;
}

/* Where a number may end: what is not written is zero, which is never above hi. */
static void may_end(const struct digits *d, int at, uint32_t to)
{
    for (int as_lo = 0; as_lo < 2; as_lo++)
        for (int as_hi = 0; as_hi < 2; as_hi++)
            if (d->some[as_lo][as_hi] && (!as_lo || only_zeros(d->lo + at)))
                hd_grammar_skip(d->g, d->state[as_lo][as_hi], to);
}

static void write_point(struct digits *d)
{
    for (int as_lo = 0; as_lo < 2; as_lo++)
        for (int as_hi = 0; as_hi < 2; as_hi++)
            if (d->some[as_lo][as_hi])
                d->state[as_lo][as_hi] = hd_grammar_text(d->g, d->state[as_lo][as_hi], ".", 1);
}

static void write_digit(struct digits *d, int at)
{
    struct digits next = *d;

    memset(next.some, 0, sizeof next.some);
    for (int as_lo = 0; as_lo < 2; as_lo++)
        for (int as_hi = 0; as_hi < 2; as_hi++) {
            char from = as_lo ? d->lo[at] : '0', to = as_hi ? d->hi[at] : '9';

            for (char c = from; d->some[as_lo][as_hi] && c <= to; c++) {
                int l = as_lo && c == d->lo[at], h = as_hi && c == d->hi[at];

                if (!next.some[l][h]) {
                    next.some[l][h] = true;
                    next.state[l][h] = hd_grammar_state(d->g);
                }
                hd_grammar_bytes(d->g, d->state[as_lo][as_hi], c, c, next.state[l][h]);
            }
        }
    *d = next;
}

/* Magnitudes lo to hi, in units. */
static void add_magnitudes(const struct hd_schema_range *r, struct hd_grammar *g, int64_t lo, int64_t hi, uint32_t from, uint32_t to)
{
    int places = r->real ? PLACES : 0;
    int64_t least = 0, most = (r->real ? 10 * UNIT : 10) - 1;

    for (int n_whole = 1; n_whole + places <= DIGITS; n_whole++) {
        struct digits d = {.g = g, .n = n_whole + places, .n_whole = n_whole};
        int64_t a = lo > least ? lo : least, b = hi < most ? hi : most;

        least = most + 1;
        most = most > LARGEST / 10 ? LARGEST : most * 10 + 9;
        if (a > b)
            continue;
        snprintf(d.lo, sizeof d.lo, "%0*lld", d.n, (long long)a);
        snprintf(d.hi, sizeof d.hi, "%0*lld", d.n, (long long)b);
        d.some[1][1] = true;
        d.state[1][1] = from;
        for (int at = 0; at < d.n; at++) {
            write_digit(&d, at);
            if (at + 1 >= n_whole)
                may_end(&d, at + 1, to);
            if (at + 1 == n_whole && places)
                write_point(&d);
        }
    }
}

int hd_schema_range_add(const struct hd_schema_range *r, struct hd_spelling *raw, uint32_t from, uint32_t to, struct hd_err *err)
{
    if (!r->bounded)
        return hd_pattern_add(raw, r->real ? "^-?(0|[1-9][0-9]{0,14})(\\.[0-9]{1,16})?([eE][+-]?[0-9]{1,2})?$" : "^(0|-?[1-9][0-9]{0,17})$", 0, -1, from, to, err);
    if (r->lo > r->hi)
        return HD_OK;
    if (r->hi >= 0)
        add_magnitudes(r, raw->g, r->lo > 0 ? r->lo : 0, r->hi, from, to);
    if (r->lo < 0)
        add_magnitudes(r, raw->g, r->hi < 0 ? -r->hi : 1, -r->lo, hd_grammar_text(raw->g, from, "-", 1), to);
    return HD_OK;
}
