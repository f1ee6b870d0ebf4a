/* report.h: cases counted, and those that failed said, in the check programs. */
#ifndef HD_TESTS_REPORT_H
#define HD_TESTS_REPORT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int n_pass, n_fail;

static void report(bool ok, const char *fmt, ...)
{
    va_list ap;

    if (ok) {
        n_pass++;
        return;
    }
    n_fail++;
    printf("not ok: ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
}

#endif
