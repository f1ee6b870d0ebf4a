/* main.c: the program: finds the command, runs it, says what went wrong in one line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/file.h"
#include "cli/cli.h"

extern const struct hd_cmd hd_cmd_run, hd_cmd_logits, hd_cmd_tokenize, hd_cmd_inspect, hd_cmd_pack, hd_cmd_bench, hd_cmd_doctor, hd_cmd_serve, hd_cmd_usage, hd_cmd_train, hd_cmd_eval;
const struct hd_cmd *const hd_cmds[] = {&hd_cmd_run, &hd_cmd_serve, &hd_cmd_usage, &hd_cmd_logits, &hd_cmd_tokenize, &hd_cmd_inspect, &hd_cmd_pack, &hd_cmd_bench, &hd_cmd_train, &hd_cmd_eval, &hd_cmd_doctor};
const int hd_n_cmd = HD_LEN(hd_cmds);

volatile sig_atomic_t hd_interrupted;

static void on_signal(int sig)
{
    if (sig == SIGINT && !hd_interrupted) {
        hd_interrupted = 1;
        return;
    }
    hd_out_abort_all();
    _exit(128 + sig);
}

static const struct hd_cmd *find_cmd(const char *name)
{
    for (int i = 0; i < hd_n_cmd; i++)
        if (!strcmp(hd_cmds[i]->name, name))
            return hd_cmds[i];
    return NULL;
}

/* The last word: exit status and, on failure, the line. */
static int finish(const char *cmd, int rc, struct hd_err *err)
{
    struct hd_err out_err;

    if (hd_out_flush(&out_err) < 0 && rc >= 0) {
        *err = out_err;
        rc = out_err.code;
    }
    if (rc >= 0)
        return 0;
    fprintf(stderr, "hadal%s%s: %s\n", cmd ? " " : "", cmd ? cmd : "", err->msg);
    return rc == HD_ERR_USAGE ? 2 : rc == HD_ERR_CANCELLED ? 130 : 1;
}

static int builtin(const char *name, int argc, char **argv, struct hd_err *err)
{
    const struct hd_cmd *c = argc > 0 ? find_cmd(argv[0]) : NULL;

    if (!strcmp(name, "completion"))
        return hd_completion(argc > 0 ? argv[0] : "", err);
    if (argc > 0 && !c)
        return hd_err_set(err, HD_ERR_USAGE, "unknown command \"%.60s\"; hadal help lists them", argv[0]);
    if (!strcmp(name, "man")) {
        if (c)
            hd_man(c);
        else
            hd_man_all();
    } else if (c) {
        hd_help_cmd(c);
    } else {
        hd_help_all();
    }
    return HD_OK;
}

int main(int argc, char **argv)
{
    struct hd_args args = {0};
    struct hd_err err = {0};
    struct sigaction sa = {.sa_handler = on_signal};
    int rc;

    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    if (getenv("HD_FAULT") && !hd_fault_parse(getenv("HD_FAULT")))
        return finish(NULL, hd_err_set(&err, HD_ERR_USAGE, "HD_FAULT: expected alloc:N, read:N or write:N"), &err);
    if (argc < 2)
        return finish(NULL, hd_err_set(&err, HD_ERR_USAGE, "a command is missing; hadal help lists them"), &err);
    if (!strcmp(argv[1], "--version")) {
        hd_out_printf("hadal " HD_VERSION "\n");
        return finish(NULL, HD_OK, &err);
    }
    if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "man") || !strcmp(argv[1], "completion"))
        return finish(NULL, builtin(argv[1][0] == '-' ? "help" : argv[1], argc - 2, argv + 2, &err), &err);
    args.cmd = find_cmd(argv[1]);
    if (!args.cmd)
        return finish(NULL, hd_err_set(&err, HD_ERR_USAGE, "unknown command \"%.60s\"; hadal help lists them", argv[1]), &err);
    rc = hd_args_parse(&args, argc - 2, argv + 2, &err);
    if (rc == HD_OK && hd_args_has(&args, "help"))
        hd_help_cmd(args.cmd);
    else if (rc == HD_OK)
        rc = args.cmd->run(&args, &err);
    return finish(args.cmd->name, rc, &err);
}
