/* eval_needle.c: hadal eval needle. */
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "cli/cmd_eval.h"
#include "eval/needle.h"

#define HAY_MAX ((size_t)1 << 30)

/* The recall task that the model was trained on; n_symbol 0: none. */
static int read_task(const char *model, struct hd_recall *task, struct hd_err *err)
{
    char *path = hd_file_is_dir(model) ? hd_path_join(model, HD_RECALL_FILE) : NULL;
    json_t *j = NULL;
    int rc = HD_OK;

    memset(task, 0, sizeof *task);
    if (path && hd_file_exists(path)) {
        rc = (j = hd_json_read(path, 1 << 20, err)) ? HD_OK : err->code;
        if (rc == HD_OK)
            rc = hd_json_int(j, "symbols", 1, 1 << 20, &task->n_symbol, path, err);
        if (rc == HD_OK)
            rc = hd_json_int(j, "fillers", 1, 1 << 20, &task->n_filler, path, err);
    }
    json_decref(j);
    hd_free(path);
    return rc;
}

static bool progress(void *arg, int64_t done, int64_t all)
{
    fprintf(stderr, "\r%lld of %lld tokens ", (long long)done, (long long)all);
    return !hd_interrupted;
}

static void print_json(const struct hd_needle *n, const struct hd_needle_result *r)
{
    hd_out_printf("{\"accuracy\": %.6f, \"queries\": %lld, \"right\": %lld, \"tokens\": %lld, \"records\": %lld, \"seed\": %llu, \"prefill_s\": %.3f, \"ask_s\": %.3f, \"by_depth\": [",
                  (double)r->n_right / (double)r->n_query, (long long)r->n_query, (long long)r->n_right, (long long)r->n_tok, (long long)n->n_record, (unsigned long long)n->seed, r->fed_s,
                  r->asked_s);
    for (int i = 0; i < HD_NEEDLE_DEPTHS; i++)
        hd_out_printf("%s{\"depth\": %.2f, \"queries\": %lld, \"right\": %lld}", i ? ", " : "", (double)i / HD_NEEDLE_DEPTHS, (long long)r->depth_query[i], (long long)r->depth_right[i]);
    hd_out_printf("]}\n");
}

static void print_text(const struct hd_needle *n, const struct hd_needle_result *r)
{
    hd_out_printf("%lld of %lld found (%.2f %%): %lld records in %lld tokens, read in %.1f s, asked in %.1f s\n", (long long)r->n_right, (long long)r->n_query,
                  100 * (double)r->n_right / (double)r->n_query, (long long)n->n_record, (long long)r->n_tok, r->fed_s, r->asked_s);
    for (int i = 0; i < HD_NEEDLE_DEPTHS; i++)
        if (r->depth_query[i])
            hd_out_printf("  depth %3d %% to %3d %%  %lld of %lld\n", 100 * i / HD_NEEDLE_DEPTHS, 100 * (i + 1) / HD_NEEDLE_DEPTHS, (long long)r->depth_right[i], (long long)r->depth_query[i]);
}

static int measure(struct hd_engine *e, const char *model, const struct hd_recall *task, const struct hd_needle *n, struct hd_needle_result *r, struct hd_err *err)
{
    struct hd_tokenizer *tok;
    int rc;

    if (task->n_symbol)
        return hd_needle_ids(e, task, n, r, err);
    HD_TRY(hd_model_tokenizer(&tok, model, err));
    rc = hd_needle_text(e, tok, n, r, err);
    hd_tokenizer_free(tok);
    return rc;
}

int hd_eval_needle(struct hd_args *a, struct hd_err *err)
{
    const char *model = a->positional[1], *hay = hd_args_text(a, "hay", NULL);
    struct hd_engine_options o;
    struct hd_needle n = {.seed = (uint64_t)hd_args_int(a, "seed", 0)};
    struct hd_needle_result r;
    struct hd_recall task;
    struct hd_engine e;
    char *text = NULL;
    size_t n_text;
    int64_t some;
    int rc;

    HD_TRY(hd_engine_args(a, &o, err));
    HD_TRY(read_task(model, &task, err));
    if (hay)
        HD_TRY(hd_file_read(hay, HAY_MAX, &text, &n_text, err));
    n.hay = text;
    n.n_ctx = o.n_ctx;
    if (o.n_ctx && !task.n_symbol)
        o.n_ctx *= 2;                                 /* questions are asked on forks */
    rc = hd_engine_open(&e, model, &o, err);
    if (rc == HD_OK) {
        if (!n.n_ctx)
            n.n_ctx = e.opt.n_ctx < e.model.hp.n_ctx ? e.opt.n_ctx / (task.n_symbol ? 1 : 2) : e.model.hp.n_ctx;
        some = n.n_ctx / 512 < 8 ? 8 : n.n_ctx / 512 > 2048 ? 2048 : n.n_ctx / 512;
        if (!task.n_symbol && some > 512)
            some = 512;
        n.n_record = hd_args_int(a, "records", some);
        n.n_query = hd_args_int(a, "queries", n.n_record < 512 ? n.n_record : 512);
        if (isatty(2) && !hd_args_has(a, "quiet"))
            n.progress = progress;
        rc = measure(&e, model, &task, &n, &r, err);
        if (n.progress)
            fprintf(stderr, "\r\033[K");
        if (rc == HD_OK && hd_args_has(a, "json"))
            print_json(&n, &r);
        else if (rc == HD_OK)
            print_text(&n, &r);
        hd_engine_close(&e);
    }
    hd_free(text);
    return rc;
}
