/* cmd_eval.h: the measures of `hadal eval`: a row in cmd_eval.c's table, options there too, the rest in eval_NAME.c. */
#ifndef HD_CLI_CMD_EVAL_H
#define HD_CLI_CMD_EVAL_H

#include <stdio.h>

#include "cli/cli.h"

struct hd_eval {
    const char *name, *summary;
    int (*run)(struct hd_args *a, struct hd_err *err);        /* positional[1] is the model */
};

int hd_eval_needle(struct hd_args *a, struct hd_err *err);
int hd_eval_ppl(struct hd_args *a, struct hd_err *err);

#endif
