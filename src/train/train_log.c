/* train_log.c: see train_log.h. */
#include "train/train_log.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/plot.h"
#include "train/model_dir.h"
#include "train/tb_events.h"

#define POINTS_MAX ((size_t)1 << 26)
#define DRAWN 600                     /* points of a curve in the picture */

void hd_train_log_init(struct hd_train_log *l)
{
    memset(l, 0, sizeof *l);
    hd_str_init(&l->lines, 0);
}

void hd_train_log_release(struct hd_train_log *l)
{
    hd_str_release(&l->lines);
    hd_free(l->loss.x);
    hd_free(l->loss.y);
    hd_free(l->val.x);
    hd_free(l->val.y);
}

static void add_point(struct hd_train_curve *c, double x, double y)
{
    if (!HD_GROW(c->x, c->cap_x, c->n + 1, POINTS_MAX) || !HD_GROW(c->y, c->cap_y, c->n + 1, POINTS_MAX))
        return;                       /* the picture loses a point */
    c->x[c->n] = x;
    c->y[c->n++] = y;
}

static int take_line(struct hd_train_log *l, const char *p, size_t n, int64_t step, const char *path, struct hd_err *err)
{
    json_t *j = hd_json_parse(p, n, path, err);
    double tokens;

    if (!j)
        return err->code;
    tokens = json_number_value(json_object_get(j, "tokens"));
    if (json_integer_value(json_object_get(j, "step")) <= step) {
        hd_str_add(&l->lines, p, n);
        hd_str_putc(&l->lines, '\n');
        if (json_object_get(j, "val_loss"))
            add_point(&l->val, tokens, json_number_value(json_object_get(j, "val_loss")));
        else
            add_point(&l->loss, tokens, json_number_value(json_object_get(j, "smooth")));
    }
    json_decref(j);
    return HD_OK;
}

int hd_train_log_read(struct hd_train_log *l, const char *out, int64_t step, struct hd_err *err)
{
    char *path = hd_path_join(out, "metrics.jsonl"), *data = NULL;
    size_t n = 0;
    int rc = HD_OK;

    if (!path)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");
    if (hd_file_exists(path))
        rc = hd_file_read(path, (size_t)1 << 30, &data, &n, err);
    for (size_t at = 0; rc == HD_OK && at < n;) {
        const char *stop = memchr(data + at, '\n', n - at);
        size_t k = stop ? (size_t)(stop - data) - at : n - at;

        rc = take_line(l, data + at, k, step, path, err);
        at += k + 1;
    }
    hd_free(data);
    hd_free(path);
    return rc;
}

void hd_train_log_step(struct hd_train_log *l, const struct hd_train_run *r, const struct hd_step_result *s, double lr, double tokens_per_s)
{
    hd_str_printf(&l->lines, "{\"step\": %lld, \"tokens\": %lld, \"loss\": %.6f, \"smooth\": %.6f, \"grad_norm\": %.6g, \"lr\": %.6g, \"balance_loss\": %.6g, \"max_vio\": %.4f, \"max_vio_window\": %.4f, "
                             "\"tokens_per_s\": %.1f, \"time\": %lld}\n",
                  (long long)r->step, (long long)r->n_tok, s->loss, r->smooth, s->grad_norm, lr, s->aux, s->max_vio, s->max_vio_window, tokens_per_s, (long long)time(NULL));
    add_point(&l->loss, (double)r->n_tok, r->smooth);
}

void hd_train_log_eval(struct hd_train_log *l, const struct hd_train_run *r, const struct hd_eval_result *e)
{
    hd_str_printf(&l->lines, "{\"step\": %lld, \"tokens\": %lld, \"val_loss\": %.6f, \"bits_per_byte\": %.6f", (long long)r->step, (long long)r->n_tok, e->loss, e->bits_per_byte);
    if (r->trainer.seen.n_gate)
        hd_str_printf(&l->lines, ", \"val_max_vio\": %.4f", e->max_vio);
    if (l->ngram > 0)
        hd_str_printf(&l->lines, ", \"ngram_loss\": %.6f", l->ngram);
    if (r->gain > 0)
        hd_str_printf(&l->lines, ", \"mhc_gain\": %.6g", r->gain);
    hd_str_printf(&l->lines, ", \"time\": %lld}\n", (long long)time(NULL));
    add_point(&l->val, (double)r->n_tok, e->loss);
}

