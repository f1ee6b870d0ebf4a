/* cmd_usage.c: hadal usage: what a server's ledger says. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "server/ledger.h"

/* YYYY-MM-DD, or seconds since 1970. */
static int read_since(const char *text, double *since, struct hd_err *err)
{
    struct tm tm = {0};
    char rest;
    int64_t n;

    *since = 0;
    if (!text)
        return HD_OK;
    if (hd_parse_i64(text, 0, (int64_t)1 << 40, &n)) {
        *since = (double)n;
        return HD_OK;
    }
    if (sscanf(text, "%4d-%2d-%2d%c", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &rest) != 3 || tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31)
        return hd_err_set(err, HD_ERR_USAGE, "--since: found \"%.40s\"; expected YYYY-MM-DD or seconds since 1970", text);
    tm.tm_year -= 1900;
    tm.tm_mon--;
    *since = (double)timegm(&tm);
    return HD_OK;
}

static int run(struct hd_args *a, struct hd_err *err)
{
    struct hd_str out;
    double since;
    int rc;

    HD_TRY(read_since(hd_args_text(a, "since", NULL), &since, err));
    hd_str_init(&out, 0);
    rc = hd_ledger_report(a->positional[0], hd_args_text(a, "by", "key"), since, hd_args_has(a, "json"), &out, err);
    if (rc == HD_OK)
        hd_out_text(hd_str_get(&out), out.n);
    hd_str_release(&out);
    return rc;
}

static const struct hd_opt opts[] = {
    {"by", 0, HD_OPT_TEXT, "WHAT", 0, 0, "a line for each key (default), model, path or day"},
    {"since", 0, HD_OPT_TEXT, "DATE", 0, 0, "requests from this day (UTC) on: YYYY-MM-DD"},
};

const struct hd_cmd hd_cmd_usage = {"usage", "what requests used and cost, from a server's ledger", "usage LEDGER [--by key|model|path|day] [--since DATE]",
                                    "LEDGER is the file of hadal serve --ledger; it may be in use.", opts, HD_LEN(opts), 1, run, NULL};
