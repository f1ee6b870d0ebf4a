/* profile.h: where the time of steps goes: by op, products by weight ("attn_q.weight" of all layers together), experts by phase.
 *
 * Time is charged in laps: from one lap to the next, as the engine's thread sees it. Two clocks are read for every op, about a microsecond.
 */
#ifndef HD_OPS_PROFILE_H
#define HD_OPS_PROFILE_H

#include <stdint.h>

#define HD_PROFILE_ROWS 64

struct hd_profile_row {
    char name[40];
    double wall_s, cpu_s;             /* cpu_s: of all cores */
    double ops;                       /* multiplications and additions, where known */
    int64_t n;
};

struct hd_profile {
    int n;
    struct hd_profile_row row[HD_PROFILE_ROWS];       /* the last one takes what finds no room */
    double wall, cpu;                 /* the last lap's end */
};

/* Forgets everything; the next lap begins now. */
void hd_profile_reset(struct hd_profile *p);
/* The lap ends. Its time goes to name; a layer's number in it ("blk.3.", "layers.3.") and what stands before that do not count. p may be NULL. */
void hd_profile_lap(struct hd_profile *p, const char *name, double ops);
/* The largest wall time first. */
void hd_profile_sort(struct hd_profile *p);

#endif
