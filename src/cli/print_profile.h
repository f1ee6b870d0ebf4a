/* print_profile.h: where time went, for people and as JSON. */
#ifndef HD_CLI_PRINT_PROFILE_H
#define HD_CLI_PRINT_PROFILE_H

#include <stdbool.h>

#include "ops/profile.h"

/* p, sorted, per one of n units ("token", "step"): a line a row, without those below a thousandth; JSON: the members of a list. */
void hd_print_profile(const struct hd_profile *p, const char *unit, double n, bool json);

#endif
