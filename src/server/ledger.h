/* ledger.h: what every request used and what it cost, in a SQLite file that outlives the server.
 *
 * A row is in the file before the reply's last byte leaves: kill -9 loses none that a client has seen the end of (WAL; a power cut may
 * lose the last moments). Costs are whole billionths of the currency.
 *
 * Prices are a JSON object: {"currency": "USD", "hit": 0.003, "miss": 0.15, "output": 0.6, "budgets": {"LABEL": 5.0}}: for a million prompt tokens
 * that were cached and that were not, and answered ones; what a key may spend in all.
 *
 * Threads  one at a time
 */
#ifndef HD_SERVER_LEDGER_H
#define HD_SERVER_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

struct hd_record {
    double at;                        /* seconds since 1970: the request came */
    const char *id, *key, *path, *model, *finish;
    int status;
    bool stream;
    int64_t prompt, cached, completion, reasoning;
    double queue_s, first_s, prefill_s, decode_s, total_s;    /* first_s: until the first token, 0: none came */
    int64_t cost;
};

struct hd_ledger;

/* path NULL: sums are kept for as long as the server runs. prices NULL: all is free. Errors: IO, FORMAT, MEMORY. */
int hd_ledger_open(struct hd_ledger **out, const char *path, const char *prices, struct hd_err *err);
void hd_ledger_close(struct hd_ledger *l);

int64_t hd_ledger_cost(const struct hd_ledger *l, const struct hd_record *r);
int hd_ledger_add(struct hd_ledger *l, const struct hd_record *r, struct hd_err *err);
int64_t hd_ledger_spent(const struct hd_ledger *l, const char *key);
/* What the key may spend; false: there is no limit. */
bool hd_ledger_budget(const struct hd_ledger *l, const char *key, int64_t *budget);
const char *hd_ledger_currency(const struct hd_ledger *l);

/* A table of sums as text or JSON. by: "key", "model", "day" or "path". since: seconds since 1970. Errors: IO, USAGE. */
int hd_ledger_report(const char *path, const char *by, double since, bool json, struct hd_str *out, struct hd_err *err);

#endif
