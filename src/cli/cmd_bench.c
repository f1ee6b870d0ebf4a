/* cmd_bench.c: hadal bench: prefill and decode, each beside what the machine allows. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/plot.h"
#include "cli/bench_grammar.h"
#include "cli/cli.h"
#include "cli/print_profile.h"
#include "engine/synthetic.h"

#define REPEAT 3
#define LONG_S 20.0                   /* after so many seconds a measurement is not repeated */
#define MAX_LIST 16
#define PROBE_S 2.0                   /* of the drive */

static int parse_list(const char *s, int64_t lo, int64_t *out, struct hd_err *err)
{
    int n = 0;

    while (*s && n < MAX_LIST) {
        char *end;
        long long v = strtoll(s, &end, 10);

        if (end == s || v < lo || v > 1 << 24 || (*end && *end != ','))
            return hd_err_set(err, HD_ERR_USAGE, "found \"%.40s\"; expected numbers of at least %lld with commas between", s, (long long)lo);
        out[n++] = v;
        s = *end ? end + 1 : end;
    }
    return n;
}

struct result {
    bool decode;
    int64_t tokens, depth, batch;
    double tps, share;
    double cpu_ms;                    /* a token, of all cores */
    double barrier_share;             /* decode: of a step, what the engine's thread spent waking its team and waiting for it; the median, as of speed */
    double fed_s, fed_cpu_s;          /* decode: what feeding the tokens before took */
    double disk_share;                /* of what memory, processor and drive together allow with the bytes that were needed; 0: nothing is on disk */
    double hit_rate, disk_bytes;      /* experts that were in memory; bytes read, a step */
    double wasted;                    /* of the bytes that were read: not needed (read ahead in vain, or gaps) */
    double wait_s, read_s, pack_s;    /* a step: the engine's waits; the readers' time, all of them together */
    double profile_tok;               /* tokens of all repetitions together, which a profile counts */
};

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int by_depth(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* What the drive was asked for since *from. least_s: what steps took at the roofline if everything had been in memory. */
static void count_disk(struct hd_engine *e, const struct hd_experts_stats *from, double disk_gbs, double least_s, double sec, int64_t n_step, struct result *out)
{
    struct hd_experts_stats to;
    double drive_s, needed;

    if (!e->experts)
        return;
    hd_experts_stats(e->experts, &to);
    needed = (double)(to.needed_bytes - from->needed_bytes);
    out->wasted = to.bytes > from->bytes ? 1 - needed / (double)(to.bytes - from->bytes) : 0;
    out->disk_bytes = (double)(to.bytes - from->bytes) / (double)n_step;
    drive_s = 1e-9 * needed / disk_gbs;
    out->hit_rate = (double)(to.hit - from->hit) / (double)(to.hit - from->hit + to.miss - from->miss + !(to.hit + to.miss));
    out->wait_s = (to.wait_s - from->wait_s) / (double)n_step;
    out->read_s = (to.read_s - from->read_s) / (double)n_step;
    out->pack_s = (to.pack_s - from->pack_s) / (double)n_step;
    out->disk_share = (drive_s > least_s ? drive_s : least_s) / sec;
}

static void disk_now(struct hd_engine *e, struct hd_experts_stats *out)
{
    if (e->experts)
        hd_experts_stats(e->experts, out);
}

/* Token i of a text that means nothing but whose tokens differ. */
static int32_t nth_id(int64_t i, int64_t n_vocab)
{
    return (int32_t)((i * 7919 + 13) % n_vocab);
}

/* Its tokens first .. first + n. */
static int32_t *make_ids(int64_t first, int64_t n, int64_t n_vocab, struct hd_err *err)
{
    int32_t *ids = hd_malloc((size_t)n * sizeof *ids);

    if (!ids)
        hd_err_set(err, HD_ERR_MEMORY, "no memory for %lld ids", (long long)n);
    for (int64_t i = 0; i < n && ids; i++)
        ids[i] = nth_id(first + i, n_vocab);
    return ids;
}

static int interrupted(struct hd_err *err)
{
    return hd_err_set(err, HD_ERR_CANCELLED, "interrupted");
}

static void profile_begin(struct hd_engine *e)
{
    if (e->profile)
        hd_profile_reset(e->profile);
}

static void profile_end(struct hd_engine *e)
{
    if (!e->profile)
        return;
    hd_profile_lap(e->profile, "between steps", 0);
    hd_profile_sort(e->profile);
}

/* From an empty cache, once; *ideal is what the roofline allows. */
static int prefill_once(struct hd_engine *e, const struct hd_roofline *r, const int32_t *ids, int64_t n, double *ideal, struct hd_err *err)
{
    struct hd_session ss;
    int rc = hd_session_open(&ss, e, err);

    if (rc < 0)
        return rc;
    *ideal = 0;
    for (int64_t done = 0; done < n && rc == HD_OK;) {
        int64_t k = n - done < e->opt.chunk ? n - done : e->opt.chunk;
        struct hd_step_item it = {.session = &ss, .ids = ids + done, .n_tok = k, .want = done + k == n ? HD_WANT_LAST : HD_WANT_NONE};

        rc = hd_interrupted ? interrupted(err) : hd_engine_step(e, &it, 1, err);
        *ideal += hd_roofline_seconds(r, &e->last);
        done += k;
    }
    hd_session_close(&ss);
    return rc;
}

/* The median of a few, or of one that takes long. */
static int prefill(struct hd_engine *e, const struct hd_roofline *r, double disk_gbs, int64_t n, struct result *out, struct hd_err *err)
{
    int32_t *ids = make_ids(0, n, e->model.hp.n_vocab, err);
    double sec[REPEAT], ideal = 0, total = 0, cpu0 = hd_cpu_seconds();
    struct hd_experts_stats before = {0};
    int rep = 0, rc = ids ? HD_OK : HD_ERR_MEMORY;

    disk_now(e, &before);
    profile_begin(e);
    for (; rep < REPEAT && total < LONG_S && rc == HD_OK; rep++) {
        double t0 = hd_now();

        rc = prefill_once(e, r, ids, n, &ideal, err);
        total += sec[rep] = hd_now() - t0;
    }
    hd_free(ids);
    if (rc < 0)
        return rc;
    qsort(sec, (size_t)rep, sizeof *sec, by_size);
    *out = (struct result){.tokens = n, .batch = 1, .tps = (double)n / sec[rep / 2], .share = ideal / sec[rep / 2],
                           .cpu_ms = 1e3 * (hd_cpu_seconds() - cpu0) / ((double)rep * (double)n)};
    count_disk(e, &before, disk_gbs, rep * ideal, total, rep, out);
    out->profile_tok = (double)(rep * n);
    profile_end(e);
    return HD_OK;
}

static bool keep_on(void *arg, int64_t done, int64_t n)
{
    return !hd_interrupted;
}

/* The session that others are forked from, fed up to depth. */
static int deepen(struct hd_session *ss, int64_t depth, struct hd_err *err)
{
    int64_t n = depth - (int64_t)ss->n;
    int32_t *ids;
    int rc;

    if (n <= 0)
        return HD_OK;
    if (!(ids = make_ids((int64_t)ss->n, n, ss->engine->model.hp.n_vocab, err)))
        return HD_ERR_MEMORY;
    rc = hd_session_feed(ss, ids, n, keep_on, NULL, NULL, err);
    hd_free(ids);
    return rc;
}

#define DECODE_S 0.5                  /* what is measured takes at least so long: other machines on the same processor show for parts of a second */
#define ROUNDS_MAX 64

/* Steps of a decode measurement: in rounds, each of n_gen steps on fresh forks, so that all are at the same depth. */
struct timing {
    double *sec, *barrier;            /* [n] */
    int64_t n;
    double total, ideal;
};

static int decode_round(struct hd_session *base, const struct hd_roofline *r, struct hd_session *ss, struct hd_step_item *it, int32_t *ids, int64_t batch, int64_t n_gen, struct timing *t, struct hd_err *err)
{
    struct hd_engine *e = base->engine;
    int64_t opened = 0;
    int rc = HD_OK;

    for (; opened < batch && rc == HD_OK; opened++)
        if ((rc = hd_session_fork(&ss[opened], base, err)) < 0)
            break;
    for (int64_t g = 0; g < n_gen && rc == HD_OK; g++, t->n++) {
        double t0 = hd_now(), team0 = hd_pool_team_seconds(e->pool);

        for (int64_t i = 0; i < batch && e->experts; i++)     /* the same token again and again would find its experts in memory */
            ids[i] = nth_id((int64_t)base->n + i + t->n * batch, e->model.hp.n_vocab);
        for (int64_t i = 0; i < batch; i++)
            it[i] = (struct hd_step_item){.session = &ss[i], .ids = &ids[i], .n_tok = 1, .want = HD_WANT_LAST};
        rc = hd_interrupted ? interrupted(err) : hd_engine_step(e, it, (int)batch, err);
        t->total += t->sec[t->n] = hd_now() - t0;
        t->barrier[t->n] = (hd_pool_team_seconds(e->pool) - team0) / t->sec[t->n];
        t->ideal = hd_roofline_seconds(r, &e->last);
    }
    for (int64_t i = 0; i < opened; i++)
        hd_session_close(&ss[i]);
    return rc;
}

static int decode(struct hd_session *base, const struct hd_roofline *r, double disk_gbs, int64_t batch, int64_t n_gen, struct result *out, struct hd_err *err)
{
    struct hd_engine *e = base->engine;
    struct hd_session *ss = hd_calloc((size_t)batch, sizeof *ss);
    struct hd_step_item *it = hd_calloc((size_t)batch, sizeof *it);
    int32_t *ids = make_ids((int64_t)base->n, batch, e->model.hp.n_vocab, err);
    double *sec = hd_malloc(2 * ROUNDS_MAX * (size_t)n_gen * sizeof *sec), cpu0;
    struct timing t = {.sec = sec, .barrier = sec ? sec + ROUNDS_MAX * n_gen : NULL};
    struct hd_experts_stats before = {0};
    int rc = ss && it && ids && sec ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for a batch of %lld", (long long)batch);

    disk_now(e, &before);
    profile_begin(e);
    cpu0 = hd_cpu_seconds();
    for (int k = 0; k < ROUNDS_MAX && rc == HD_OK && t.total < DECODE_S; k++)
        rc = decode_round(base, r, ss, it, ids, batch, n_gen, &t, err);
    cpu0 = hd_cpu_seconds() - cpu0;
    if (rc == HD_OK) {
        qsort(t.sec, (size_t)t.n, sizeof *t.sec, by_size);
        qsort(t.barrier, (size_t)t.n, sizeof *t.barrier, by_size);
        *out = (struct result){.decode = true, .depth = (int64_t)base->n, .batch = batch, .tps = (double)batch / t.sec[t.n / 2], .share = t.ideal / t.sec[t.n / 2],
                               .cpu_ms = 1e3 * cpu0 / (double)(t.n * batch),
                               .barrier_share = t.barrier[t.n / 2]};
        if (e->experts)
            out->tps = (double)(batch * t.n) / t.total;       /* steps differ by what they must read: their mean */
        count_disk(e, &before, disk_gbs, (double)t.n * t.ideal, t.total, t.n, out);
        out->profile_tok = (double)(t.n * batch);
        profile_end(e);
    }
    hd_free(ss);
    hd_free(it);
    hd_free(ids);
    hd_free(sec);
    return rc;
}

/* Steps of one token at several depths: forks that were left behind there, a round at each by turns, so that what the machine does meanwhile meets all of them alike. */
struct turns {
    struct hd_session at[MAX_LIST];
    double tps[MAX_LIST];
    int n;
};

static int measure_turns(struct turns *u, const struct hd_roofline *r, int64_t n_gen, struct hd_err *err)
{
    double *sec = hd_malloc(2 * ROUNDS_MAX * (size_t)(n_gen * u->n) * sizeof *sec);
    struct timing t[MAX_LIST] = {0};
    struct hd_session ss;
    struct hd_step_item it;
    int32_t id = 0;
    int rc = sec ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for the times of %d depths", u->n);

    for (int i = 0; i < u->n && sec; i++) {
        t[i].sec = sec + 2 * i * ROUNDS_MAX * n_gen;
        t[i].barrier = t[i].sec + ROUNDS_MAX * n_gen;
    }
    for (int k = 0; k < ROUNDS_MAX && rc == HD_OK && t[0].total < DECODE_S; k++)     /* the first is the least deep */
        for (int i = 0; i < u->n && rc == HD_OK; i++)
            rc = decode_round(&u->at[i], r, &ss, &it, &id, 1, n_gen, &t[i], err);
    for (int i = 0; i < u->n && rc == HD_OK; i++) {
        qsort(t[i].sec, (size_t)t[i].n, sizeof *t[i].sec, by_size);
        u->tps[i] = 1 / t[i].sec[t[i].n / 2];
    }
    hd_free(sec);
    return rc;
}

/* ---- reports ---- */

struct bench {
    struct hd_roofline r;
    double disk_gbs;                  /* of random reads of experts; 0: everything is in memory */
    struct result res[MAX_LIST + MAX_LIST * MAX_LIST];
    int n;
    int n_thread;
    bool json;
    const char *name;
};

static void print_probes(const struct bench *b, const struct hd_engine *e, bool json)
{
    hd_out_printf(json ? "{\"probes\": {\"read_gbs\": %.2f, \"fma_gflops\": %.2f, \"int8_gops\": %.2f" : "read %.1f GB/s, fma %.0f GF/s, int8 %.0f GOP/s", b->r.read_gbs, b->r.fma_gflops,
                  b->r.int8_gops);
    if (e->experts)
        hd_out_printf(json ? ", \"disk_gbs\": %.3f, \"direct\": %s" : ", experts from disk %.2f GB/s (%s)", b->disk_gbs,
                      json ? hd_experts_direct(e->experts) ? "true" : "false" : hd_experts_direct(e->experts) ? "past the page cache" : "THROUGH THE PAGE CACHE");
    hd_out_printf(json ? "},\n \"threads\": %d, \"cpu\": \"%s\",\n \"prefill\": [" : " with %d threads, %s\n", b->n_thread, hd_backend_cpu_level());
}

/* p is sorted. Text leaves out what took less than a thousandth. */
static void print_result(const struct result *x, const struct hd_profile *profile, bool json, bool first)
{
    if (x->decode)
        hd_out_printf(json ? "%s{\"depth\": %lld, \"batch\": %lld, \"tps\": %.2f, \"share\": %.4f, \"cpu_ms\": %.4f, \"barrier_share\": %.4f, \"fed_s\": %.3f, \"fed_cpu_s\": %.3f"
                           : "%sdecode  depth %7lld, batch %3lld  %9.1f tok/s   %.2f of the roofline   %.3f cpu ms a token, %.1f %% at barriers   (fed in %.1f s, %.1f cpu s)",
                      json && !first ? ", " : "", (long long)x->depth, (long long)x->batch, x->tps, x->share, x->cpu_ms, json ? x->barrier_share : 100 * x->barrier_share, x->fed_s,
                      x->fed_cpu_s);
    else
        hd_out_printf(json ? "%s{\"tokens\": %lld, \"tps\": %.2f, \"share\": %.4f, \"cpu_ms\": %.4f"
                           : "%sprefill %7lld tokens            %9.1f tok/s   %.2f of the roofline   %.3f cpu ms a token",
                      json && !first ? ", " : "", (long long)x->tokens, x->tps, x->share, x->cpu_ms);
    if (x->disk_share > 0)
        hd_out_printf(json ? ", \"disk_share\": %.4f, \"hit_rate\": %.4f, \"disk_bytes\": %.0f, \"wasted\": %.4f, \"wait_s\": %.4f, \"read_s\": %.4f, \"pack_s\": %.4f"
                           : "; %.2f of what the disk allows; %.3f in memory; a step reads %.0f bytes (%.2f of them in vain), waits %.3f s, readers %.3f s and packing %.3f s",
                      x->disk_share, x->hit_rate, x->disk_bytes, x->wasted, x->wait_s, x->read_s, x->pack_s);
    if (json && profile)
        hd_out_printf(", \"profile\": [");
    else if (!json)
        hd_out_printf("\n");
    if (profile)
        hd_print_profile(profile, "token", x->profile_tok, json);
    if (json)
        hd_out_printf(profile ? "]}" : "}");
    fflush(stdout);
}

static int write_text(const char *path, const struct hd_str *text, struct hd_err *err)
{
    struct hd_out out;

    if (text->failed)
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory for the report", path);
    HD_TRY(hd_out_open(&out, path, err));
    hd_out_write(&out, hd_str_get(text), text->n);
    return hd_out_commit(&out, err);
}

static int write_csv(const char *path, const struct bench *b, struct hd_err *err)
{
    struct hd_str s;
    int rc;

    hd_str_init(&s, 0);
    hd_str_puts(&s, "model,threads,cpu,read_gbs,fma_gflops,int8_gops,what,tokens,depth,batch,tok_per_s,share,cpu_ms,barrier_share,disk_gbs,disk_share,hit_rate,disk_bytes,wasted\n");
    for (int i = 0; i < b->n; i++) {
        const struct result *x = &b->res[i];

        hd_str_putc(&s, '"');
        for (const char *c = b->name; *c; c++)
            hd_str_puts(&s, *c == '"' ? "\"\"" : (char[]){*c, 0});
        hd_str_printf(&s, "\",%d,%s,%.2f,%.2f,%.2f,%s,%lld,%lld,%lld,%.3f,%.4f,%.4f,%.4f,%.3f,%.4f,%.4f,%.0f,%.4f\n", b->n_thread, hd_backend_cpu_level(), b->r.read_gbs, b->r.fma_gflops, b->r.int8_gops,
                      x->decode ? "decode" : "prefill", (long long)(x->decode ? x->batch : x->tokens), (long long)x->depth, (long long)x->batch, x->tps, x->share, x->cpu_ms,
                      x->barrier_share, b->disk_gbs, x->disk_share, x->hit_rate, x->disk_bytes, x->wasted);
    }
    rc = write_text(path, &s, err);
    hd_str_release(&s);
    return rc;
}

/* Share of the roofline over the length: a line for prefill, one for every batch of decode. */
static int write_svg(const char *path, const struct bench *b, const int64_t *batch, int n_batch, struct hd_err *err)
{
    double x[MAX_LIST + 1][MAX_LIST], y[MAX_LIST + 1][MAX_LIST];
    struct hd_plot_line line[MAX_LIST + 1] = {0};
    char name[MAX_LIST + 1][40], title[200];
    struct hd_plot p = {title, "tokens before", "share of the roofline", true, true, line, n_batch + 1};
    struct hd_str s;
    int rc;

    snprintf(title, sizeof title, "%.120s, %d threads, %s", b->name, b->n_thread, hd_backend_cpu_level());
    for (int k = 0; k <= n_batch; k++) {
        snprintf(name[k], sizeof name[k], k ? "decode, batch %lld" : "prefill", (long long)(k ? batch[k - 1] : 0));
        line[k] = (struct hd_plot_line){name[k], x[k], y[k], 0};
        for (int i = 0; i < b->n; i++)
            if (b->res[i].decode == (k > 0) && (!k || b->res[i].batch == batch[k - 1])) {
                x[k][line[k].n] = (double)(k ? b->res[i].depth ? b->res[i].depth : 1 : b->res[i].tokens);
                y[k][line[k].n++] = b->res[i].share;
            }
    }
    hd_str_init(&s, 0);
    hd_plot_svg(&p, &s);
    rc = write_text(path, &s, err);
    hd_str_release(&s);
    return rc;
}

/* ---- the command ---- */

/* One session grows from depth to depth; what decodes are its forks. Experts on disk differ by step, so there depths are not compared. */
static int measure_decode(struct hd_engine *e, struct bench *b, int64_t *depth, int n_depth, const int64_t *batch, int n_batch, int64_t n_gen, struct turns *turns, struct hd_err *err)
{
    bool json = b->json;
    struct hd_session base;
    int rc = hd_session_open(&base, e, err), first = b->n;
    double fed = 0, fed_cpu = 0;

    if (rc < 0)
        return rc;
    qsort(depth, (size_t)n_depth, sizeof *depth, by_depth);
    for (int i = 0; i < n_depth && rc == HD_OK; i++) {
        double t0 = hd_now(), cpu0 = hd_cpu_seconds();

        rc = deepen(&base, depth[i], err);
        fed += hd_now() - t0;
        fed_cpu += hd_cpu_seconds() - cpu0;
        for (int k = 0; k < n_batch && rc == HD_OK; k++)
            if ((rc = decode(&base, &b->r, b->disk_gbs, batch[k], n_gen, &b->res[b->n], err)) == HD_OK) {
                b->res[b->n].fed_s = fed;
                b->res[b->n].fed_cpu_s = fed_cpu;
                print_result(&b->res[b->n], e->profile, json, b->n == first);
                b->n++;
            }
        if (rc == HD_OK && n_depth > 1 && !e->experts && (rc = hd_session_fork(&turns->at[turns->n], &base, err)) == HD_OK)
            turns->n++;
    }
    hd_session_close(&base);
    if (rc == HD_OK && turns->n)
        rc = measure_turns(turns, &b->r, n_gen, err);
    return rc;
}

static void print_turns(const struct turns *u, bool json)
{
    if (json)
        hd_out_printf("],\n \"in_turns\": [");
    for (int i = 0; i < u->n; i++)
        hd_out_printf(json ? "%s{\"depth\": %lld, \"tps\": %.2f, \"of_first\": %.4f}" : "%s%lld %.1f tok/s (%.2f)", i ? json ? ", " : "; " : json ? "" : "decode, depths in turns: ",
                      (long long)u->at[i].n, u->tps[i], u->tps[i] / u->tps[0]);
    if (u->n && !json)
        hd_out_printf("\n");
}

static void print_memory(const struct hd_engine *e, bool json)
{
    double token = hd_cache_spec_token_bytes(&e->model.spec);
    struct rusage use;
    char c[32], s[32], p[32];

    getrusage(RUSAGE_SELF, &use);
    if (json)
        hd_out_printf("],\n \"memory\": {\"cache_token_bytes\": %.2f, \"cache_bytes\": %lld, \"step_bytes\": %lld, \"peak_bytes\": %lld}", token,
                      (long long)e->plan.cache_bytes, (long long)e->plan.step_bytes, (long long)use.ru_maxrss * 1024);
    else
        hd_out_printf("cache %.1f bytes a token: %s for %lld tokens; steps %s; %s of memory at most\n", token, hd_fmt_bytes(c, e->plan.cache_bytes), (long long)e->opt.n_ctx,
                      hd_fmt_bytes(s, e->plan.step_bytes), hd_fmt_bytes(p, (int64_t)use.ru_maxrss * 1024));
}

/* What is asked for must fit into the model's context, before hours are spent on a part of it; what nobody asked for is made to. A depth leaves room for what is decoded there. */
static int fit(struct hd_args *a, const char *option, int64_t n_ctx, int64_t *list, int n, int64_t room, struct hd_err *err)
{
    for (int i = 0; i < n; i++) {
        if ((list[i] > n_ctx && hd_args_has(a, option)) || room >= n_ctx)
            return hd_err_set(err, HD_ERR_USAGE, "--%s %lld: the model's context is %lld tokens", option, (long long)list[i], (long long)n_ctx);
        list[i] = list[i] < n_ctx - room ? list[i] : n_ctx - room;
    }
    return HD_OK;
}

static int measure(struct hd_args *a, const char *model, struct hd_err *err)
{
    int64_t tokens[MAX_LIST], depth[MAX_LIST], batch[MAX_LIST], need = 1, n_gen = hd_args_int(a, "n-predict", 32);
    struct hd_speculate_options so = {.kind = HD_DRAFT_OFF};
    struct hd_engine_options o;
    struct hd_engine e;
    struct bench b = {.name = hd_args_text(a, "synthetic", model), .json = hd_args_has(a, "json")};
    struct turns turns = {.n = 0};
    struct hd_profile profile;
    bool json = b.json;
    int n_tok, n_depth, n_batch, rc;

    HD_TRY(n_tok = parse_list(hd_args_text(a, "prompt-tokens", "128,512"), 1, tokens, err));
    HD_TRY(n_depth = parse_list(hd_args_text(a, "depth", "16,512"), 0, depth, err));
    HD_TRY(n_batch = parse_list(hd_args_text(a, "batch", "1,4"), 1, batch, err));
    HD_TRY(hd_engine_args(a, &o, err));
    if (hd_args_has(a, "draft"))
        HD_TRY(hd_draft_args(a, &o, &so, err));
    for (int i = 0; i < n_tok; i++)
        need = tokens[i] > need ? tokens[i] : need;
    for (int i = 0; i < n_depth; i++)
        for (int k = 0; k < n_batch; k++)
            need = depth[i] + (batch[k] + n_depth) * (n_gen + 128) > need ? depth[i] + (batch[k] + n_depth) * (n_gen + 128) : need;
    if (so.kind != HD_DRAFT_OFF && need < depth[n_depth - 1] + 4 * n_gen + 128)
        need = depth[n_depth - 1] + 4 * n_gen + 128;
    if (!o.n_ctx)
        o.n_ctx = need;
    o.planned = hd_cli_planned;
    HD_TRY(hd_engine_open(&e, model, &o, err));
    e.profile = hd_args_has(a, "profile") ? &profile : NULL;
    b.n_thread = hd_pool_threads(e.pool);
    if ((rc = fit(a, "prompt-tokens", e.model.hp.n_ctx, tokens, n_tok, 0, err)) < 0 ||
        (rc = fit(a, "depth", e.model.hp.n_ctx, depth, n_depth, so.kind == HD_DRAFT_OFF ? n_gen : 4 * n_gen + 128, err)) < 0)
        goto out;
    if ((rc = hd_roofline_measure(&b.r, e.pool, err)) < 0)
        goto out;
    if (e.experts) {
        if ((rc = hd_experts_probe(e.experts, PROBE_S, &b.disk_gbs, err)) < 0)
            goto out;
        b.disk_gbs *= 1e-9;
    }
    print_probes(&b, &e, json);
    for (int i = 0; i < n_tok && rc == HD_OK && !hd_interrupted; i++)
        if ((rc = prefill(&e, &b.r, b.disk_gbs, tokens[i], &b.res[b.n], err)) == HD_OK)
            print_result(&b.res[b.n++], e.profile, json, i == 0);
    if (json)
        hd_out_printf("],\n \"decode\": [");
    if (rc == HD_OK)
        rc = measure_decode(&e, &b, depth, n_depth, batch, n_batch, n_gen, &turns, err);
    if (rc == HD_OK)
        print_turns(&turns, json);
    if (rc == HD_OK)
        print_memory(&e, json);
    if (so.kind != HD_DRAFT_OFF && rc == HD_OK && !hd_interrupted)
        rc = hd_bench_draft(&e, &so, depth[n_depth - 1], 4 * n_gen, json, err);
    if (json && rc == HD_OK)
        hd_out_printf("}\n");
    if (rc == HD_OK && hd_args_has(a, "csv"))
        rc = write_csv(hd_args_text(a, "csv", NULL), &b, err);
    if (rc == HD_OK && hd_args_has(a, "svg"))
        rc = write_svg(hd_args_text(a, "svg", NULL), &b, batch, n_batch, err);
out:
    for (int i = 0; i < turns.n; i++)
        hd_session_close(&turns.at[i]);
    hd_engine_close(&e);
    return rc;
}

/* Random weights of a named shape, or of a config.json's, in a directory of their own. */
static int run_synthetic(struct hd_args *a, struct hd_err *err)
{
    const char *shape = hd_args_text(a, "synthetic", ""), *keep = hd_args_text(a, "keep", NULL), *tmp = getenv("TMPDIR");
    const char *config = hd_synthetic_shape(shape);
    char *path = NULL, *text = NULL, dir[4096];
    size_t n;
    int rc = HD_OK;

    if (!config) {
        path = hd_file_is_dir(shape) ? hd_path_join(shape, "config.json") : NULL;
        if (!path)
            return hd_err_set(err, HD_ERR_USAGE, "--synthetic: found \"%.60s\"; expected %s, or a directory with a config.json", shape, hd_synthetic_names());
        rc = hd_file_read(path, (size_t)16 << 20, &text, &n, err);
        hd_free(path);
        HD_TRY(rc);
        config = text;
    }
    if (keep) {
        snprintf(dir, sizeof dir, "%s", keep);
        if (mkdir(dir, 0777) < 0)
            rc = hd_err_set(err, HD_ERR_IO, "%s: cannot make the directory: %s", dir, strerror(errno));
    } else {
        snprintf(dir, sizeof dir, "%s/hadal-synthetic-XXXXXX", tmp && *tmp ? tmp : "/tmp");
        if (!mkdtemp(dir))
            rc = hd_err_set(err, HD_ERR_IO, "%s: cannot make a directory: %s", dir, strerror(errno));
    }
    if (rc == HD_OK)
        rc = hd_synthetic_write(config, dir, err);
    hd_free(text);
    HD_TRY(rc);
    rc = hd_interrupted ? hd_err_set(err, HD_ERR_IO, "interrupted") : measure(a, dir, err);
    if (!keep)
        hd_synthetic_remove(dir);
    return rc;
}

/* Matrix products alone: no model. */
static int run_kernels(struct hd_args *a, struct hd_err *err)
{
    struct hd_pool *pool;
    struct hd_roofline r;
    bool json = hd_args_has(a, "json");
    int rc;

    HD_TRY(hd_backend_cpu_init(hd_args_text(a, "cpu", getenv("HD_CPU")), err));
    HD_TRY(hd_pool_create(&pool, (int)hd_args_int(a, "threads", 0), err));
    if ((rc = hd_roofline_measure(&r, pool, err)) == HD_OK)
        hd_out_printf(json ? "{\"probes\": {\"read_gbs\": %.2f, \"fma_gflops\": %.2f, \"int8_gops\": %.2f},\n \"threads\": %d, \"cpu\": \"%s\",\n \"kernels\": ["
                           : "read %.1f GB/s, fma %.0f GF/s, int8 %.0f GOP/s with %d threads, %s\n",
                      r.read_gbs, r.fma_gflops, r.int8_gops, hd_pool_threads(pool), hd_backend_cpu_level());
    for (int i = 0; i < hd_n_kernel_rate() && rc == HD_OK && !hd_interrupted; i++) {
        struct hd_kernel_rate k;

        if ((rc = hd_kernel_rate(i, pool, &k, err)) == HD_OK)
            hd_out_printf(json ? "%s\n  {\"format\": \"%s\", \"rows\": %lld, \"cols\": %lld, \"tokens\": %lld, \"gbs\": %.2f, \"gops\": %.1f, \"of_read\": %.3f, \"of_fma\": %.3f, "
                                 "\"of_int8\": %.3f}"
                               : "%s%-10s %6lld x %-5lld %4lld tokens  %7.2f GB/s  %7.1f GOP/s   %.2f of read, %.2f of fma, %.2f of int8\n",
                          json && i ? "," : "", k.format, (long long)k.rows, (long long)k.cols, (long long)k.n_tok, k.gbs, k.gops, k.gbs / r.read_gbs, k.gops / r.fma_gflops,
                          k.gops / r.int8_gops);
    }
    if (json)
        hd_out_printf("]}\n");
    hd_pool_free(pool);
    return rc;
}

static int run(struct hd_args *a, struct hd_err *err)
{
    if (hd_args_has(a, "kernels"))
        return a->n_positional || hd_args_has(a, "synthetic") ? hd_err_set(err, HD_ERR_USAGE, "--kernels: takes no model") : run_kernels(a, err);
    if (hd_args_has(a, "grammar"))
        return hd_bench_grammar(hd_args_text(a, "grammar", ""), hd_args_has(a, "json"), err);
    if (hd_args_has(a, "synthetic") == (a->n_positional > 0))
        return hd_err_set(err, HD_ERR_USAGE, "either MODEL or --synthetic SHAPE; usage: hadal %s", a->cmd->usage);
    if (hd_args_has(a, "keep") && !hd_args_has(a, "synthetic"))
        return hd_err_set(err, HD_ERR_USAGE, "--keep: goes with --synthetic");
    return a->n_positional ? measure(a, a->positional[0], err) : run_synthetic(a, err);
}

static const struct hd_opt opts[] = {
    {"prompt-tokens", 0, HD_OPT_TEXT, "LIST", 0, 0, "prefill lengths (default 128,512)"},
    {"depth", 0, HD_OPT_TEXT, "LIST", 0, 0, "context lengths at which decode is measured (default 16,512)"},
    {"batch", 0, HD_OPT_TEXT, "LIST", 0, 0, "sequences decoded together (default 1,4)"},
    {"n-predict", 'n', HD_OPT_INT, "N", 1, 4096, "tokens decoded in a row (default 32); rounds of them until half a second is measured"},
    {"synthetic", 0, HD_OPT_TEXT, "SHAPE", 0, 0, "random weights instead of a model: v4f-L6E16 (6 layers of V4-Flash's size, 16 experts, 2.3 GB), v4-tiny1m, v2lite-L6, v2lite-L27E8, or a directory with a config.json"},
    {"profile", 0, HD_OPT_FLAG, NULL, 0, 0, "where the time of each measurement went: ops, products by weight, experts by phase"},
    {"kernels", 0, HD_OPT_FLAG, NULL, 0, 0, "no model: matrix products alone, in every format that matters, at V4-Flash's shapes"},
    {"grammar", 0, HD_OPT_TEXT, "MODEL", 0, 0, "only what constrained decoding costs a token with this model's vocabulary (its tokenizer is all that is needed)"},
    {"keep", 0, HD_OPT_TEXT, "DIR", 0, 0, "leave those weights in DIR, which must not exist yet (default: removed at the end)"},
    {"draft", 0, HD_OPT_TEXT, "HOW", 0, 0, "measure guesses too, as hadal run makes them: auto, N, ngram, ngram:N (at the last depth, four times as many tokens; default off)"},
    {"csv", 0, HD_OPT_TEXT, "FILE", 0, 0, "the results as a table"},
    {"svg", 0, HD_OPT_TEXT, "FILE", 0, 0, "share of the roofline over the length, as a picture"},
    HD_OPT_MODEL_COMMON,
};

const struct hd_cmd hd_cmd_bench = {"bench", "prefill and decode speed, as shares of the machine's roofline", "bench MODEL|--synthetic SHAPE|--kernels|--grammar MODEL [--json]",
                                    "Measures read bandwidth, FMA and int8 rates first, in the same process; medians of repetitions.", opts, HD_LEN(opts), 1, run, "synthetic|kernels|grammar"};
