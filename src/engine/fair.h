/* fair.h: whose turn it is: deficit round robin between users, counted in tokens.
 *
 * Who has the turn keeps it while there is work and something on the account, then gets a quantum of tokens for the next time. What a user
 * consumes otherwise (tokens decoded) is charged to the same account, so that a user of many answers waits longer for the next prompt.
 *
 * Source   Shreedhar and Varghese, "Efficient fair queuing using deficit round robin", 1995
 * Threads  the scheduler's
 */
#ifndef HD_ENGINE_FAIR_H
#define HD_ENGINE_FAIR_H

#include <stdint.h>

#include "base/err.h"

struct hd_request;

struct hd_user {
    struct hd_user *next, *prev;      /* a ring */
    char *name;
    int64_t deficit;                  /* tokens; below zero: in debt */
    int n_request, n_running;
    struct hd_request *waiting;       /* a list, oldest first */
};

struct hd_fair {
    struct hd_user *turn;             /* NULL: nobody is here */
    int n_user;
    int64_t quantum;
};

/* The user of that name, new ones last in the ring, with one request more; NULL: no memory. */
struct hd_user *hd_fair_join(struct hd_fair *f, const char *name);
/* One request less; a user without any is forgotten. */
void hd_fair_leave(struct hd_fair *f, struct hd_user *u);
/* n tokens were consumed (below zero: given back). Debts are bounded, so that old ones do not starve anybody. */
void hd_fair_charge(const struct hd_fair *f, struct hd_user *u, int64_t n);
/* The turn goes on: its user has nothing to do now, and keeps no credit for that (debts stay). */
void hd_fair_skip(struct hd_fair *f);
/* The turn goes on: its user has used up what it had, and gets a quantum for the next time. */
void hd_fair_grant(struct hd_fair *f);

#endif
