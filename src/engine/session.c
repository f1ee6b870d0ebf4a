/* session.c: a sequence of tokens on an engine: fed, rewound, forked, kept in files. See engine.h. */
#include <string.h>

#include "base/mem.h"
#include "engine/engine.h"

int hd_session_open(struct hd_session *ss, struct hd_engine *e, struct hd_err *err)
{
    memset(ss, 0, sizeof *ss);
    ss->engine = e;
    return hd_seq_create(&e->cache, &ss->seq, err);
}

void hd_session_close(struct hd_session *ss)
{
    if (ss->seq)
        hd_seq_free(ss->seq);
    hd_free(ss->ids);
    memset(ss, 0, sizeof *ss);
}

int hd_session_rewind(struct hd_session *ss, int64_t n, struct hd_err *err)
{
    int64_t reached;

    if (n < 0 || n > (int64_t)ss->n)
        return hd_err_set(err, HD_ERR_USAGE, "rewind to token %lld of a session of %zu", (long long)n, ss->n);
    HD_TRY(hd_seq_rewind(ss->seq, n, &reached, err));
    ss->n = (size_t)reached;
    if (ss->raw0 > reached)
        ss->raw0 = reached;
    if (reached < n) {
        /* the cache spec could not restore this point: recompute from the nearest one */
        int64_t missing = n - reached;
        int32_t *again = hd_malloc((size_t)missing * sizeof *again);
        int rc;

        if (!again)
            return hd_err_set(err, HD_ERR_MEMORY, "no memory to recompute %lld tokens", (long long)missing);
        memcpy(again, ss->ids + reached, (size_t)missing * sizeof *again);
        rc = hd_session_feed(ss, again, missing, NULL, NULL, NULL, err);
        hd_free(again);
        return rc;
    }
    return HD_OK;
}

int hd_session_fork(struct hd_session *to, struct hd_session *from, struct hd_err *err)
{
    memset(to, 0, sizeof *to);
    to->engine = from->engine;
    HD_TRY(hd_seq_fork(from->seq, &to->seq, err));
    if (!HD_GROW(to->ids, to->cap, from->n + 1, (size_t)1 << 31)) {
        hd_session_close(to);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu token ids", from->n);
    }
    if (from->n)
        memcpy(to->ids, from->ids, from->n * sizeof *to->ids);
    to->n = from->n;
    to->raw0 = from->raw0;
    return HD_OK;
}

static void to_file(void *arg, const void *p, size_t n)
{
    hd_out_write(arg, p, n);
}

int hd_session_save(struct hd_session *ss, const char *path, struct hd_err *err)
{
    struct hd_out out;

    if (ss->raw0 > 0 && (int64_t)ss->n - ss->raw0 < ss->engine->model.shortcut)
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: the session ends where a prefill shortcut left it; %lld more tokens make it whole", path,
                          (long long)(ss->raw0 + ss->engine->model.shortcut - (int64_t)ss->n));
    HD_TRY(hd_out_open(&out, path, err));
    hd_seq_save(ss->seq, ss->ids, ss->n * sizeof *ss->ids, to_file, &out);
    return hd_out_commit(&out, err);
}

int hd_session_take_ids(struct hd_session *ss, const void *blob, size_t n_blob, struct hd_err *err)
{
    size_t n = n_blob / sizeof *ss->ids;

    if (n_blob % sizeof *ss->ids || (int64_t)n != hd_seq_len(ss->seq))
        return hd_err_set(err, HD_ERR_FORMAT, "snapshot: holds %zu bytes of ids for %lld tokens", n_blob, (long long)hd_seq_len(ss->seq));
    if (!HD_GROW(ss->ids, ss->cap, n + 1, (size_t)1 << 31))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for %zu token ids", n);
    memcpy(ss->ids, blob, n_blob);
    for (size_t i = 0; i < n; i++)
        if (ss->ids[i] < 0 || ss->ids[i] >= ss->engine->model.hp.n_vocab)
            return hd_err_set(err, HD_ERR_FORMAT, "snapshot: token %zu: found id %d; expected 0 to %lld", i, ss->ids[i], (long long)ss->engine->model.hp.n_vocab - 1);
    ss->n = n;
    return HD_OK;
}

int hd_session_load(struct hd_session *ss, const char *path, struct hd_err *err)
{
    struct hd_file_map map;
    const void *blob;
    size_t n_blob;
    int rc;

    HD_TRY(hd_session_rewind(ss, 0, err));
    HD_TRY(hd_file_map(&map, path, err));
    rc = hd_seq_load(ss->seq, map.data, map.n, &blob, &n_blob, err);
    if (rc == HD_OK && (rc = hd_session_take_ids(ss, blob, n_blob, err)) < 0)
        hd_seq_rewind(ss->seq, 0, NULL, NULL);
    hd_file_unmap(&map);
    return rc < 0 ? hd_err_prepend(err, "%s", path) : HD_OK;
}

/* A step that waits for the disk asks the caller whether it still wants it. */
struct feeding {
    hd_progress_fn progress;
    void *arg;
    int64_t done, n;
};

static bool unwanted(void *arg)
{
    const struct feeding *f = arg;

    return !f->progress(f->arg, f->done, f->n);
}

static int feed_step(struct hd_engine *e, struct hd_step_item *it, struct feeding *f, struct hd_err *err)
{
    int rc;

    e->stop = f->progress ? unwanted : NULL;
    e->stop_arg = f;
    rc = hd_engine_step(e, it, 1, err);
    e->stop = NULL;
    return rc;
}

int hd_session_feed(struct hd_session *ss, const int32_t *ids, int64_t n, hd_progress_fn progress, void *arg, const float **logits, struct hd_err *err)
{
    for (int64_t done = 0; done < n;) {
        const struct hd_engine *e = ss->engine;
        int64_t left = n - done, chunk = e->opt.chunk, whole = e->opt.shortcut && e->model.shortcut ? e->model.shortcut : left;
        bool encode = left > whole;

        if (encode && chunk > left - whole)
            chunk = left - whole;

        struct hd_step_item it = {.session = ss, .ids = ids + done, .n_tok = left < chunk ? left : chunk, .encode = encode};

        it.want = logits && it.n_tok == left ? HD_WANT_LAST : HD_WANT_NONE;
        HD_TRY(feed_step(ss->engine, &it, &(struct feeding){progress, arg, done, n}, err));
        done += it.n_tok;
        if (it.want == HD_WANT_LAST)
            *logits = it.logits;
        if (progress && !progress(arg, done, n) && done < n)
            return hd_err_set(err, HD_ERR_CANCELLED, "cancelled after %lld of %lld tokens", (long long)done, (long long)n);
    }
    return HD_OK;
}
