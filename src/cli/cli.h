/* cli.h: commands and their options: one table a command drives parsing, --help, man pages and completion.
 *
 * Errors are one line on stderr: exit 2 for usage, 1 for the world. Results go to stdout, everything else to stderr.
 */
#ifndef HD_CLI_CLI_H
#define HD_CLI_CLI_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "engine/engine.h"
#include "engine/model_tokenizer.h"
#include "engine/speculate.h"
#include "token/token.h"

enum hd_opt_kind { HD_OPT_FLAG, HD_OPT_INT, HD_OPT_REAL, HD_OPT_TEXT, HD_OPT_LIST };     /* LIST: text, may be repeated */

struct hd_opt {
    const char *name;                 /* without dashes */
    char letter;                      /* 0: none */
    enum hd_opt_kind kind;
    const char *arg;                  /* "N", "FILE": what help calls the value */
    double lo, hi;                    /* INT, REAL */
    const char *help;
};

#define HD_VERSION "0.1.0"
#define HD_MAX_OPT 48
#define HD_MAX_LIST 16

struct hd_args;

struct hd_cmd {
    const char *name, *summary, *usage, *text;
    const struct hd_opt *opt;
    int n_opt;
    int n_positional;                 /* how many are required; no more are taken */
    int (*run)(struct hd_args *a, struct hd_err *err);      /* HD_OK or a status; USAGE makes exit 2 */
    const char *instead;              /* options, "a|b", each of which stands in for the last positional, or NULL */
};

struct hd_args {
    const struct hd_cmd *cmd;
    const char *positional[4];
    int n_positional;
    const char *value[HD_MAX_OPT];    /* by option; flags: "" */
    const char *list[HD_MAX_LIST];
    int n_list;
};

extern const struct hd_cmd *const hd_cmds[];
extern const int hd_n_cmd;
extern const struct hd_opt hd_common_opts[];
extern const int hd_n_common_opt;
extern volatile sig_atomic_t hd_interrupted;      /* Ctrl-C: end the answer; the second one ends the program */

int hd_args_parse(struct hd_args *a, int argc, char **argv, struct hd_err *err);
bool hd_args_has(const struct hd_args *a, const char *name);
const char *hd_args_text(const struct hd_args *a, const char *name, const char *dflt);
int64_t hd_args_int(const struct hd_args *a, const char *name, int64_t dflt);
double hd_args_real(const struct hd_args *a, const char *name, double dflt);

void hd_help_cmd(const struct hd_cmd *c);
void hd_help_all(void);
void hd_man(const struct hd_cmd *c);
void hd_man_all(void);
int hd_completion(const char *shell, struct hd_err *err);

/* stdout, checked: a closed pipe or a full disk is an error of the world. */
void hd_out_text(const char *p, size_t n);
void hd_out_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int hd_out_flush(struct hd_err *err);

/* --exact, --threads, --cpu, --ctx, --kv, --chunk as engine options. */
int hd_engine_args(const struct hd_args *a, struct hd_engine_options *o, struct hd_err *err);

/* Where a model that is bigger than memory goes, on stderr; nothing for others. A struct hd_engine_options.planned. */
void hd_cli_planned(const struct hd_plan *p);
/* Counters of experts on disk between two moments, as one line on stderr. */
void hd_cli_disk_line(const struct hd_experts_stats *from, const struct hd_experts_stats *to, double seconds);

/* "24G", "512MiB", "1.5T", "4096": bytes (K, M, G, T with or without B are powers of 1000, with iB of 1024). Below 0: USAGE. */
int64_t hd_cli_bytes(const char *option, const char *text, struct hd_err *err);

/* --draft; then o says whether the draft module is to be loaded. */
int hd_draft_args(const struct hd_args *a, struct hd_engine_options *o, struct hd_speculate_options *out, struct hd_err *err);

/* bench_draft.c: what checking guesses costs, and what they bring, behind depth tokens; lines, or a JSON member "draft" with a comma before it. */
int hd_bench_draft(struct hd_engine *e, const struct hd_speculate_options *how, int64_t depth, int64_t n_gen, bool json, struct hd_err *err);

/* Ids from "1,2,3" or "@FILE". */
int hd_cli_ids(const char *text, struct hd_ids *out, struct hd_err *err);

/* Seconds, monotonic. */
double hd_now(void);

#define HD_OPT_DRAFT                                                                                                       \
    {"draft", 0, HD_OPT_TEXT, "HOW", 0, 0, "guess tokens and check several at once, which changes no answer: auto (default: with the checkpoint's draft module, if it has a whole one, as many as pay), N of them, ngram (from earlier text, any model), ngram:N, or off"}

#define HD_OPT_MODEL_COMMON                                                                                               \
    {"exact", 0, HD_OPT_TEXT, "MODE", 0, 0, "f32: weights dequantised, all arithmetic float32 or wider; official: the reference's rounding points"},           \
    {"ctx", 'c', HD_OPT_INT, "N", 1, 1e9, "tokens of context to make room for (default: the model's, at most 8192)"},                                           \
    {"kv", 0, HD_OPT_TEXT, "FORMAT", 0, 0, "keep keys and values as f32, f16 (MLA: bf16), native (packed as DeepSeek models do) or auto (default: native if the weights are quantised)"},                                                                          \
    {"chunk", 0, HD_OPT_INT, "N", 1, 65536, "tokens of a prefill step (default 512)"},                                                                          \
    {"memory", 0, HD_OPT_TEXT, "SIZE", 0, 0, "memory that weights, cache and steps may take, as 24G or auto; experts that find no room stay on disk (default auto: what is available)"}, \
    {"pack", 0, HD_OPT_TEXT, "FILE", 0, 0, "read experts that are on disk from this pack (hadal pack makes them; default: the one beside the model, if there is one), or off: from the checkpoint"}, \
    {"shortcut", 0, HD_OPT_FLAG, NULL, 0, 0, "DeepSeek-V4.1: run all but the end of a prompt through the encoder half only; faster, not quite the same logits"}

#endif
