/* cpu_index.h: the indexer's queries as they meet fp4 keys: int8, heads with positive weights first. */
#ifndef HD_BACKEND_CPU_CPU_INDEX_H
#define HD_BACKEND_CPU_CPU_INDEX_H

#include "backend/cpu/cpu.h"

/* Fills the scratch of an index op's call: in[4] the queries, in[6] their heads' weights and, behind them, how many are positive. */
void hd_cpu_index_encode(struct hd_cpu *cpu, const struct hd_call *c);

/* Head h, in that order, of token t. */
static inline struct hd_q8 *hd_cpu_index_query(const struct hd_call *c, int64_t t, int64_t h)
{
    return (struct hd_q8 *)hd_cpu_row(c->in[4], t * c->i[1] + h);
}

#endif
