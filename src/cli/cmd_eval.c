/* cmd_eval.c: hadal eval: what a model can do, measured. The measures are a table; each has a file of its own (eval_*.c). */
#include <string.h>

#include "cli/cmd_eval.h"

static const struct hd_eval measures[] = {
    {"needle", "records all over a long context, asked for at its end", hd_eval_needle},
    {"ppl", "perplexity and bits a byte of a text", hd_eval_ppl},
};

static int run(struct hd_args *a, struct hd_err *err)
{
    char known[128] = "";

    for (int i = 0; i < HD_LEN(measures); i++) {
        if (!strcmp(measures[i].name, a->positional[0]))
            return measures[i].run(a, err);
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", measures[i].name);
    }
    return hd_err_set(err, HD_ERR_USAGE, "unknown measure \"%.40s\"; expected one of %s", a->positional[0], known);
}

static const struct hd_opt opts[] = {
    {"records", 0, HD_OPT_INT, "N", 1, 1e8, "needle: records in the context (default: one for each 512 tokens, 8 to 2048)"},
    {"queries", 0, HD_OPT_INT, "N", 1, 1e8, "needle: how many of them are asked for (default: 512, or all)"},
    {"seed", 0, HD_OPT_INT, "N", 0, 1e15, "another choice of records, words and places (default 0)"},
    {"hay", 0, HD_OPT_TEXT, "FILE", 0, 0, "needle: text to hide sentences in (default: sentences of hadal's own)"},
    {"text", 0, HD_OPT_TEXT, "FILE", 0, 0, "ppl: what is read: .txt, .jsonl (text or conversations) or ids in .bin; in windows of --ctx (default 512)"},
    {"answers", 0, HD_OPT_FLAG, NULL, 0, 0, "ppl: of conversations, only what the assistant says"},
    HD_OPT_MODEL_COMMON,
};

const struct hd_cmd hd_cmd_eval = {"eval", "what a model can do: finding needles in its context, predicting a text", "eval needle|ppl MODEL [--text FILE] [--ctx N] [--json]",
                                   "needle: the context is built, fed and asked through the engine as it always runs. A model that was trained on the recall task (recall.json beside it) "
                                   "gets that task's ids; any other gets sentences that name codes, and must give each code's every token. ppl: every token but a window's first, from those before it in the window.",
                                   opts, HD_LEN(opts), 2, run, NULL};