/* At most DRAWN points, evenly taken. */
static int thin(const struct hd_train_curve *c, double *x, double *y)
{
    size_t step = c->n / DRAWN + 1;
    int n = 0;

    for (size_t i = 0; i < c->n; i += step, n++) {
        x[n] = c->x[i];
        y[n] = c->y[i];
    }
    return n;
}

/* ---- for other programs ---- */

static const char *const columns[] = {"step", "tokens", "loss", "smooth", "val_loss", "bits_per_byte", "ngram_loss", "grad_norm", "lr", "balance_loss", "max_vio", "max_vio_window", "val_max_vio",
                                      "mhc_gain", "tokens_per_s", "time"};

struct tables {
    struct hd_str csv, events;
    bool begun;
};

static int put_line(void *arg, const json_t *line, const char *what, struct hd_err *err)
{
    struct tables *t = arg;
    double time = json_number_value(json_object_get(line, "time"));
    const char *key;
    json_t *v;

    if (!t->begun)
        hd_tb_begin(&t->events, time);
    t->begun = true;
    for (int i = 0; i < HD_LEN(columns); i++) {
        v = json_object_get(line, columns[i]);
        if (i)
            hd_str_putc(&t->csv, ',');
        if (json_is_integer(v))
            hd_str_printf(&t->csv, "%lld", (long long)json_integer_value(v));
        else if (v)
            hd_str_printf(&t->csv, "%.9g", json_number_value(v));
    }
    hd_str_putc(&t->csv, '\n');
    json_object_foreach((json_t *)line, key, v)
        if (strcmp(key, "step") && strcmp(key, "time"))
            hd_tb_scalar(&t->events, time, json_integer_value(json_object_get(line, "step")), key, (float)json_number_value(v));
    return HD_OK;
}

static int write_tables(const struct hd_train_log *l, const char *out, struct hd_err *err)
{
    struct tables t = {.begun = false};
    int rc;

    hd_str_init(&t.csv, 0);
    hd_str_init(&t.events, 0);
    for (int i = 0; i < HD_LEN(columns); i++)
        hd_str_printf(&t.csv, "%s%s", i ? "," : "", columns[i]);
    hd_str_putc(&t.csv, '\n');
    rc = hd_jsonl_each(hd_str_get(&l->lines), l->lines.n, "metrics.jsonl", put_line, &t, err);
    if (rc == HD_OK && (t.csv.failed || t.events.failed))
        rc = hd_err_set(err, HD_ERR_MEMORY, "no memory for the tables of metrics");
    if (rc == HD_OK)
        rc = hd_write_file(out, "metrics.csv", t.csv.s, t.csv.n, err);
    if (rc == HD_OK && t.begun)
        rc = hd_write_file(out, "events.out.tfevents.0.hadal", t.events.s, t.events.n, err);
    hd_str_release(&t.csv);
    hd_str_release(&t.events);
    return rc;
}

int hd_train_log_write(const struct hd_train_log *l, const char *out, struct hd_err *err)
{
    double x[2][DRAWN + 1], y[2][DRAWN + 1];
    double ends[2] = {0, l->loss.n ? l->loss.x[l->loss.n - 1] : 0}, level[2] = {l->ngram, l->ngram};
    struct hd_plot_line lines[3] = {{"training, smoothed", x[0], y[0], thin(&l->loss, x[0], y[0])}, {"validation", x[1], y[1], thin(&l->val, x[1], y[1])}, {"n-grams", ends, level, 2}};
    struct hd_plot plot = {.title = "Loss", .x_label = "tokens", .y_label = "nats per token", .line = lines, .n_line = l->ngram > 0 ? 3 : 2};
    struct hd_str svg;
    int rc;

    HD_TRY(hd_write_file(out, "metrics.jsonl", hd_str_get(&l->lines), l->lines.n, err));
    HD_TRY(write_tables(l, out, err));
    hd_str_init(&svg, 0);
    hd_plot_svg(&plot, &svg);
    rc = hd_write_file(out, "loss.svg", hd_str_get(&svg), svg.n, err);
    hd_str_release(&svg);
    return rc;
}
