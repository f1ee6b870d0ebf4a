/* lr_schedule.c: see lr_schedule.h. */
#include "train/lr_schedule.h"

#include <math.h>

double hd_schedule_done(const struct hd_schedule *s, int64_t step, double seconds)
{
    double steps = (double)step / (double)s->n_step, time = s->minutes > 0 ? seconds / (60 * s->minutes) : 0;

    return fmin(1, fmax(steps, time));
}

double hd_schedule_lr(const struct hd_schedule *s, int64_t step, double seconds)
{
    double at = s->minutes > 0 ? (double)s->n_step * hd_schedule_done(s, step, seconds) : (double)step;
    double begin = s->kind == HD_SCHEDULE_WSD ? (double)s->n_step * (1 - s->decay) : (double)s->warmup, done;

    if (step < s->warmup)
        return s->lr * (double)(step + 1) / (double)s->warmup;
    if (s->kind == HD_SCHEDULE_CONSTANT || at < begin || (double)s->n_step <= begin)
        return s->lr;
    done = (at - begin) / ((double)s->n_step - begin);
    done = done > 1 ? 1 : done;
    if (s->kind == HD_SCHEDULE_COSINE)
        done = 0.5 - 0.5 * cos(M_PI * done);
    return s->lr * (1 + (s->last - 1) * done);
}
