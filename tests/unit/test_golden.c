/* test_golden.c: the numbers of the outside, and two ways with one answer, for every checkpoint under tests/golden.
 *
 * golden.safetensors beside a checkpoint holds what transformers computed (tools/golden made both); tokens.json and
 * expected.safetensors what DeepSeek's own code did, in float32 ("f32" in the name) or with its rounding points
 * ("official"). A GGUF file of the same weights, gguf-NAME/model.gguf, has the numbers of NAME. Each directory is four tests:
 * exact logits and layers against the reference; the fast mode's distance; the same bits however the work is cut; every
 * instruction-set level against scalar.
 */
#include "golden.h"

#include "backend/backend.h"
#include "base/rng.h"
#include "kernels/kernels.h"

static void same_bits(const float *a, const float *b, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a))
            fail_msg("%s: value %lld: %.9g; expected %.9g", what, (long long)i, b[i], a[i]);
}

static void test_reference(void **state)
{
    struct golden *g = *state;
    struct golden_layers l = {.g = g};
    struct hd_engine e;
    double d;
    float *x;

    golden_load(g);
    golden_open(&e, g, HD_EXACT_F32, 2, NULL);
    e.trace = golden_trace;
    e.trace_arg = &l;
    x = golden_forward(&e, g, 0);
    d = rel_distance(x, g->logits, g->n * g->n_vocab);
    print_message("# %s: exact %.2e, layers %.2e (%d traced)\n", g->path, d, l.worst, l.seen);
    if (!(l.worst <= 1e-4))
        fail_msg("layer %s: distance %.3g", l.where, l.worst);
    if (!(d <= g->bound))
        fail_msg("logits: distance %.3g; at most %.3g", d, g->bound);
    if (hd_store_find(&g->ref, "tokens"))
        assert_int_equal(l.seen, golden_floats(g));
    assert_int_equal(l.same_expert, l.n_expert);
    assert_int_equal(l.same_row, l.n_row);
    for (int64_t t = 0; t < g->n; t++)
        assert_int_equal(argmax(x + t * g->n_vocab, g->n_vocab), argmax(g->logits + t * g->n_vocab, g->n_vocab));
    hd_free(x);
    hd_engine_close(&e);
    golden_unload(g);
}

/* V4.1's own checkpoint, told as a model of hadal's architecture: the same blocks, so the same bits. */
static void test_retold(void **state)
{
    struct golden *g = *state, own;
    char *dir = tmp_path("retold"), from[1200], to[600];
    static const char *const files[] = {"model.safetensors", "tokenizer.json"};
    struct hd_engine e;
    json_t *c, *t;
    float *a, *b;

    golden_load(g);
    mkdir(dir, 0755);
    snprintf(from, sizeof from, "%s/config.json", g->path);
    assert_non_null(c = hd_json_read(from, 1 << 20, &test_err));
    t = json_object_get(c, "text_config");
    json_object_set_new(t, "model_type", json_string("hadal"));
    json_object_set_new(t, "attention_type", json_string("csa2"));
    json_object_set_new(t, "residual_type", json_string("mhc_v41"));
    json_object_set_new(t, "engram_type", json_string("v41"));
    snprintf(to, sizeof to, "%s/config.json", dir);
    assert_int_equal(json_dump_file(t, to, 0), 0);
    json_decref(c);
    for (int i = 0; i < HD_LEN(files); i++) {
        char here[400];

        assert_non_null(getcwd(here, sizeof here));
        snprintf(from, sizeof from, "%s/%s/%s", here, g->path, files[i]);
        snprintf(to, sizeof to, "%s/%s", dir, files[i]);
        unlink(to);
        assert_int_equal(symlink(from, to), 0);
    }
    golden_open(&e, g, HD_EXACT_F32, 2, NULL);
    a = golden_forward(&e, g, 0);
    hd_engine_close(&e);
    own = *g;
    own.file = dir;
    golden_open(&e, &own, HD_EXACT_F32, 2, NULL);
    assert_string_equal(e.model.arch->name, "hadal");
    b = golden_forward(&e, &own, 7);
    hd_engine_close(&e);
    same_bits(a, b, g->n * g->n_vocab, "retold");
    hd_free(a);
    hd_free(b);
    golden_unload(g);
}

