/* metrics.h: counters and histograms of a server, and their Prometheus text.
 *
 * Labels come from fixed lists (routes, statuses, phases): nobody can make a series by asking.
 *
 * Threads  the loop's
 */
#ifndef HD_SERVER_METRICS_H
#define HD_SERVER_METRICS_H

#include "engine/runner.h"
#include "server/ledger.h"
#include "server/routes.h"

#define HD_BUCKETS 24
#define HD_METRIC_ROUTES 96           /* at least as many as routes.c has, and one for the rest */
#define HD_METRIC_CODES 16

struct hd_histogram {
    uint64_t count[HD_BUCKETS + 1];   /* of each bucket alone; the last: above all bounds */
    double sum;
};

enum hd_phase { HD_PHASE_QUEUE, HD_PHASE_PREFILL, HD_PHASE_DECODE, HD_N_PHASE };
enum hd_call_outcome { HD_CALL_OK, HD_CALL_RECOVERED, HD_CALL_MALFORMED, HD_N_CALL_OUTCOME };
enum hd_replay_result { HD_REPLAY_EXACT, HD_REPLAY_CANONICAL, HD_REPLAY_MISS, HD_N_REPLAY };
enum hd_ending { HD_END_STOP, HD_END_LENGTH, HD_END_TOOLS, HD_END_ABORT, HD_END_ERROR, HD_N_ENDING };

struct hd_metrics {
    uint64_t http[HD_METRIC_ROUTES][HD_METRIC_CODES];
    uint64_t auth_failures, disconnects[HD_N_PHASE], calls[HD_N_CALL_OUTCOME], endings[HD_N_ENDING], replays[HD_N_REPLAY];
    uint64_t prompt, cached, generated, ledger_failures;
    int64_t cost;
    struct hd_histogram first, between, whole, queue, prefill, decode, n_prompt, n_generated, body;
};

/* Bounds are chosen by which member of m it is. */
void hd_metrics_observe(struct hd_metrics *m, struct hd_histogram *h, double v);
void hd_metrics_http(struct hd_metrics *m, const struct hd_route *r, int status);
void hd_metrics_record(struct hd_metrics *m, const struct hd_record *r);

/* compat: names of other servers to give too ("vllm,llamacpp,sglang"), or "". */
void hd_metrics_text(const struct hd_metrics *m, const struct hd_run_stats *st, int n_inflight, const char *model, const char *version, const char *compat, struct hd_str *out);

/* For counters that more than one thread adds to. */
static inline void hd_metrics_count(uint64_t *counter, uint64_t n)
{
    __atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
}

#endif
