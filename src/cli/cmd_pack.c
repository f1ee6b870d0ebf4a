/* cmd_pack.c: hadal pack: a model's experts once more, in a file that needs no processor to be read from. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "weights/expert_pack.h"

struct packing {
    struct hd_args *a;
    struct hd_model m;
    struct hd_experts *x;
    char *path;
    bool tty, quiet;
    double begun, said;
};

/* A line that changes, a few times a second. */
static bool on_progress(void *arg, int64_t done, int64_t total)
{
    struct packing *p = arg;
    double now = hd_now();

    if (p->tty && (now - p->said > 0.2 || done == total)) {
        p->said = now;
        fprintf(stderr, "\r%s %lld of %lld experts (%d %%)", hd_args_has(p->a, "check") ? "reading" : "packing", (long long)done, (long long)total, (int)(100 * done / total));
        if (done == total)
            fprintf(stderr, "\r\033[K");
    }
    return !hd_interrupted;
}

static void report(const struct packing *p, const struct hd_experts_size *size, int64_t bytes)
{
    double sec = hd_now() - p->begun;
    char b[32], e[32];
    struct hd_str name;

    if (!hd_args_has(p->a, "json")) {
        hd_out_printf("%s: %lld experts of %lld layers, %s each, %s; %s in %.1f s (%.2f GB/s)\n", p->path, (long long)size->n_expert, (long long)size->n_layer,
                      hd_fmt_bytes(e, size->slot_bytes), hd_fmt_bytes(b, bytes), hd_args_has(p->a, "check") ? "all as written, read" : "written", sec, 1e-9 * (double)bytes / sec);
        return;
    }
    hd_str_init(&name, 0);
    hd_str_json(&name, p->path, strlen(p->path));
    hd_out_printf("{\"pack\": %s, \"experts\": %lld, \"layers\": %lld, \"expert_bytes\": %lld, \"bytes\": %lld, \"seconds\": %.3f, \"checked\": %s}\n", hd_str_get(&name),
                  (long long)size->n_expert, (long long)size->n_layer, (long long)size->slot_bytes, (long long)bytes, sec, hd_args_has(p->a, "check") ? "true" : "false");
    hd_str_release(&name);
}

static int write_pack(struct packing *p, struct hd_err *err)
{
    struct hd_pool *pool;
    int rc;

    HD_TRY(hd_pool_create(&pool, (int)hd_args_int(p->a, "threads", 0), err));
    rc = hd_expert_pack_write(p->x, &p->m.store, p->path, pool, on_progress, p, err);
    hd_pool_free(pool);
    return rc;
}

static int check_pack(struct packing *p, struct hd_err *err)
{
    HD_TRY(hd_experts_take_pack(p->x, &p->m.store, p->path, err));
    return hd_expert_pack_check(p->x, on_progress, p, err);
}

static int run_on(struct packing *p, struct hd_err *err)
{
    struct hd_experts_size size;
    char b[32], t[32];
    int64_t bytes;

    HD_TRY(hd_experts_create(&p->x, false, err));
    HD_TRY(hd_engine_gather_experts(&p->m, HD_EXACT_NONE, p->x, err));
    HD_TRY(hd_experts_size(p->x, &size, err));
    HD_TRY(hd_expert_pack_bytes(p->x, &p->m.store, &bytes, err));
    p->path = hd_args_has(p->a, "output") ? hd_strdup(hd_args_text(p->a, "output", "")) : hd_expert_pack_path(&p->m.store);
    if (!p->path)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a pack's name");
    if (hd_args_has(p->a, "plan")) {
        if (hd_args_has(p->a, "json"))
            hd_out_printf("{\"experts\": %lld, \"bytes\": %lld}\n", (long long)size.n_expert, (long long)bytes);
        else
            hd_out_printf("%s: %lld experts, %s\n", p->path, (long long)size.n_expert, hd_fmt_bytes(b, bytes));
        return HD_OK;
    }
    if (!p->quiet && !hd_args_has(p->a, "check"))
        fprintf(stderr, "packing %lld experts (%s in the checkpoint) into %s, %s\n", (long long)size.n_expert, hd_fmt_bytes(b, size.bytes), p->path, hd_fmt_bytes(t, bytes));
    HD_TRY(hd_args_has(p->a, "check") ? check_pack(p, err) : write_pack(p, err));
    report(p, &size, bytes);
    return HD_OK;
}

static int run(struct hd_args *a, struct hd_err *err)
{
    struct packing p = {.a = a, .quiet = hd_args_has(a, "quiet"), .begun = hd_now()};
    int rc;

    p.tty = !p.quiet && isatty(2);
    HD_TRY(hd_model_open(&p.m, a->positional[0], HD_KV_AUTO, HD_MODEL_DRAFT_IF_WHOLE, err));         /* its draft module's experts too */
    rc = run_on(&p, err);
    if (rc < 0 && p.tty && p.said > 0)
        fprintf(stderr, "\r\033[K");
    hd_experts_free(p.x);
    hd_free(p.path);
    hd_model_close(&p.m);
    return rc;
}

static const struct hd_opt opts[] = {
    {"output", 'o', HD_OPT_TEXT, "FILE", 0, 0, "where to write it (default: MODEL/experts.hdpack, or FILE.gguf.hdpack: where run, serve and bench look for it)"},
    {"plan", 0, HD_OPT_FLAG, NULL, 0, 0, "say how large it would be, and write nothing"},
    {"check", 0, HD_OPT_FLAG, NULL, 0, 0, "read a pack that is there, all of it, and compare it with its sums"},
};

const struct hd_cmd hd_cmd_pack = {"pack", "a copy of a model's experts that streams from disk faster", "pack MODEL [-o FILE] [--plan] [--check] [--json]",
                                   "A model bigger than memory reads experts from disk while it answers, and puts each into the order in which the processor computes with it. A pack has them in that "
                                   "order: the same answers, the same bits, for less work, at the price of the experts once more on disk. It belongs to its model as it is now: one that was made from "
                                   "other weights is not used. Interrupted or out of room, nothing is left behind.",
                                   opts, HD_LEN(opts), 1, run, NULL};
