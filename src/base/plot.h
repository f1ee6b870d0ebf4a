/* plot.h: lines over a logarithmic or linear axis as an SVG file that needs nothing else. */
#ifndef HD_BASE_PLOT_H
#define HD_BASE_PLOT_H

#include <stdbool.h>

#include "base/str.h"

struct hd_plot_line {
    const char *name;
    const double *x, *y;              /* n points, x ascending */
    int n;
};

struct hd_plot {
    const char *title, *x_label, *y_label;
    bool log_x;                       /* powers of two are marked; x > 0 */
    bool from_zero;                   /* y begins at 0, otherwise at the least value */
    const struct hd_plot_line *line;
    int n_line;
};

/* Appends a whole <svg> element, 720 x 360. Points that are not finite are left out. */
void hd_plot_svg(const struct hd_plot *p, struct hd_str *out);

#endif
