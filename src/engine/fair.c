/* fair.c: see fair.h. */
#include "engine/fair.h"

#include <string.h>

#include "base/mem.h"

#define DEBT_MAX 32                   /* quanta */

static struct hd_user *find(const struct hd_fair *f, const char *name)
{
    struct hd_user *u = f->turn;

    for (int i = 0; i < f->n_user; i++, u = u->next)
        if (!strcmp(u->name, name))
            return u;
    return NULL;
}

struct hd_user *hd_fair_join(struct hd_fair *f, const char *name)
{
    struct hd_user *u = find(f, name);

    if (!u) {
        if (!(u = hd_calloc(1, sizeof *u)) || !(u->name = hd_strdup(name))) {
            hd_free(u);
            return NULL;
        }
        if (f->turn) {                        /* just before the one who has the turn */
            u->next = f->turn;
            u->prev = f->turn->prev;
            u->prev->next = u->next->prev = u;
        } else {
            u->next = u->prev = f->turn = u;
        }
        f->n_user++;
    }
    u->n_request++;
    return u;
}

void hd_fair_leave(struct hd_fair *f, struct hd_user *u)
{
    if (--u->n_request)
        return;
    if (f->turn == u)
        f->turn = u->next == u ? NULL : u->next;
    u->prev->next = u->next;
    u->next->prev = u->prev;
    f->n_user--;
    hd_free(u->name);
    hd_free(u);
}

void hd_fair_charge(const struct hd_fair *f, struct hd_user *u, int64_t n)
{
    u->deficit -= n;
    if (u->deficit < -DEBT_MAX * f->quantum)
        u->deficit = -DEBT_MAX * f->quantum;
}

void hd_fair_skip(struct hd_fair *f)
{
    if (f->turn->deficit > 0)
        f->turn->deficit = 0;
    f->turn = f->turn->next;
}

void hd_fair_grant(struct hd_fair *f)
{
    f->turn->deficit += f->quantum;
    f->turn = f->turn->next;
}
