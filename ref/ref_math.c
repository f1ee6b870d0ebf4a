/* ref_math.c: the helpers: rounding, products, norms, softmax, rotation, the best k.
 *
 * How to read  top to bottom; nothing here knows a model. What the official mode rounds is in the first part and in linear();
 *              "fp32" below is where the published code keeps float32: there the doubles simply go on.
 */
#include <math.h>
#include <string.h>

#include "ref.h"

/* ---- number formats, nearest even ---- */

/* 8 bits of mantissa, the exponents of float32. */
double bf16(double x)
{
    float f = (float)x;
    uint32_t b;

    memcpy(&b, &f, 4);
    b = (b + 0x7FFF + (b >> 16 & 1)) & 0xFFFF0000u;
    memcpy(&f, &b, 4);
    return f;
}

/* Sign, exponents from e_min on, `bits` of fraction: a grid whose step is 2^(e - bits) between 2^e and 2^(e+1). */
static double to_grid(double x, int e_min, int bits, double largest)
{
    double a = fabs(x), step;
    int e;

    frexp(a, &e);                     /* a = f 2^e, f in [1/2, 1) */
    e = e - 1 < e_min ? e_min : e - 1;
    step = ldexp(1, e - bits);
    a = rint(a / step) * step;        /* rint: ties to even, and even multiples are even codes */
    return copysign(a < largest ? a : largest, x);
}

double e4m3(double x)
{
    return to_grid(x, -6, 3, 448);
}

/* 0 .5 1 1.5 2 3 4 6 */
double e2m1(double x)
{
    return to_grid(x, 0, 1, 6);
}

void round_bf16(const struct ref *m, double *x, int64_t n)
{
    for (int64_t i = 0; i < n && m->official; i++)
        x[i] = bf16(x[i]);
}

static double abs_max(const double *x, int64_t n)
{
    double a = 0;

    for (int64_t i = 0; i < n; i++)
        a = fmax(a, fabs(x[i]));
    return a;
}

/* 2^ceil(log2(v)), from the bits: exact powers stay. */
static double power_above(float v)
{
    int e;

    return frexpf(v, &e) == 0.5f ? ldexp(1, e - 1) : ldexp(1, e);
}

/* To FP8 and back, a power of two per block: s = 2^ceil(log2(max(amax, 1e-4) / 448)), x = bf16(e4m3(x / s) s). */
void fp8_sim(const struct ref *m, double *x, int64_t n, int64_t block)
{
    for (int64_t a = 0; a < n && m->official; a += block) {
        int64_t len = n - a < block ? n - a : block;
        double s = power_above(fmaxf((float)abs_max(x + a, len), 1e-4f) * (1.0f / 448));

        for (int64_t i = a; i < a + len; i++)
            x[i] = bf16(e4m3(x[i] / s) * s);
    }
}

/* To FP4 and back, blocks of 32 with a power of two each. */
void fp4_sim(const struct ref *m, double *x, int64_t n)
{
    for (int64_t a = 0; a < n && m->official; a += 32) {
        int64_t len = n - a < 32 ? n - a : 32;
        double s = power_above(fmaxf((float)abs_max(x + a, len), 6 * 0x1p-126f) * (1.0f / 6));

        for (int64_t i = a; i < a + len; i++)
            x[i] = bf16(e2m1(x[i] / s) * s);
    }
}

/* The same with blocks of 16 and e4m3 scales. */
void fp4_e4m3_sim(const struct ref *m, double *x, int64_t n)
{
    for (int64_t a = 0; a < n && m->official; a += 16) {
        int64_t len = n - a < 16 ? n - a : 16;
        double s = e4m3(fmax(abs_max(x + a, len), 6 * 0x1p-9) / 6);

        for (int64_t i = a; i < a + len; i++)
            x[i] = bf16(e2m1(x[i] / s) * s);
    }
}

/* ---- products ---- */

double dot(int64_t n, const double *a, const double *b)
{
    double s = 0;

    for (int64_t i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}

/* y[t] = W x[t], unrounded. */
void matmul(int64_t T, double *y, const struct mat *w, const double *x)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t o = 0; o < w->n_out; o++)
            y[t * w->n_out + o] = dot(w->n_in, w->w + o * w->n_in, x + t * w->n_in);
}

/* y[t] = W x[t]. Official: x goes through FP8 where W is quantised; y is bf16. */
void linear(const struct ref *m, int64_t T, double *y, const struct mat *w, const double *x)
{
    int64_t start = mark();
    double *in = array(w->n_in);

    for (int64_t t = 0; t < T; t++) {
        memcpy(in, x + t * w->n_in, (size_t)w->n_in * sizeof *in);
        if (w->quantised)
            fp8_sim(m, in, w->n_in, m->block[1]);
        matmul(1, y + t * w->n_out, w, in);
    }
    round_bf16(m, y, T * w->n_out);
    release(start);
}

void add(double *x, const double *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] += y[i];
}

void add_bias(int64_t T, double *y, int64_t n, const double *bias)
{
    for (int64_t i = 0; i < T * n; i++)
        y[i] += bias[i % n];
}

/* ---- norms and nonlinearities ---- */

/* y = x / sqrt(mean(x^2) + eps) w; y may be x. */
void rmsnorm(const struct ref *m, int64_t T, int64_t n, double *y, const double *x, const double *w, double eps)
{
    for (int64_t t = 0; t < T; t++) {
        double r = 1 / sqrt(dot(n, x + t * n, x + t * n) / (double)n + eps);

        for (int64_t i = 0; i < n; i++)
            y[t * n + i] = x[t * n + i] * r * w[i];
    }
    round_bf16(m, y, T * n);
}

double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

double silu(double x)
{
    return x * sigmoid(x);
}