/* The last logits of the golden prompt's first n tokens, by the shortcut or not, in chunks of chunk; seq gets the session. */
static float *last_logits(struct hd_engine *e, const struct golden *g, struct hd_session *ss, int64_t n, bool shortcut, int64_t chunk)
{
    float *out = hd_malloc((size_t)g->n_vocab * sizeof *out);
    const float *lg;

    e->opt.shortcut = shortcut;
    e->opt.chunk = chunk;
    assert_ok(hd_session_open(ss, e, &test_err));
    assert_ok(hd_session_feed(ss, g->ids, n, NULL, NULL, &lg, &test_err));
    memcpy(out, lg, (size_t)g->n_vocab * sizeof *out);
    return out;
}

/* V4.1's halves: a prompt no longer than the window is exact; a longer one has the same entries, another ending, and the same bits
 * however it is cut. */
static void test_shortcut(void **state)
{
    struct golden *g = *state;
    struct hd_session a, b, c;
    struct hd_engine e;
    int64_t window;
    float *x, *y, *z;
    const float *lg;

    golden_load(g);
    golden_open(&e, g, HD_EXACT_F32, 2, NULL);
    window = e.model.shortcut;
    assert_true(window > 0 && window < g->n);
    x = last_logits(&e, g, &a, window, false, 512);
    y = last_logits(&e, g, &b, window, true, 512);
    same_bits(x, y, g->n_vocab, "a short prompt");
    hd_session_close(&a);
    hd_session_close(&b);
    hd_free(x);
    hd_free(y);
    x = last_logits(&e, g, &a, g->n, false, 512);
    y = last_logits(&e, g, &b, g->n, true, 512);
    z = last_logits(&e, g, &c, g->n, true, 7);
    same_bits(y, z, g->n_vocab, "chunks");
    print_message("# %s: shortcut, distance %.2e of the largest logit\n", g->path, rel_distance(y, x, g->n_vocab));
    assert_true(memcmp(x, y, (size_t)g->n_vocab * sizeof *x) && rel_distance(y, x, g->n_vocab) < 2);
    for (int p = 0; p < e.model.spec.n_part; p++) {
        const struct hd_cache_part *part = &e.model.spec.part[p];
        char buf[2][HD_KV_ROW_MAX];

        for (int64_t r = 0; part->kind == HD_PART_PAGED && r < g->n / part->ratio; r++)
            assert_memory_equal(hd_seq_read(a.seq, p, r, buf[0]), hd_seq_read(b.seq, p, r, buf[1]), (size_t)hd_cache_row_bytes(part));
    }
    assert_ok(hd_session_rewind(&b, g->n - 9, &test_err));
    assert_ok(hd_session_feed(&b, g->ids + g->n - 9, 9, NULL, NULL, &lg, &test_err));
    same_bits(y, lg, g->n_vocab, "rewind");
    assert_ok(hd_session_rewind(&b, g->n - window + 1, &test_err));
    assert_true(hd_session_save(&b, tmp_path("shortcut.snapshot"), &test_err) == HD_ERR_UNSUPPORTED);
    hd_session_close(&a);
    hd_session_close(&b);
    hd_session_close(&c);
    hd_free(x);
    hd_free(y);
    hd_free(z);
    hd_engine_close(&e);
    golden_unload(g);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* |x - ref| / |ref| of every row, ascending. */
static double *row_distances(const float *x, const float *ref, int64_t n, int64_t n_vocab)
{
    double *d = hd_malloc((size_t)n * sizeof *d);

    for (int64_t t = 0; t < n; t++) {
        double diff = 0, norm = 0;

        for (int64_t v = t * n_vocab; v < (t + 1) * n_vocab; v++) {
            diff += ((double)x[v] - ref[v]) * ((double)x[v] - ref[v]);
            norm += (double)ref[v] * ref[v];
        }
        d[t] = sqrt(diff / norm);
    }
    qsort(d, (size_t)n, sizeof *d, compare_doubles);
    return d;
}

/* Official rounding is chaotic: one flipped rounding grows from layer to layer, so the bar is on the median of the rows. */
static void test_official(void **state)
{
    struct golden *g = *state;
    struct hd_engine e;
    double *d;
    float *x;

    golden_load(g);
    golden_open(&e, g, HD_EXACT_OFFICIAL, 2, NULL);
    x = golden_forward(&e, g, 0);
    d = row_distances(x, g->logits, g->n, g->n_vocab);
    print_message("# %s: official, median %.2e, largest %.2e\n", g->path, d[g->n / 2], d[g->n - 1]);
    if (strstr(g->path, "mini"))
        assert_true(d[g->n - 1] <= 1e-4);
    assert_true(d[g->n / 2] <= g->bound);
    hd_free(d);
    hd_free(x);
    hd_engine_close(&e);
    golden_unload(g);
}

/* What the fast mode rounds activations to. Integer weights meet int8: 0.5 % a product; fp8 and bf16 ones bf16: 0.1 %. Choices of these random
 * models hang on less, so that single rows may end anywhere and medians are held. */
enum rounding { ROUNDS_LITTLE, ROUNDS_TO_BF16, ROUNDS_TO_INT8 };

static enum rounding rounding_of(const struct hd_engine *e)
{
    enum rounding r = ROUNDS_LITTLE;

    for (size_t i = 0; i < e->packs.n; i++)
        if (e->packs.panels[i].kind && hd_panel_by_q8(e->packs.panels[i].kind))
            return ROUNDS_TO_INT8;
        else if (e->packs.panels[i].kind)
            r = ROUNDS_TO_BF16;
    return r;
}

static void test_fast(void **state)
{
    struct golden *g = *state;
    struct hd_engine e;
    double *rows, d;
    float *x;

    golden_load(g);
    golden_open(&e, g, HD_EXACT_NONE, 2, NULL);
    x = golden_forward(&e, g, 0);
    d = rel_distance(x, g->logits, g->n * g->n_vocab);
    rows = row_distances(x, g->logits, g->n, g->n_vocab);
    print_message("# %s: fast %.2e, median of the rows %.2e\n", g->path, d, rows[g->n / 2]);
    switch (rounding_of(&e)) {
    case ROUNDS_LITTLE: assert_true(d <= 2e-3); break;
    case ROUNDS_TO_BF16: assert_true(rows[g->n / 2] <= 2e-2); break;
    case ROUNDS_TO_INT8: assert_true(rows[g->n / 2] <= 1e-1); break;
    }
    hd_free(rows);
    hd_free(x);
    hd_engine_close(&e);
    golden_unload(g);
}

/* Two sequences in one step, one of them the golden one in uneven pieces. */
static float *ragged(struct hd_engine *e, const struct golden *g)
{
    float *out = hd_malloc((size_t)(g->n * g->n_vocab) * sizeof *out);
    struct hd_session a, b;
    int64_t other = 0;

    assert_ok(hd_session_open(&a, e, &test_err));
    assert_ok(hd_session_open(&b, e, &test_err));
    for (int64_t at = 0, k = 0; at < g->n; k++) {
        static const int piece[] = {5, 1, 7, 1, 1, 12}, piece_b[] = {1, 3, 1, 2};
        int64_t n = piece[k % 6] < g->n - at ? piece[k % 6] : g->n - at, nb = piece_b[k % 4];
        struct hd_step_item it[2] = {{.session = &b, .ids = g->ids + (g->n - 1 - other % g->n), .n_tok = 1, .want = HD_WANT_LAST},
                                     {.session = &a, .ids = g->ids + at, .n_tok = n, .want = HD_WANT_ALL}};

        other += nb;
        assert_ok(hd_engine_step(e, it, 2, &test_err));
        memcpy(out + at * g->n_vocab, it[1].logits, (size_t)(n * g->n_vocab) * sizeof *out);
        at += n;
    }
    hd_session_close(&a);
    hd_session_close(&b);
    return out;
}

/* Feeds, wanders off, rewinds, forks, saves and loads; the logits of the last token must not notice. */
static void wander(struct hd_engine *e, const struct golden *g, float *rewound, float *forked, float *loaded)
{
    struct hd_session s, f, l;
    const float *lg;
    int64_t half = g->n / 2 + 1;
    size_t bytes = (size_t)g->n_vocab * sizeof *lg;

    assert_ok(hd_session_open(&s, e, &test_err));
    assert_ok(hd_session_open(&l, e, &test_err));
    assert_ok(hd_session_feed(&s, g->ids, half, NULL, NULL, &lg, &test_err));
    assert_ok(hd_session_save(&s, tmp_path("golden.snapshot"), &test_err));
    assert_ok(hd_session_feed(&s, g->ids, 9, NULL, NULL, &lg, &test_err));
    assert_ok(hd_session_rewind(&s, half, &test_err));
    assert_ok(hd_session_fork(&f, &s, &test_err));
    assert_ok(hd_session_feed(&s, g->ids, 3, NULL, NULL, &lg, &test_err));
    assert_ok(hd_session_rewind(&s, half, &test_err));
    assert_ok(hd_session_feed(&s, g->ids + half, g->n - half, NULL, NULL, &lg, &test_err));
    memcpy(rewound, lg, bytes);
    assert_ok(hd_session_feed(&f, g->ids + half, g->n - half, NULL, NULL, &lg, &test_err));
    memcpy(forked, lg, bytes);
    if (half > 70) {                           /* further back than any ring remembers */
        assert_ok(hd_session_rewind(&f, half - 66, &test_err));
        assert_int_equal(f.n, half - 66);
        assert_ok(hd_session_feed(&f, g->ids + half - 66, g->n - half + 66, NULL, NULL, &lg, &test_err));
        same_bits(forked, lg, g->n_vocab, "far rewind");
    }
    assert_ok(hd_session_load(&l, tmp_path("golden.snapshot"), &test_err));
    assert_int_equal(l.n, half);
    assert_ok(hd_session_feed(&l, g->ids + half, g->n - half, NULL, NULL, &lg, &test_err));
    memcpy(loaded, lg, bytes);
    hd_session_close(&s);
    hd_session_close(&f);
    hd_session_close(&l);
}

static void equalities(struct golden *g, enum hd_exact exact)
{
    struct hd_engine e;
    int64_t n;
    float *base, *x, *rows;

    golden_open(&e, g, exact, 1, NULL);
    n = g->n * g->n_vocab;
    base = golden_forward(&e, g, 0);
    for (int chunk = 1; chunk <= 17; chunk += 4) {
        x = golden_forward(&e, g, chunk);
        same_bits(base, x, n, "chunks");
        hd_free(x);
    }
    x = ragged(&e, g);
    same_bits(base, x, n, "ragged batch");
    hd_free(x);
    rows = hd_malloc((size_t)(3 * g->n_vocab) * sizeof *rows);
    wander(&e, g, rows, rows + g->n_vocab, rows + 2 * g->n_vocab);
    same_bits(base + n - g->n_vocab, rows, g->n_vocab, "rewind");
    same_bits(base + n - g->n_vocab, rows + g->n_vocab, g->n_vocab, "fork");
    same_bits(base + n - g->n_vocab, rows + 2 * g->n_vocab, g->n_vocab, "snapshot");
    hd_free(rows);
    hd_engine_close(&e);
    for (int t = 2; t <= 5; t += 3) {
        golden_open(&e, g, exact, t, NULL);
        x = golden_forward(&e, g, 0);
        same_bits(base, x, n, "threads");
        hd_free(x);
        hd_engine_close(&e);
    }
    hd_free(base);
}

static void test_equal(void **state)
{
    struct golden *g = *state;

    golden_load(g);
    equalities(g, HD_EXACT_F32);
    equalities(g, HD_EXACT_NONE);
    golden_kv = HD_KV_NATIVE;
    if (!strncmp(strrchr(g->path, '/'), "/v", 2))
        equalities(g, HD_EXACT_NONE);          /* packed rows */
    golden_kv = HD_KV_F32;
    golden_unload(g);
}

static void test_isa(void **state)
{
    struct golden *g = *state;
    float *base = NULL;

    golden_load(g);
    for (const char *const *l = hd_backend_cpu_levels; *l; l++) {
        struct hd_engine e;
        float *x;

        if (!hd_backend_cpu_has(*l))
            continue;
        golden_open(&e, g, HD_EXACT_NONE, 2, *l);
        x = golden_forward(&e, g, 0);
        if (base) {
            static const double bound[] = {1e-3, 5e-3, 2e-2};     /* a last bit before a rounding can flip it */
            enum rounding r = rounding_of(&e);
            double *rows = row_distances(x, base, g->n, g->n_vocab), d = r == ROUNDS_LITTLE ? rel_distance(x, base, g->n * g->n_vocab) : rows[g->n / 2];

            hd_free(rows);
            if (!(d <= bound[r]))
                fail_msg("%s: distance %.3g from scalar", *l, d);
            hd_free(x);
        } else {
            base = x;
        }
        hd_engine_close(&e);
    }
    hd_free(base);
    golden_unload(g);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct CMUnitTest *)a)->name, ((const struct CMUnitTest *)b)->name);
}

