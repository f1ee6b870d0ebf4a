/* forcing.h: what an answer is held to: a schema, calls that must come, tools that are strict. */
#ifndef HD_SERVER_FORCING_H
#define HD_SERVER_FORCING_H

#include "server/ask.h"

/* Sets a->grammar from a->format, force, strict_tools and the tools of a->doc; what must be kept and cannot is the problem. */
int hd_force(const struct hd_server *s, struct hd_ask *a, struct hd_problem *p);
/* The prompt opens the block of calls: they must come, and nothing is thought before. */
bool hd_force_opens(const struct hd_server *s, const struct hd_ask *a);

#endif
