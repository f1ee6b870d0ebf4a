/* ref_main.c: the program: logits of a prompt, and comparisons of logits.
 *
 *   ref MODEL --tokens IDS --out F [--exact=f32|official] [--layers N]    logits [T, V], as `hadal logits` writes them
 *   ref --ids @F                                                         the ids of a golden file, with commas between
 *   ref --compare A B [--tensor NAME] [--max X] [--median X] [--worst X] distances of A's logits from B's; 1 when beyond a bar
 *
 * --layers cuts the model to its first N layers; official goldens hold logits_depth1 and logits_depth2, to be found by --tensor.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ref.h"

static const struct family {
    const char *type;
    double *(*logits)(const struct ref *m, int64_t T, const int64_t *id);
    bool official;                    /* knows the rounding points of the official code */
} families[] = {{"llama", ref_llama, false},          {"qwen2", ref_llama, false},        {"deepseek_v2", ref_latent, false},
                {"deepseek_v3", ref_latent, false},   {"deepseek_v32", ref_latent, false}, {"deepseek_v4", ref_v4, true},
                {"deepseek_v41", ref_v41, true}};

static void compute(const char *dir, const char *tokens, const char *out, const char *exact, const char *layers)
{
    json_t *c;
    const struct family *f = NULL;
    struct ref m;
    const char *type;
    int64_t T, *id;

    ref_open(&m, dir);
    type = get_str(m.config, "model_type", "");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (!strcmp(families[i].type, type))
            f = &families[i];
    if (!f)
        die("%s: model_type \"%s\" is not known here", dir, type);
    m.official = !strcmp(exact, "official");
    if (m.official && !f->official)
        die("%s: model_type \"%s\": only the mode f32 is written down", dir, type);
    c = json_object_get(m.config, "text_config") ? json_object_get(m.config, "text_config") : m.config;
    if (layers && (atoi(layers) < 1 || atoi(layers) > need_int(c, "num_hidden_layers")))
        die("--layers: expected 1 to %lld", (long long)need_int(c, "num_hidden_layers"));
    if (layers)
        json_object_set_new(c, "num_hidden_layers", json_integer(atoi(layers)));
    T = ref_ids(tokens, &id);
    for (int64_t t = 0; t < T; t++)
        if (id[t] >= m.n_vocab)
            die("%s: id %lld; expected less than %lld", tokens, (long long)id[t], (long long)m.n_vocab);
    ref_write(out, f->logits(&m, T, id), T, m.n_vocab);
    ref_close(&m);
    release(0);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int64_t argmax(const double *x, int64_t n)
{
    int64_t best;

    top_k(x, n, 1, &best);
    return best;
}

/* max |A - B| / max |B|; rows with equal argmax; the median and the largest of |A_t - B_t| / |B_t| (L2) over rows t. */
static int compare(const char *a_path, const char *b_path, const char *tensor, const char *const *bar)
{
    struct mat a = ref_read(a_path, "logits"), b = ref_read(b_path, tensor);
    int64_t T = b.n_out, V = b.n_in, equal = 0;
    double *d = array(T), diff = 0, top = 0, x[3];
    bool ok = true;

    if (a.n_out != T || a.n_in != V)
        die("%s: [%lld, %lld]; expected [%lld, %lld]", a_path, (long long)a.n_out, (long long)a.n_in, (long long)T, (long long)V);
    for (int64_t t = 0; t < T; t++) {
        const double *p = a.w + t * V, *q = b.w + t * V;
        double dd = 0;

        for (int64_t v = 0; v < V; v++) {
            diff = fmax(diff, isfinite(p[v]) ? fabs(p[v] - q[v]) : INFINITY);
            top = fmax(top, fabs(q[v]));
            dd += (p[v] - q[v]) * (p[v] - q[v]);
        }
        d[t] = sqrt(dd / dot(V, q, q));
        equal += argmax(p, V) == argmax(q, V);
    }
    qsort(d, (size_t)T, sizeof *d, ascending);
    x[0] = diff / top;
    x[1] = d[T / 2];
    x[2] = d[T - 1];
    printf("max %.2e, argmax %lld of %lld, relative L2 of a row: median %.2e, worst %.2e\n", x[0], (long long)equal, (long long)T, x[1], x[2]);
    for (int i = 0; i < 3; i++)
        ok = ok && (!bar[i] || x[i] <= atof(bar[i]));
    ok = ok && (!bar[0] || equal == T);       /* --max is for the same mathematics: the same winners too */
    release(0);
    return ok ? 0 : 1;
}

static _Noreturn void usage(void)
{
    fprintf(stderr, "usage: ref MODEL --tokens IDS|@FILE --out FILE [--exact=f32|official] [--layers N] | --compare A B [--tensor NAME] "
                    "[--max X] [--median X] [--worst X] | --ids @FILE\n");
    exit(2);
}

int main(int argc, char **argv)
{
    enum { TOKENS, OUT, EXACT, LAYERS, TENSOR, MAX, MEDIAN, WORST, N_OPTION };
    static const char *const name[] = {"--tokens", "--out", "--exact", "--layers", "--tensor", "--max", "--median", "--worst"};
    const char *value[N_OPTION] = {NULL}, *plain[2] = {NULL}, *exact;
    int n_plain = 0, first = 1;
    bool comparing = argc > 1 && !strcmp(argv[1], "--compare"), listing = argc > 1 && !strcmp(argv[1], "--ids");

    first += comparing || listing;
    for (int i = first; i < argc; i++) {
        int k = 0;
        size_t n = 0;

        for (; k < N_OPTION; k++) {
            n = strlen(name[k]);
            if (!strncmp(argv[i], name[k], n) && (argv[i][n] == '=' || !argv[i][n]))
                break;
        }
        if (k < N_OPTION && argv[i][n] == '=')
            value[k] = argv[i] + n + 1;
        else if (k < N_OPTION && i + 1 < argc)
            value[k] = argv[++i];
        else if (k < N_OPTION || argv[i][0] == '-' || n_plain == 2)
            usage();
        else
            plain[n_plain++] = argv[i];
    }
    if (listing && n_plain == 1) {
        int64_t *id, n = ref_ids(plain[0], &id);

        for (int64_t i = 0; i < n; i++)
            printf("%s%lld", i ? "," : "", (long long)id[i]);
        printf("\n");
        release(0);
        return 0;
    }
    if (comparing && n_plain == 2)
        return compare(plain[0], plain[1], value[TENSOR] ? value[TENSOR] : "logits", value + MAX);
    exact = value[EXACT] ? value[EXACT] : "f32";
    if (comparing || listing || n_plain != 1 || !value[TOKENS] || !value[OUT] || (strcmp(exact, "f32") && strcmp(exact, "official")))
        usage();
    compute(plain[0], value[TOKENS], value[OUT], exact, value[LAYERS]);
    return 0;
}