int main(void)
{
    static const struct {
        const char *what;
        CMUnitTestFunction fn;
    } kind[] = {{"reference", test_reference}, {"fast", test_fast}, {"equal", test_equal}, {"isa", test_isa}};
    /* from the goldens' own README: the geometric mean of the largest legal median and that of an engine without rounding */
    static const struct {
        const char *name;
        double bar;
    } bars[] = {{"v4-official-mini", 1e-4}, {"v41-official-mini", 1e-4}, {"v4-official-a", 0.062}, {"v41-official-a", 0.086}};
    static struct CMUnitTest test[512];
    size_t n = 0;
    DIR *d = opendir("tests/golden");
    struct dirent *de;

    while (d && (de = readdir(d))) {
        struct golden *g;
        char numbers[512];

        if (!golden_numbers(de->d_name, numbers))
            continue;
        g = hd_calloc(1, sizeof *g);
        memcpy(g->numbers, numbers, sizeof numbers);
        snprintf(g->path, sizeof g->path, "tests/golden/%.200s", de->d_name);
        g->bound = 1e-4;
        for (int k = 0; k < HD_LEN(bars); k++)
            if (!strcmp(bars[k].name, de->d_name)) {
                g->official = true;
                g->bound = bars[k].bar;
            }
        for (int k = 0; k < HD_LEN(kind) && n < 512; k++) {
            char *name = hd_malloc(300);

            /* quantised checkpoints of official goldens: the fast mode has its own rounding, and choices may flip */
            if (g->official && (kind[k].fn == test_fast || kind[k].fn == test_isa)) {
                hd_free(name);
                continue;
            }
            snprintf(name, 300, "%.200s: %s", de->d_name, kind[k].what);
            test[n++] = (struct CMUnitTest){name, g->official && kind[k].fn == test_reference ? test_official : kind[k].fn, NULL, NULL, g};
        }
    }
    if (d)
        closedir(d);
    for (int i = 0; i < 2; i++) {
        struct golden *g = hd_calloc(1, sizeof *g);

        snprintf(g->path, sizeof g->path, "tests/golden/v41-f32-%s", i ? "mini" : "a");
        memcpy(g->numbers, g->path, sizeof g->path);
        test[n++] = (struct CMUnitTest){hd_strdup(g->path), test_retold, NULL, NULL, g};
        test[n++] = (struct CMUnitTest){i ? "shortcut, mini" : "shortcut", test_shortcut, NULL, NULL, g};
    }
    qsort(test, n, sizeof *test, by_name);
    return _cmocka_run_group_tests("golden", test, n, NULL, NULL);
}
