/* golden_report.c: every golden checkpoint in one table: make golden-report. The same runs are tests in unit/test_golden.c. */
#include "golden.h"

#include "base/str.h"

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void share(char out[48], int64_t same, int64_t n)
{
    if (n)
        snprintf(out, 48, same == n ? "%lld of %lld" : "**%lld of %lld**", (long long)same, (long long)n);
    else
        snprintf(out, 48, "-");
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* max |d| / max |logit| in the exact and fast modes; official: the median and the largest relative L2 of a row. */
static void error_text(char out[64], const struct golden *g, const float *x, bool official)
{
    double *d = hd_calloc((size_t)g->n, sizeof *d);

    for (int64_t t = 0; t < g->n; t++) {
        double diff = 0, norm = 0;

        for (int64_t v = t * g->n_vocab; v < (t + 1) * g->n_vocab; v++) {
            diff += ((double)x[v] - g->logits[v]) * ((double)x[v] - g->logits[v]);
            norm += (double)g->logits[v] * g->logits[v];
        }
        d[t] = sqrt(diff / norm);
    }
    qsort(d, (size_t)g->n, sizeof *d, compare_doubles);
    if (official)
        snprintf(out, 64, "median %.1e, largest %.1e", d[g->n / 2], d[g->n - 1]);
    else
        snprintf(out, 64, "%.1e", rel_distance(x, g->logits, g->n * g->n_vocab));
    hd_free(d);
}

static void report(struct golden *g, const char *name, enum hd_exact mode)
{
    static const char *const modes[] = {[HD_EXACT_NONE] = "fast", [HD_EXACT_F32] = "f32", [HD_EXACT_OFFICIAL] = "official"};
    struct golden_layers l = {.g = g};
    struct hd_engine e;
    char error[64], experts[48], rows[48], top[48];
    int64_t same = 0;
    float *x;

    golden_open(&e, g, mode, 0, NULL);
    e.trace = golden_trace;
    e.trace_arg = &l;
    x = golden_forward(&e, g, 0);
    for (int64_t t = 0; t < g->n; t++)
        same += argmax(x + t * g->n_vocab, g->n_vocab) == argmax(g->logits + t * g->n_vocab, g->n_vocab);
    error_text(error, g, x, mode == HD_EXACT_OFFICIAL);
    share(top, same, g->n);
    share(experts, l.same_expert, l.n_expert);
    share(rows, l.same_row, l.n_row);
    printf("| %s | %s | %s | %s | %s | %s | %s |\n", e.model.arch->name, name, modes[mode], error, top, experts, rows);
    fflush(stdout);
    hd_free(x);
    hd_engine_close(&e);
}

int main(void)
{
    DIR *d = opendir("tests/golden");
    char *name[256];
    int n = 0;

    for (struct dirent *de; d && n < 256 && (de = readdir(d));)
        name[n++] = hd_strdup(de->d_name);
    if (d)
        closedir(d);
    qsort(name, (size_t)n, sizeof *name, by_text);
    printf("| family | checkpoint | mode | error | argmax | experts | rows |\n|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < n; i++) {
        static const enum hd_exact modes[] = {HD_EXACT_F32, HD_EXACT_NONE, HD_EXACT_OFFICIAL};
        struct golden g = {.n = 0};
        bool official = strstr(name[i], "official");

        if (golden_numbers(name[i], g.numbers)) {
            snprintf(g.path, sizeof g.path, "tests/golden/%.200s", name[i]);
            golden_load(&g);
            for (int k = 0; k < 3; k++)
                if (official == (modes[k] == HD_EXACT_OFFICIAL))
                    report(&g, name[i], modes[k]);
            golden_unload(&g);
        }
        hd_free(name[i]);
    }
    return 0;
}
