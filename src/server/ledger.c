/* ledger.c: see ledger.h. */
#include "server/ledger.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#define COST_MAX 9e18

struct account {
    char key[32];
    int64_t spent;
};

struct hd_ledger {
    sqlite3 *db;                      /* NULL: sums only */
    sqlite3_stmt *insert;
    struct account *account;
    size_t n_account, cap_account;
    json_t *prices;
    double hit, miss, output;
    const char *currency;
};

static int sql_error(sqlite3 *db, const char *path, struct hd_err *err)
{
    return hd_err_set(err, HD_ERR_IO, "%s: %s", path, db ? sqlite3_errmsg(db) : "no memory");
}

static struct account *account_of(struct hd_ledger *l, const char *key)
{
    for (size_t i = 0; i < l->n_account; i++)
        if (!strcmp(l->account[i].key, key))
            return &l->account[i];
    if (!HD_GROW(l->account, l->cap_account, l->n_account + 1, 1 << 20))
        return NULL;
    l->account[l->n_account] = (struct account){{0}, 0};
    snprintf(l->account[l->n_account].key, sizeof l->account[0].key, "%s", key);
    return &l->account[l->n_account++];
}

/* ---- opening ---- */

static const char schema[] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=2000;"
                             "CREATE TABLE IF NOT EXISTS request("
                             "id TEXT NOT NULL, at REAL NOT NULL, key TEXT NOT NULL, path TEXT NOT NULL, model TEXT NOT NULL, status INTEGER NOT NULL, stream INTEGER NOT NULL,"
                             "prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL, reasoning INTEGER NOT NULL,"
                             "queue_s REAL NOT NULL, first_s REAL NOT NULL, prefill_s REAL NOT NULL, decode_s REAL NOT NULL, total_s REAL NOT NULL,"
                             "finish TEXT NOT NULL, cost INTEGER NOT NULL) STRICT;"
                             "CREATE INDEX IF NOT EXISTS request_at ON request(at);";
static const char insert[] = "INSERT INTO request VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";

static int load_sums(struct hd_ledger *l, const char *path, struct hd_err *err)
{
    sqlite3_stmt *s;
    int rc;

    if (sqlite3_prepare_v2(l->db, "SELECT key, SUM(cost) FROM request GROUP BY key", -1, &s, NULL) != SQLITE_OK)
        return sql_error(l->db, path, err);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        struct account *a = account_of(l, (const char *)sqlite3_column_text(s, 0));

        if (a)
            a->spent = sqlite3_column_int64(s, 1);
    }
    sqlite3_finalize(s);
    return rc == SQLITE_DONE ? HD_OK : sql_error(l->db, path, err);
}

