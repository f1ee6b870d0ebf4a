/* cmd_inspect.c: hadal inspect: what is in a checkpoint, and what running it would take. */
#include <string.h>

#include "cli/cli.h"

struct listing {
    bool json, first;
};

static void print_weight(void *arg, const struct hd_tensor *w)
{
    struct listing *l = arg;
    char shape[96], bytes[32];

    if (l->json) {
        struct hd_str name;

        hd_str_init(&name, 0);
        hd_str_json(&name, w->name ? w->name : "", w->name ? strlen(w->name) : 0);
        hd_out_printf("%s\n    {\"name\": %s, \"format\": \"%s\", \"shape\": %s, \"bytes\": %lld}", l->first ? "" : ",", hd_str_get(&name), hd_dtypes[w->type].name,
                      hd_shape_str(shape, w->n_dim, w->dim), (long long)hd_tensor_bytes(w));
        hd_str_release(&name);
    } else {
        hd_out_printf("%-56s %-8s %-20s %10s\n", w->name ? w->name : "", hd_dtypes[w->type].name, hd_shape_str(shape, w->n_dim, w->dim),
                      hd_fmt_bytes(bytes, hd_tensor_bytes(w)));
    }
    l->first = false;
}

static void print_json(const struct hd_model *m, const struct hd_counts *c, const struct hd_plan *p, const struct hd_engine_options *o, bool plan)
{
    struct listing l = {true, true};

    hd_out_printf("{\"arch\": \"%s\", \"layers\": %lld, \"d_model\": %lld, \"vocab\": %lld, \"context\": %lld,\n \"params\": {\"total\": %lld, \"active\": %lld},\n \"draft_and_vision\": {\"params\": %lld, \"bytes\": %lld},\n"
                  " \"tensors\": %lld,\n \"memory\": {\"weights\": %lld, \"cache\": %lld, \"step\": %lld, \"cache_tokens\": %lld, \"available\": %lld, \"resident\": %lld, \"on_disk\": %lld, \"experts_in_memory\": %lld, \"expert\": %lld, \"packed_experts\": %lld},\n"
                  " \"cache_bytes_per_token\": %.3f,\n"
                  " \"per_token\": {\"decode\": {\"weight_bytes\": %.0f, \"kv_bytes\": %.0f, \"flops\": %.0f}, \"prefill\": {\"flops\": %.0f}}",
                  m->arch->name, (long long)m->hp.n_layer, (long long)m->hp.d_model, (long long)m->hp.n_vocab, (long long)m->hp.n_ctx, (long long)c->total,
                  (long long)c->active, (long long)c->aside, (long long)c->aside_bytes, (long long)c->n_tensor, (long long)p->weight_bytes, (long long)p->cache_bytes, (long long)p->step_bytes, (long long)o->n_ctx,
                  (long long)p->available_bytes, (long long)(p->slot_bytes ? p->resident_bytes : p->weight_bytes), (long long)p->disk_bytes, (long long)p->n_slot,
                  (long long)p->slot_bytes, (long long)p->n_packed, hd_cache_spec_token_bytes(&m->spec), p->decode.weight_bytes, p->decode.kv_bytes, p->decode.flops,
                  p->prefill.flops / (double)p->chunk);
    if (!plan) {
        hd_out_printf(",\n \"weights\": [");
        m->arch->each_weight(m, print_weight, &l);
        hd_out_printf("]");
    }
    hd_out_printf("}\n");
}

static void print_text(const struct hd_model *m, const struct hd_counts *c, const struct hd_plan *p, const struct hd_engine_options *o, bool plan)
{
    char a[32], b[32], d[32], e[32];
    struct listing l = {false, true};

    if (!plan)
        m->arch->each_weight(m, print_weight, &l);
    hd_out_printf("%s: %lld layers, width %lld, vocabulary %lld, context %lld\n", m->arch->name, (long long)m->hp.n_layer, (long long)m->hp.d_model,
                  (long long)m->hp.n_vocab, (long long)m->hp.n_ctx);
    hd_out_printf("parameters   %s total, %s active", hd_fmt_count(a, c->total), hd_fmt_count(b, c->active));
    if (c->aside)
        hd_out_printf("; draft modules and vision %s (%s) beside them", hd_fmt_count(a, c->aside), hd_fmt_bytes(b, c->aside_bytes));
    hd_out_printf("; %lld tensors\n", (long long)c->n_tensor);
    hd_out_printf("memory       weights %s, cache %s for %lld tokens (%.0f B a token), step %s; %s available\n", hd_fmt_bytes(a, p->weight_bytes),
                  hd_fmt_bytes(b, p->cache_bytes), (long long)o->n_ctx, hd_cache_spec_token_bytes(&m->spec), hd_fmt_bytes(d, p->step_bytes),
                  hd_fmt_bytes(e, p->available_bytes));
    if (p->pack_note[0])
        hd_out_printf("pack         not used: %s\n", p->pack_note);
    if (p->slot_bytes)
        hd_out_printf("on disk      not all of that fits: experts and tables %s on disk, %s resident, room for %lld experts of %s in memory%s%s\n", hd_fmt_bytes(a, p->disk_bytes),
                      hd_fmt_bytes(b, p->resident_bytes), (long long)p->n_slot, hd_fmt_bytes(d, p->slot_bytes), p->n_slot ? "" : ": too little",
                      p->n_packed ? "; a pack has them as they are computed with" : "");
    hd_out_printf("a token      decode reads %s of weights and %s of cache (at the full context), %.2f GFLOP; prefill %.2f GFLOP\n",
                  hd_fmt_bytes(a, (int64_t)p->decode.weight_bytes), hd_fmt_bytes(b, (int64_t)p->decode.kv_bytes), 1e-9 * p->decode.flops,
                  1e-9 * p->prefill.flops / (double)p->chunk);
}

static int run(struct hd_args *a, struct hd_err *err)
{
    bool plan = hd_args_has(a, "plan");
    struct hd_engine_options o;
    struct hd_counts c;
    struct hd_model m;
    struct hd_plan p;
    int rc;

    HD_TRY(hd_engine_args(a, &o, err));
    HD_TRY(hd_model_open(&m, a->positional[0], o.kv, (plan ? HD_STORE_PLAN : 0) | (hd_args_has(a, "check") ? HD_STORE_CHECK : 0), err));
    if (!o.n_ctx)
        o.n_ctx = m.hp.n_ctx < 8192 ? m.hp.n_ctx : 8192;
    hd_model_count(&m, &c);
    rc = hd_engine_plan(&m, &o, hd_args_int(a, "batch", 1), &p, err);
    if (rc == HD_OK)
        (hd_args_has(a, "json") ? print_json : print_text)(&m, &c, &p, &o, plan);
    hd_model_close(&m);
    return rc;
}

static const struct hd_opt opts[] = {
    {"plan", 0, HD_OPT_FLAG, NULL, 0, 0, "sizes and speed before loading; a directory with a config.json only will do"},
    {"check", 0, HD_OPT_FLAG, NULL, 0, 0, "read all scales and vectors and name the first that is not finite (opening reads 16 Mi of them)"},
    {"batch", 0, HD_OPT_INT, "N", 1, 65536, "sequences that share the cache (default 1)"},
    HD_OPT_MODEL_COMMON,
};

const struct hd_cmd hd_cmd_inspect = {"inspect", "what is in a checkpoint, and what it takes to run", "inspect MODEL [--plan] [--json]",
                                      "Lists every tensor, parameters in total and active, memory, and what a token costs.", opts, HD_LEN(opts), 1, run, NULL};