void softmax(double *x, int64_t n)
{
    double top = -INFINITY, sum = 0;

    for (int64_t i = 0; i < n; i++)
        top = fmax(top, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += x[i] = exp(x[i] - top);
    for (int64_t i = 0; i < n; i++)
        x[i] /= sum;
}

/* The k best of n scores, best first; among equals the first. k <= n. */
void top_k(const double *score, int64_t n, int64_t k, int64_t *idx)
{
    int64_t start = mark();
    bool *taken = space(n, sizeof *taken);

    for (int64_t j = 0; j < k; j++) {
        int64_t best = -1;

        for (int64_t i = 0; i < n; i++)
            if (!taken[i] && (best < 0 || score[i] > score[best]))
                best = i;
        taken[best] = true;
        idx[j] = best;
    }
    release(start);
}

/* x H / sqrt(n), H the Walsh-Hadamard matrix in natural order: H[i][j] = (-1)^(number of common bits of i and j). */
void hadamard(double *x, int64_t n)
{
    int64_t start = mark();
    double *y = array(n);

    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            y[i] += __builtin_popcountll((unsigned long long)(i & j)) % 2 ? -x[j] : x[j];
    for (int64_t i = 0; i < n; i++)
        x[i] = y[i] / sqrt((double)n);
    release(start);
}

/* ---- rotary positions ----
 *
 * f_i = theta^(-2i / dim), pair i of a vector at position p turns by the angle p f_i. All published code keeps f and the angle
 * in float32; at long positions that decides the numbers, so it is kept here. Scalings of f:
 *   linear  f / factor
 *   llama3  by wavelength w = 2 pi / f: beyond L / low: f / factor; below L / high: f; between: blended
 *   yarn    d(r) = dim ln(L / (2 pi r)) / (2 ln theta): the pair that turns r times within L positions;
 *           ramp from d(beta_fast) to d(beta_slow): f kept below, f / factor above; cos and sin times a magnitude
 */
static double magnitude(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static void yarn(struct rope *r, const json_t *c, double theta, double factor, double L)
{
    double lo = (double)r->dim * log(L / (get_real(c, "beta_fast", 32) * 2 * M_PI)) / (2 * log(theta));
    double hi = (double)r->dim * log(L / (get_real(c, "beta_slow", 1) * 2 * M_PI)) / (2 * log(theta));
    double mscale = get_real(c, "mscale", 0), all = get_real(c, "mscale_all_dim", 0);

    if (get_bool(c, "truncate", true)) {
        lo = floor(lo);
        hi = ceil(hi);
    }
    lo = fmax(lo, 0);
    hi = fmin(hi, (double)(r->dim - 1));
    if (lo == hi)
        hi += 0.001;
    for (int64_t i = 0; i < r->dim / 2; i++) {
        float keep = 1 - (float)fmin(fmax(((double)i - lo) / (hi - lo), 0), 1);

        r->freq[i] = r->freq[i] / (float)factor * (1 - keep) + r->freq[i] * keep;
    }
    r->scale = mscale > 0 && all > 0 ? magnitude(factor, mscale) / magnitude(factor, all) : magnitude(factor, 1);
    r->scale = get_real(c, "attention_factor", r->scale);
}

/* c: an object with rope_parameters, or rope_theta and rope_scaling; theta > 0 goes before what it says. */
struct rope rope_of(const json_t *config, int64_t dim, double theta)
{
    const json_t *c = json_object_get(config, "rope_parameters");
    struct rope r = {dim, space(dim / 2, sizeof *r.freq), 1};
    const char *type;
    double factor, L;

    if (!json_is_object(c))
        c = json_object_get(config, "rope_scaling");
    if (theta <= 0)
        theta = get_real(c, "rope_theta", get_real(config, "rope_theta", 10000));
    type = get_str(c, "rope_type", get_str(c, "type", "default"));
    factor = get_real(c, "factor", 1);
    L = (double)get_int(c, "original_max_position_embeddings", get_int(config, "max_position_embeddings", 1));
    for (int64_t i = 0; i < dim / 2; i++)
        r.freq[i] = 1.0f / (float)pow(theta, (float)(2 * i) / (float)dim);
    if (!strcmp(type, "linear")) {
        for (int64_t i = 0; i < dim / 2; i++)
            r.freq[i] /= (float)factor;
    } else if (!strcmp(type, "llama3")) {
        double low = get_real(c, "low_freq_factor", 1), high = get_real(c, "high_freq_factor", 4);

        for (int64_t i = 0; i < dim / 2; i++) {
            double f = r.freq[i], wave = 2 * M_PI / f, s = (L / wave - low) / (high - low);

            r.freq[i] = (float)(wave > L / low ? f / factor : wave < L / high ? f : (1 - s) * f / factor + s * f);
        }
    } else if (!strcmp(type, "yarn")) {
        yarn(&r, c, theta, factor, L);
    } else if (strcmp(type, "default")) {
        die("rope_type: found \"%s\"; expected default, linear, llama3 or yarn", type);
    }
    return r;
}

/* (a, b) -> (a cos - b sin, a sin + b cos) for every pair; inverse: by minus the angle. */
void rotate(const struct rope *r, double *x, int64_t pos, enum pairs pairs, bool inverse)
{
    for (int64_t i = 0; i < r->dim / 2; i++) {
        float angle = (float)pos * r->freq[i];
        double c = cos(angle) * r->scale, s = sin(angle) * (inverse ? -r->scale : r->scale);
        double *a = pairs == HALVES ? x + i : x + 2 * i, *b = pairs == HALVES ? a + r->dim / 2 : a + 1, a0 = *a;

        *a = a0 * c - *b * s;
        *b = a0 * s + *b * c;
    }
}
