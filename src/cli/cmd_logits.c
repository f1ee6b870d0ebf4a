/* cmd_logits.c: hadal logits: logits of every position, for comparisons with a reference. */
#include <string.h>

#include "base/mem.h"
#include "cli/cli.h"
#include "weights/safetensors_write.h"

/* Traced tensors, copied; a name that comes back in a later chunk grows by rows. */
struct traced {
    char *name;
    float *data;                      /* or i32: four bytes either way */
    size_t n, cap;
    int64_t cols;
    enum hd_dtype type;
};

struct tracer {
    struct traced *t;
    size_t n, cap;
    bool failed;
};

static void keep(void *arg, const char *name, const struct hd_tensor *x)
{
    struct tracer *tr = arg;
    struct traced *t = NULL;
    size_t add = (size_t)hd_elems(x);

    for (size_t i = 0; i < tr->n && !t; i++)
        if (!strcmp(tr->t[i].name, name))
            t = &tr->t[i];
    if (!t) {
        if (!HD_GROW(tr->t, tr->cap, tr->n + 1, (size_t)1 << 20)) {
            tr->failed = true;
            return;
        }
        t = &tr->t[tr->n++];
        *t = (struct traced){.name = hd_strdup(name), .cols = hd_cols(x), .type = x->type};
        tr->failed |= !t->name;
    }
    if (tr->failed || t->cols != hd_cols(x) || x->type != t->type || hd_dtypes[x->type].block_bytes != 4 || !HD_GROW(t->data, t->cap, t->n + add, (size_t)1 << 40)) {
        tr->failed = true;
        return;
    }
    memcpy(t->data + t->n, x->data, add * sizeof *t->data);
    t->n += add;
}

static void release(struct tracer *tr)
{
    for (size_t i = 0; i < tr->n; i++) {
        hd_free(tr->t[i].name);
        hd_free(tr->t[i].data);
    }
    hd_free(tr->t);
}

static int compute(struct hd_engine *e, const struct hd_ids *ids, float *logits, struct hd_err *err)
{
    struct hd_session ss;
    int rc;

    HD_TRY(hd_session_open(&ss, e, err));
    rc = HD_OK;
    for (size_t done = 0; done < ids->n && rc == HD_OK;) {
        size_t n = ids->n - done < (size_t)e->opt.chunk ? ids->n - done : (size_t)e->opt.chunk, v = (size_t)e->model.hp.n_vocab;
        struct hd_step_item it = {.session = &ss, .ids = ids->id + done, .n_tok = (int64_t)n, .want = HD_WANT_ALL};

        rc = hd_engine_step(e, &it, 1, err);
        if (rc == HD_OK)
            memcpy(logits + done * v, it.logits, n * v * sizeof *logits);
        done += n;
    }
    hd_session_close(&ss);
    return rc;
}

static int write_out(const char *path, const float *logits, int64_t n_tok, int64_t n_vocab, const struct tracer *tr, struct hd_err *err)
{
    struct hd_st_writer w;

    hd_st_writer_init(&w);
    hd_st_writer_declare(&w, "logits", HD_F32, 2, (int64_t[]){n_tok, n_vocab});
    for (size_t i = 0; i < tr->n; i++)
        if (strcmp(tr->t[i].name, "logits"))
            hd_st_writer_declare(&w, tr->t[i].name, tr->t[i].type, 2, (int64_t[]){(int64_t)tr->t[i].n / tr->t[i].cols, tr->t[i].cols});
    HD_TRY(hd_st_writer_begin(&w, path, err));
    hd_st_writer_data(&w, logits, (size_t)(n_tok * n_vocab) * sizeof *logits);
    for (size_t i = 0; i < tr->n; i++)
        if (strcmp(tr->t[i].name, "logits"))
            hd_st_writer_data(&w, tr->t[i].data, tr->t[i].n * sizeof *logits);
    return hd_st_writer_commit(&w, err);
}

static int run(struct hd_args *a, struct hd_err *err)
{
    const char *tokens = hd_args_text(a, "tokens", NULL), *path = hd_args_text(a, "out", NULL);
    struct hd_engine_options o;
    struct hd_engine e;
    struct hd_ids ids = {0};
    struct tracer tr = {0};
    float *logits = NULL;
    int rc;

    if (!tokens || !path)
        return hd_err_set(err, HD_ERR_USAGE, "--tokens and --out are expected");
    HD_TRY(hd_engine_args(a, &o, err));
    if (o.shortcut)
        return hd_err_set(err, HD_ERR_USAGE, "--shortcut: logits of every position need every layer");
    if ((rc = hd_cli_ids(tokens, &ids, err)) < 0)
        goto out;
    if (!ids.n) {
        rc = hd_err_set(err, HD_ERR_USAGE, "--tokens: the list is empty");
        goto out;
    }
    if (!o.n_ctx)
        o.n_ctx = (int64_t)ids.n;
    if ((rc = hd_engine_open(&e, a->positional[0], &o, err)) < 0)
        goto out;
    if ((int64_t)ids.n > e.model.hp.n_ctx || (int64_t)ids.n > e.opt.n_ctx) {
        rc = hd_err_set(err, HD_ERR_LIMIT, "context overflow: %zu tokens; %s %lld", ids.n, (int64_t)ids.n > e.model.hp.n_ctx ? "the model's context is" : "--ctx makes room for",
                        (long long)((int64_t)ids.n > e.model.hp.n_ctx ? e.model.hp.n_ctx : e.opt.n_ctx));
        hd_engine_close(&e);
        goto out;
    }
    if (hd_args_has(a, "trace")) {
        e.trace = keep;
        e.trace_arg = &tr;
    }
    logits = hd_malloc(ids.n * (size_t)e.model.hp.n_vocab * sizeof *logits);
    rc = logits ? compute(&e, &ids, logits, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for logits [%zu, %lld]", ids.n, (long long)e.model.hp.n_vocab);
    if (rc == HD_ERR_USAGE)
        rc = err->code = HD_ERR_LIMIT;            /* ids out of range: the world's, since they may come from a file */
    if (rc == HD_OK && tr.failed)
        rc = hd_err_set(err, HD_ERR_MEMORY, "no memory for the traced tensors");
    if (rc == HD_OK)
        rc = write_out(path, logits, (int64_t)ids.n, e.model.hp.n_vocab, &tr, err);
    if (rc == HD_OK && hd_args_has(a, "json"))
        hd_out_printf("{\"tokens\": %zu, \"vocab\": %lld}\n", ids.n, (long long)e.model.hp.n_vocab);
    hd_engine_close(&e);
out:
    hd_free(logits);
    hd_ids_release(&ids);
    release(&tr);
    return rc;
}

static const struct hd_opt opts[] = {
    {"tokens", 0, HD_OPT_TEXT, "IDS", 0, 0, "ids with commas between, or @FILE"},
    {"out", 'o', HD_OPT_TEXT, "FILE", 0, 0, "safetensors file to write: logits [T, V] f32"},
    {"trace", 0, HD_OPT_FLAG, NULL, 0, 0, "also write every named tensor"},
    HD_OPT_MODEL_COMMON,
};

const struct hd_cmd hd_cmd_logits = {"logits", "logits of given tokens into a file", "logits MODEL --tokens IDS --out FILE [--exact MODE] [--trace]",
                                     "Needs config.json and weights, no tokenizer. Writes the logits of all positions.", opts, HD_LEN(opts), 1, run, NULL};