static int open_file(struct hd_ledger *l, const char *path, struct hd_err *err)
{
    if (sqlite3_open_v2(path, &l->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        return sql_error(l->db, path, err);
    chmod(path, 0600);
    if (sqlite3_exec(l->db, schema, NULL, NULL, NULL) != SQLITE_OK || sqlite3_prepare_v2(l->db, insert, -1, &l->insert, NULL) != SQLITE_OK)
        return sql_error(l->db, path, err);
    return load_sums(l, path, err);
}

static int read_prices(struct hd_ledger *l, const char *path, struct hd_err *err)
{
    const json_t *budgets, *v;
    const char *key;

    l->prices = hd_json_read(path, 1 << 20, err);
    if (!l->prices)
        return err->code;
    HD_TRY(hd_json_real_or(l->prices, "hit", 0, 1e6, 0, &l->hit, path, err));
    HD_TRY(hd_json_real_or(l->prices, "miss", 0, 1e6, 0, &l->miss, path, err));
    HD_TRY(hd_json_real_or(l->prices, "output", 0, 1e6, 0, &l->output, path, err));
    HD_TRY(hd_json_str_or(l->prices, "currency", "USD", &l->currency, path, err));
    budgets = json_object_get(l->prices, "budgets");
    if (budgets && !json_is_object(budgets))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: budgets: expected an object of labels and amounts", path);
    json_object_foreach((json_t *)budgets, key, v) if (!json_is_number(v) || !(json_number_value(v) >= 0 && json_number_value(v) <= 1e9))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: budgets: %.40s: expected a number from 0 to 1e9", path, key);
    return HD_OK;
}

int hd_ledger_open(struct hd_ledger **out, const char *path, const char *prices, struct hd_err *err)
{
    struct hd_ledger *l = hd_calloc(1, sizeof *l);
    int rc;

    if (!l)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the ledger");
    l->currency = "USD";
    rc = prices ? read_prices(l, prices, err) : HD_OK;
    if (rc == HD_OK && path)
        rc = open_file(l, path, err);
    if (rc < 0)
        hd_ledger_close(l);
    else
        *out = l;
    return rc;
}

void hd_ledger_close(struct hd_ledger *l)
{
    if (!l)
        return;
    sqlite3_finalize(l->insert);
    sqlite3_close(l->db);
    json_decref(l->prices);
    hd_free(l->account);
    hd_free(l);
}

/* ---- rows ---- */

int64_t hd_ledger_cost(const struct hd_ledger *l, const struct hd_record *r)
{
    double c = ((double)r->cached * l->hit + (double)(r->prompt - r->cached) * l->miss + (double)r->completion * l->output) * 1e3;

    return c < COST_MAX ? llround(c) : (int64_t)COST_MAX;
}

int hd_ledger_add(struct hd_ledger *l, const struct hd_record *r, struct hd_err *err)
{
    struct account *a = account_of(l, r->key);
    const char *text[] = {r->id, r->key, r->path, r->model, r->finish};
    static const int text_at[] = {1, 3, 4, 5, 17};
    const int64_t whole[] = {r->status, r->stream, r->prompt, r->cached, r->completion, r->reasoning, r->cost};
    static const int whole_at[] = {6, 7, 8, 9, 10, 11, 18};
    const double real[] = {r->at, r->queue_s, r->first_s, r->prefill_s, r->decode_s, r->total_s};
    static const int real_at[] = {2, 12, 13, 14, 15, 16};
    int rc;

    if (a)
        a->spent += r->cost;
    if (!l->db)
        return HD_OK;
    for (int i = 0; i < HD_LEN(text); i++)
        sqlite3_bind_text(l->insert, text_at[i], text[i], -1, SQLITE_STATIC);
    for (int i = 0; i < HD_LEN(whole); i++)
        sqlite3_bind_int64(l->insert, whole_at[i], whole[i]);
    for (int i = 0; i < HD_LEN(real); i++)
        sqlite3_bind_double(l->insert, real_at[i], real[i]);
    rc = sqlite3_step(l->insert);
    sqlite3_reset(l->insert);
    return rc == SQLITE_DONE ? HD_OK : sql_error(l->db, "the ledger", err);
}

int64_t hd_ledger_spent(const struct hd_ledger *l, const char *key)
{
    for (size_t i = 0; i < l->n_account; i++)
        if (!strcmp(l->account[i].key, key))
            return l->account[i].spent;
    return 0;
}

bool hd_ledger_budget(const struct hd_ledger *l, const char *key, int64_t *budget)
{
    const json_t *v = json_object_get(json_object_get(l->prices, "budgets"), key);

    if (!v)
        return false;
    *budget = llround(json_number_value(v) * 1e9);
    return true;
}

const char *hd_ledger_currency(const struct hd_ledger *l)
{
    return l->currency;
}

/* ---- reports ---- */

static const char *column_of(const char *by)
{
    static const char *const known[][2] = {{"key", "key"}, {"model", "model"}, {"path", "path"}, {"day", "date(at,'unixepoch')"}};

    for (int i = 0; i < HD_LEN(known); i++)
        if (!strcmp(by, known[i][0]))
            return known[i][1];
    return NULL;
}

static void put_row(sqlite3_stmt *s, bool json, int n, struct hd_str *out)
{
    const char *what = (const char *)sqlite3_column_text(s, 0);
    static const char *const names[] = {"requests", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"};

    if (json) {
        hd_str_puts(out, n ? ",{\"what\":" : "{\"what\":");
        hd_str_json(out, what, strlen(what));
        for (int i = 0; i < HD_LEN(names); i++)
            hd_str_printf(out, ",\"%s\":%lld", names[i], (long long)sqlite3_column_int64(s, i + 1));
        hd_str_printf(out, ",\"cost\":%.9f}", (double)sqlite3_column_int64(s, 6) / 1e9);
        return;
    }
    hd_str_printf(out, "%-24.24s %9lld %13lld %13lld %13lld %13lld %14.6f\n", what[0] ? what : "-", (long long)sqlite3_column_int64(s, 1), (long long)sqlite3_column_int64(s, 2),
                  (long long)sqlite3_column_int64(s, 3), (long long)sqlite3_column_int64(s, 4), (long long)sqlite3_column_int64(s, 5), (double)sqlite3_column_int64(s, 6) / 1e9);
}

int hd_ledger_report(const char *path, const char *by, double since, bool json, struct hd_str *out, struct hd_err *err)
{
    const char *column = column_of(by);
    sqlite3_stmt *s = NULL;
    sqlite3 *db = NULL;
    char sql[256];
    int n = 0, rc = SQLITE_ERROR;

    if (!column)
        return hd_err_set(err, HD_ERR_USAGE, "--by: found \"%.40s\"; expected key, model, path or day", by);
    if (!hd_file_exists(path))
        return hd_err_set(err, HD_ERR_IO, "%s: there is no such file", path);
    snprintf(sql, sizeof sql, "SELECT %s, COUNT(*), SUM(prompt), SUM(cached), SUM(completion), SUM(reasoning), SUM(cost) FROM request WHERE at >= ? GROUP BY 1 ORDER BY 1", column);
    if (json)
        hd_str_puts(out, "[");
    else
        hd_str_printf(out, "%-24s %9s %13s %13s %13s %13s %14s\n", by, "requests", "prompt", "cached", "completion", "reasoning", "cost");
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK && sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK) {
        sqlite3_bind_double(s, 1, since);
        while ((rc = sqlite3_step(s)) == SQLITE_ROW)
            put_row(s, json, n++, out);
    }
    hd_str_puts(out, json ? "]\n" : "");
    if (rc != SQLITE_DONE)
        sql_error(db, path, err);
    sqlite3_finalize(s);
    sqlite3_close(db);
    return rc == SQLITE_DONE ? HD_OK : HD_ERR_IO;
}
