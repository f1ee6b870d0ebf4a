/* lr_schedule.c: see lr_schedule.h. */
#include "train/lr_schedule.h"

#include <math.h>

double hd_schedule_lr(const struct hd_schedule *s, int64_t step)
{
    double begin = s->kind == HD_SCHEDULE_WSD ? (double)s->n_step * (1 - s->decay) : (double)s->warmup, done;

    if (step < s->warmup)
        return s->lr * (double)(step + 1) / (double)s->warmup;
    if (s->kind == HD_SCHEDULE_CONSTANT || (double)step < begin || (double)s->n_step <= begin)
        return s->lr;
    done = ((double)step - begin) / ((double)s->n_step - begin);
    done = done > 1 ? 1 : done;
    if (s->kind == HD_SCHEDULE_COSINE)
        done = 0.5 - 0.5 * cos(M_PI * done);
    return s->lr * (1 + (s->last - 1) * done);
}
