/* plot.c: see plot.h. */
#include "base/plot.h"

#include <math.h>

#include "base/err.h"

#define LEFT 70
#define RIGHT 160
#define TOP 36
#define BOTTOM 46
#define WIDTH 720
#define HEIGHT 360

struct frame {
    const struct hd_plot *p;
    double x0, x1, y0, y1;
};

static double px(const struct frame *f, double x)
{
    double lo = f->p->log_x ? log2(f->x0) : f->x0, hi = f->p->log_x ? log2(f->x1) : f->x1, v = f->p->log_x ? log2(x) : x;

    return LEFT + (v - lo) / (hi > lo ? hi - lo : 1) * (WIDTH - LEFT - RIGHT);
}

static double py(const struct frame *f, double y)
{
    return HEIGHT - BOTTOM - (y - f->y0) / (f->y1 > f->y0 ? f->y1 - f->y0 : 1) * (HEIGHT - TOP - BOTTOM);
}

static bool usable(const struct hd_plot *p, const struct hd_plot_line *l, int i)
{
    return isfinite(l->x[i]) && isfinite(l->y[i]) && (!p->log_x || l->x[i] > 0);
}

static struct frame measure(const struct hd_plot *p)
{
    struct frame f = {p, HUGE_VAL, -HUGE_VAL, p->from_zero ? 0 : HUGE_VAL, -HUGE_VAL};

    for (int k = 0; k < p->n_line; k++)
        for (int i = 0; i < p->line[k].n; i++) {
            if (!usable(p, &p->line[k], i))
                continue;
            f.x0 = fmin(f.x0, p->line[k].x[i]);
            f.x1 = fmax(f.x1, p->line[k].x[i]);
            f.y0 = fmin(f.y0, p->line[k].y[i]);
            f.y1 = fmax(f.y1, p->line[k].y[i]);
        }
    if (f.x1 < f.x0)
        f.x0 = f.x1 = 1;
    if (f.y1 < f.y0)
        f.y0 = 0, f.y1 = 1;
    return f;
}

/* 1, 2 or 5 times a power of ten: about n steps in the range. */
static double step_of(double range, int n)
{
    double raw = range / n, mag = pow(10, floor(log10(raw))), r = raw / mag;

    return (r < 1.5 ? 1 : r < 3.5 ? 2 : r < 7.5 ? 5 : 10) * mag;
}

static void put_text(struct hd_str *out, double x, double y, const char *anchor, const char *fmt, double v)
{
    hd_str_printf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    hd_str_printf(out, fmt, v);
#pragma GCC diagnostic pop
    hd_str_puts(out, "</text>\n");
}

static void put_name(struct hd_str *out, const char *s)
{
    for (; *s; s++)
        if (*s == '<' || *s == '&')
            hd_str_puts(out, *s == '<' ? "&lt;" : "&amp;");
        else
            hd_str_putc(out, *s);
}

static void axes(const struct frame *f, struct hd_str *out)
{
    hd_str_printf(out, "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#888\"/>\n", LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT);
    if (f->y1 > f->y0) {
        double step = step_of(f->y1 - f->y0, 5);

        for (double y = ceil(f->y0 / step) * step; y <= f->y1 + step * 1e-6; y += step) {
            hd_str_printf(out, "<path d=\"M%d %.1fH%d\" stroke=\"#ddd\"/>\n", LEFT, py(f, y), WIDTH - RIGHT);
            put_text(out, LEFT - 6, py(f, y) + 4, "end", "%.4g", y);
        }
    }
    if (f->p->log_x) {
        double first = ceil(log2(f->x0) - 1e-9), last = floor(log2(f->x1) + 1e-9), by = ceil((last - first + 1) / 10);

        for (double e = first; e <= last; e += by)
            put_text(out, px(f, exp2(e)), HEIGHT - BOTTOM + 16, "middle", e >= 20 ? "%.0fM" : e >= 10 ? "%.0fK" : "%.0f", exp2(e >= 20 ? e - 20 : e >= 10 ? e - 10 : e));
    } else if (f->x1 > f->x0) {
        double step = step_of(f->x1 - f->x0, 6);

        for (double x = ceil(f->x0 / step) * step; x <= f->x1 + step * 1e-6; x += step)
            put_text(out, px(f, x), HEIGHT - BOTTOM + 16, "middle", "%.6g", x);
    }
}

void hd_plot_svg(const struct hd_plot *p, struct hd_str *out)
{
    static const char *const color[] = {"#1f6fb4", "#d1622b", "#2f8f4e", "#8a52b0", "#a8323f", "#5b6770"};
    struct frame f = measure(p);

    hd_str_printf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", WIDTH, HEIGHT);
    hd_str_printf(out, "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n<text x=\"%d\" y=\"20\" font-size=\"14\">", WIDTH, HEIGHT, LEFT);
    put_name(out, p->title);
    hd_str_printf(out, "</text>\n<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 10);
    put_name(out, p->x_label);
    hd_str_printf(out, "</text>\n<text transform=\"translate(16 %d) rotate(-90)\" text-anchor=\"middle\">", TOP + (HEIGHT - TOP - BOTTOM) / 2);
    put_name(out, p->y_label);
    hd_str_puts(out, "</text>\n");
    axes(&f, out);
    for (int k = 0; k < p->n_line; k++) {
        const struct hd_plot_line *l = &p->line[k];
        const char *c = color[k % HD_LEN(color)];
        bool down = false;

        hd_str_puts(out, "<path d=\"");
        for (int i = 0; i < l->n; i++) {
            if (!usable(p, l, i))
                continue;
            hd_str_printf(out, "%c%.1f %.1f", down ? 'L' : 'M', px(&f, l->x[i]), py(&f, l->y[i]));
            down = true;
        }
        hd_str_printf(out, "\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.8\"/>\n", c);
        for (int i = 0; i < l->n && l->n <= 64; i++)
            if (usable(p, l, i))
                hd_str_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.6\" fill=\"%s\"/>\n", px(&f, l->x[i]), py(&f, l->y[i]), c);
        hd_str_printf(out, "<text x=\"%d\" y=\"%d\" fill=\"%s\">", WIDTH - RIGHT + 12, TOP + 12 + 18 * k, c);
        put_name(out, l->name);
        hd_str_puts(out, "</text>\n");
    }
    hd_str_puts(out, "</svg>\n");
}
