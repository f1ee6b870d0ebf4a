/* train_run.c: see train_run.h. */
#include "train/train_run.h"

#include <math.h>
#include <string.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/engram.h"
#include "token/bpe_train.h"
#include "token/token_classes.h"
#include "train/document.h"
#include "train/model_dir.h"
#include "train/quant.h"
#include "weights/safetensors_write.h"

#define SMOOTH 0.98
#define TEXT_MAX ((size_t)1 << 34)

/* ---- the tokenizer ---- */

struct learning {
    struct hd_bpe_trainer *t;
    struct hd_err *err;
    int rc;
};

static void learn_text(void *arg, const char *text, size_t n)
{
    struct learning *l = arg;

    if (l->rc == HD_OK)
        l->rc = hd_bpe_trainer_add(l->t, text, n, l->err);
}

static int learn_line(void *arg, const json_t *line, const char *what, struct hd_err *err)
{
    struct learning *l = arg;

    hd_document_texts(line, learn_text, l);
    return l->rc;
}

static int learn_file(struct hd_bpe_trainer *t, const char *path, struct hd_err *err)
{
    struct learning l = {t, err, HD_OK};
    struct hd_file_map m;
    int rc;

    HD_TRY(hd_file_map(&m, path, err));
    rc = hd_ends_with(path, ".jsonl") ? hd_jsonl_each((const char *)m.data, m.n, path, learn_line, &l, err) : hd_bpe_trainer_add(t, (const char *)m.data, m.n, err);
    hd_file_unmap(&m);
    return rc;
}

/* Learns from the training text: bytes, those used, or merges. */
static int make_tokenizer(const struct hd_train_run *r, struct hd_err *err)
{
    const struct hd_train_config *c = &r->c;
    struct hd_bpe_hp hp = {.n_vocab = strcmp(c->tokenizer, "bpe") ? 0 : c->bpe_vocab, .used_bytes = !strcmp(c->tokenizer, "used-bytes"), .special = c->special,
                           .n_special = strcmp(c->tokenizer, "used-bytes") ? c->n_special : 0};
    struct hd_bpe_trainer *t;
    struct hd_str json;
    int64_t n;
    int rc;

    HD_TRY(hd_bpe_trainer_create(&t, err));
    hd_str_init(&json, 0);
    rc = HD_OK;
    for (int i = 0; i < c->n_train + c->n_val && rc == HD_OK && (hp.n_vocab || hp.used_bytes); i++) {
        const char *path = i < c->n_train ? c->train[i] : c->val[i - c->n_train];

        if (hd_ends_with(path, ".bin"))
            rc = hd_err_set(err, HD_ERR_USAGE, "%s: a tokenizer cannot be learned from ids", path);
        else if (!(i >= c->n_train && hp.n_vocab))    /* merges: not from validation text */
            rc = learn_file(t, path, err);
    }
    if (rc == HD_OK)
        rc = hd_bpe_trainer_finish(t, &hp, &json, &n, err);
    if (rc == HD_OK)
        rc = hd_write_file(c->out, "tokenizer.json", hd_str_get(&json), json.n, err);
    hd_str_release(&json);
    hd_bpe_trainer_free(t);
    return rc;
}

static int copy_tokenizer(const struct hd_train_run *r, struct hd_err *err)
{
    char *path = hd_path_join(r->c.tokenizer, "tokenizer.json"), *data = NULL;
    size_t n;
    int rc = path ? hd_file_read(path, TEXT_MAX, &data, &n, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");

    if (rc == HD_OK)
        rc = hd_write_file(r->c.out, "tokenizer.json", data, n, err);
    hd_free(path);
    hd_free(data);
    return rc;
}

static bool is_made(const char *tokenizer)
{
    return !strcmp(tokenizer, "bytes") || !strcmp(tokenizer, "used-bytes") || !strcmp(tokenizer, "bpe");
}

/* ---- the model's config: what only the tokenizer knows ---- */

static json_t *text_part(json_t *config)
{
    json_t *t = json_object_get(config, "text_config");

    return json_is_object(t) ? t : config;
}

/* The sizes of n-gram tables, which published configs state and their primes decide. */
static int fill_tables(json_t *c, struct hd_err *err)
{
    struct hd_engram *e = hd_calloc(1, sizeof *e);
    int64_t n_layer, n_vocab;
    json_t *rows;
    int rc;

    if (!e)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a model's configuration");
    rc = hd_json_int(c, "num_hidden_layers", 1, 1 << 20, &n_layer, "model", err);
    if (rc == HD_OK)
        rc = hd_json_int(c, "vocab_size", 1, (int64_t)1 << 24, &n_vocab, "model", err);
    if (rc == HD_OK)
        rc = hd_engram_config(e, c, n_layer, n_vocab, false, "model", err);
    if (rc == HD_OK) {
        rows = json_array();
        for (int64_t i = 0; i < e->n_layer; i++)
            json_array_append_new(rows, json_integer(e->rows[i]));
        json_object_set_new(c, "engram_num_embeddings", rows);
    }
    hd_free(e);
    return rc;
}

static int fill_config(struct hd_train_run *r, struct hd_err *err)
{
    json_t *c = text_part(r->c.model), *layers = json_object_get(c, "engram_layer_ids");
    int64_t n = r->tok ? hd_tokenizer_size(r->tok) : hd_recall_vocab(&r->c.task.task), n_vocab, n_class;

    if (!json_object_get(c, "vocab_size"))
        json_object_set_new(c, "vocab_size", json_integer(n));
    HD_TRY(hd_json_int(c, "vocab_size", n, (int64_t)1 << 24, &n_vocab, "model", err));
    if (!r->tok)
        return json_array_size(layers) ? hd_err_set(err, HD_ERR_USAGE, "engram_layer_ids: n-gram memory needs a tokenizer, and the recall task has none") : HD_OK;
    if (hd_tokenizer_find(r->tok, r->c.special[0]) >= 0 && !json_object_get(r->c.model, "eos_token_id")) {
        json_object_set_new(r->c.model, "bos_token_id", json_integer(hd_tokenizer_find(r->tok, r->c.special[0])));
        json_object_set_new(r->c.model, "eos_token_id", json_integer(hd_tokenizer_find(r->tok, r->c.special[0])));
    }
    if (json_array_size(layers) && !json_object_get(c, "engram_compressed_vocab_size")) {
        int32_t *map = hd_malloc((size_t)n_vocab * sizeof *map);
        int rc = map ? hd_token_classes(r->tok, n_vocab, map, &n_class, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for token classes");

        hd_free(map);
        HD_TRY(rc);
        json_object_set_new(c, "engram_compressed_vocab_size", json_integer(n_class));
    }
    return json_array_size(layers) && !json_object_get(c, "engram_num_embeddings") ? fill_tables(c, err) : HD_OK;
}

static int take_classes(struct hd_train_run *r, struct hd_err *err)
{
    int64_t n = r->m.hp.n_vocab, n_class;
    int32_t *map;
    int rc;

    if (!r->m.wants_classes || !r->m.arch->take_classes)
        return HD_OK;
    if (!(map = hd_malloc((size_t)n * sizeof *map)))
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for token classes");
    rc = hd_token_classes(r->tok, n, map, &n_class, err);
    if (rc == HD_OK)
        rc = r->m.arch->take_classes(&r->m, map, n, n_class, err);
    hd_free(map);
    return rc;
}

/* ---- preparing ---- */

static int read_data(struct hd_train_run *r, struct hd_err *err)
{
    r->train.all = r->val.all = r->c.all_targets;
    r->train.spill_dir = r->val.spill_dir = r->c.stream == HD_STREAM_NEVER ? NULL : r->c.out;
    r->train.spill_from = r->val.spill_from = r->c.stream == HD_STREAM_AUTO ? (size_t)hd_mem_available() / 8 : 0;
    for (int i = 0; i < r->c.n_train; i++)
        HD_TRY(hd_data_add(&r->train, r->c.train[i], r->tok, r->m.hp.n_vocab, err));
    for (int i = 0; i < r->c.n_val; i++)
        HD_TRY(hd_data_add(&r->val, r->c.val[i], r->tok, r->m.hp.n_vocab, err));
    if (r->c.val_part > 0)
        HD_TRY(hd_data_split(&r->train, &r->val, r->c.val_part, err));
    hd_data_seal(&r->train, r->tok);
    hd_data_seal(&r->val, r->tok);
    return HD_OK;
}

static int begin(struct hd_train_run *r, struct hd_err *err)
{
    char *state = hd_path_join(r->c.out, "state.safetensors");
    bool there = state && hd_file_exists(state);

    hd_free(state);
    if (there)
        return hd_err_set(err, HD_ERR_USAGE, "%s: a run is already there; --resume goes on with it, another \"out\" begins a new one", r->c.out);
    HD_TRY(hd_make_dir(r->c.out, err));
    if (r->c.task.n_stage) {
        json_t *j = json_pack("{sIsI}", "symbols", (json_int_t)r->c.task.task.n_symbol, "fillers", (json_int_t)r->c.task.task.n_filler);
        int rc = j ? hd_write_json(r->c.out, HD_RECALL_FILE, j, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for the task");

        json_decref(j);
        return rc;
    }
    HD_TRY(is_made(r->c.tokenizer) ? make_tokenizer(r, err) : copy_tokenizer(r, err));
    return HD_OK;
}

/* Again, with the model's config beside it: it says how conversations are written and which token ends them. */
static int reopen_tokenizer(struct hd_train_run *r, struct hd_err *err)
{
    hd_tokenizer_free(r->tok);
    r->tok = NULL;
    return hd_tokenizer_open(&r->tok, r->c.out, 0, err);
}

int hd_train_run_plan(struct hd_train_run *r, int64_t have, struct hd_err *err)
{
    const char *less = r->c.hp.again || r->c.again_if_needed ? "" : ", and so does \"recompute\": true";
    char need[32], are[32];

    HD_TRY(hd_trainer_plan(&r->m, &r->c.hp, &r->plan, err));
    if (have && r->plan.total > have && r->c.again_if_needed) {
        r->c.hp.again = true;
        HD_TRY(hd_trainer_plan(&r->m, &r->c.hp, &r->plan, err));
    }
    if (have && r->plan.total > have)
        return hd_err_set(err, HD_ERR_MEMORY, "training needs %s and %s are free; fewer batch_tokens (%lld) need less%s", hd_fmt_bytes(need, r->plan.total), hd_fmt_bytes(are, have),
                          (long long)r->c.hp.batch_tokens, less);
    return HD_OK;
}

static int prepare(struct hd_train_run *r, bool resume, struct hd_err *err)
{
    if (!resume)
        HD_TRY(begin(r, err));
    if (!r->c.task.n_stage)
        HD_TRY(hd_tokenizer_open(&r->tok, r->c.out, 0, err));
    if (!resume) {
        HD_TRY(fill_config(r, err));
        HD_TRY(hd_model_dir_create(r->c.out, r->c.model, r->c.init_std, r->c.seed, err));
        HD_TRY(hd_write_json(r->c.out, "train.json", r->c.json, err));
        if (r->tok)
            HD_TRY(reopen_tokenizer(r, err));
    }
    if (!resume && r->c.init)
        HD_TRY(hd_model_dir_take(r->c.out, r->c.init, err));
    HD_TRY(hd_model_open(&r->m, r->c.out, HD_KV_F32, HD_MODEL_LEARN, err));
    r->opened = true;
    HD_TRY(take_classes(r, err));
    if (r->c.task.n_stage)
        r->loader = (struct hd_loader){.batch_tokens = r->c.hp.batch_tokens, .max_seq = r->c.hp.batch_tokens / 16 + 8};
    else
        HD_TRY(read_data(r, err));
    if (!r->c.task.n_stage)
        HD_TRY(hd_loader_init(&r->loader, &r->train, r->c.hp.context, r->c.hp.batch_tokens, r->c.seed, true, err));
    HD_TRY(hd_batch_init(&r->batch, &r->loader, err));
    if (r->c.teacher)
        HD_TRY(hd_teacher_open(&r->teacher, r->c.teacher, r->tok, r->m.hp.n_vocab, &r->loader, r->c.teacher_top, (float)r->c.teacher_share, hd_pool_threads(r->pool), err));
    return hd_train_run_plan(r, hd_mem_available(), err);
}

int hd_train_run_prepare(struct hd_train_run *r, const char *path, bool resume, int n_thread, struct hd_err *err)
{
    char *inside = resume ? hd_path_join(path, "train.json") : NULL;
    int rc;

    memset(r, 0, sizeof *r);
    r->best = INFINITY;
    rc = hd_train_config_read(&r->c, inside ? inside : path, err);
    hd_free(inside);
    HD_TRY(rc);
    HD_TRY(hd_pool_create(&r->pool, n_thread, err));
    HD_TRY(hd_backend_cpu_create(&r->be, r->pool, err));
    if (resume)
        r->c.out = path;
    return prepare(r, resume, err);
}

/* ---- the state ---- */

struct state_head {                   /* as it lies in the file: numbers only, little-endian */
    uint64_t version, data_hash, val_hash;
    int64_t step, optim_step, n_tok, epoch, at, n_float;
    double smooth, best;
    int64_t stage;
    double running, seconds;
};

#define STATE_VERSION 2

static double elapsed(const struct hd_train_run *r)
{
    return r->seconds + (hd_now() - r->since);
}

static int save_state(struct hd_train_run *r, struct hd_err *err)
{
    char *path = hd_path_join(r->c.out, "state.safetensors");
    struct hd_trainer *t = &r->trainer;
    struct state_head h = {STATE_VERSION, r->train.hash, r->val.hash, r->step, t->optim.step, r->n_tok, r->loader.epoch, r->loader.at, (int64_t)t->ps.n_float, r->smooth, r->best,
                           r->c.task.at, r->c.task.running, r->c.schedule.minutes > 0 ? elapsed(r) : 0};
    const float *block[4] = {t->ps.w, t->optim.m, t->optim.v, r->average.w};
    static const char *const name[4] = {"weights", "first_average", "second_average", "weights_average"};
    int64_t n_head = sizeof h, n_block = r->average.w ? 4 : 3;
    struct hd_st_writer w;
    int rc;

    if (!path)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");
    hd_st_writer_init(&w);
    hd_st_writer_declare(&w, "head", HD_U8, 1, &n_head);
    for (int i = 0; i < n_block; i++)
        hd_st_writer_declare(&w, name[i], HD_F32, 1, &h.n_float);
    rc = hd_st_writer_begin(&w, path, err);
    hd_free(path);
    HD_TRY(rc);
    hd_st_writer_data(&w, &h, sizeof h);
    for (int i = 0; i < n_block; i++)
        hd_st_writer_data(&w, block[i], t->ps.n_float * sizeof(float));
    return hd_st_writer_commit(&w, err);
}

/* The file holds what save_state() writes, in that order, behind a header whose length comes first. */
static int take_state(struct hd_train_run *r, const struct hd_file_map *f, const char *path, struct hd_err *err)
{
    struct hd_trainer *t = &r->trainer;
    size_t bytes = t->ps.n_float * sizeof(float), want = (r->average.w ? 4 : 3) * bytes, n_data;
    struct state_head h;
    uint64_t n;

    if (f->n < 8 || (memcpy(&n, f->data, 8), n > f->n - 8) || f->n - 8 - n < sizeof h)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: is cut short", path);
    memcpy(&h, f->data + 8 + n, sizeof h);
    if (h.version != STATE_VERSION)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: version %llu; expected %d", path, (unsigned long long)h.version, STATE_VERSION);
    if (h.n_float != (int64_t)t->ps.n_float)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: holds %lld weights; the model has %zu: it is of another run", path, (long long)h.n_float, t->ps.n_float);
    n_data = f->n - 8 - n - sizeof h;
    if (n_data != want)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: holds %zu bytes of weights and averages; expected %zu: it is cut short, or of another run", path, n_data, want);
    if (h.step < 0 || h.optim_step < 0 || h.n_tok < 0 || h.epoch < 0 || h.at < 0)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: step %lld, epoch %lld, piece %lld: it is damaged", path, (long long)h.step, (long long)h.epoch, (long long)h.at);
    if (h.data_hash != r->train.hash || h.val_hash != r->val.hash)
        return hd_err_set(err, HD_ERR_USAGE, "%s: the %s data are not those that the run began with", path, h.data_hash != r->train.hash ? "training" : "validation");
    memcpy(t->ps.w, f->data + 8 + n + sizeof h, bytes);
    memcpy(t->optim.m, f->data + 8 + n + sizeof h + bytes, bytes);
    memcpy(t->optim.v, f->data + 8 + n + sizeof h + 2 * bytes, bytes);
    if (r->average.w)
        memcpy(r->average.w, f->data + 8 + n + sizeof h + 3 * bytes, bytes);
    r->step = h.step;
    t->optim.step = h.optim_step;
    r->n_tok = h.n_tok;
    r->loader.epoch = h.epoch;
    r->loader.at = h.at;
    r->smooth = h.smooth;
    r->best = h.best;
    r->seconds = h.seconds;
    if (r->c.task.n_stage && h.stage >= 0 && h.stage < r->c.task.n_stage) {
        r->c.task.at = (int)h.stage;
        r->c.task.running = h.running;
    }
    return HD_OK;
}

static int load_state(struct hd_train_run *r, struct hd_err *err)
{
    char *path = hd_path_join(r->c.out, "state.safetensors");
    struct hd_file_map f;
    int rc = path ? hd_file_map(&f, path, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");

    if (rc == HD_OK) {
        rc = take_state(r, &f, path, err);
        hd_file_unmap(&f);
    }
    hd_free(path);
    return rc;
}

/* ---- the run ---- */

static int plan_native(struct hd_train_run *r, struct hd_err *err)
{
    char *dir = hd_path_join(r->c.out, "native");
    int rc = dir ? hd_quant_plan(&r->trainer.ps, dir, r->m.store.config, json_object_get(r->c.qat, "quantization"), err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");

    hd_free(dir);
    return rc;
}

int hd_train_run_open(struct hd_train_run *r, bool resume, struct hd_err *err)
{
    HD_TRY(hd_trainer_open(&r->trainer, &r->m, &r->c.hp, r->pool, &r->be, err));
    r->trainer.soft = r->c.teacher ? &r->teacher.soft : NULL;
    HD_TRY(hd_average_init(&r->average, r->c.ema, &r->trainer.ps, err));
    r->since = hd_now();
    if (r->c.qat)
        HD_TRY(plan_native(r, err));
    return resume ? load_state(r, err) : HD_OK;
}

static int round_when_due(struct hd_train_run *r, struct hd_err *err)
{
    bool due = r->c.qat && hd_train_run_done(r) >= r->c.qat_from;

    return due ? hd_trainer_round(&r->trainer, err) : HD_OK;
}

void hd_train_run_close(struct hd_train_run *r)
{
    hd_average_release(&r->average);
    hd_teacher_close(&r->teacher);
    if (r->trainer.m)
        hd_trainer_close(&r->trainer);
    hd_batch_release(&r->batch);
    hd_loader_release(&r->loader);
    hd_data_release(&r->train);
    hd_data_release(&r->val);
    if (r->opened)
        hd_model_close(&r->m);
    hd_tokenizer_free(r->tok);
    if (r->be.self)
        hd_backend_cpu_free(&r->be);
    hd_pool_free(r->pool);
    hd_train_config_release(&r->c);
    memset(r, 0, sizeof *r);
}

double hd_train_run_done(struct hd_train_run *r)
{
    return hd_schedule_done(&r->c.schedule, r->step, elapsed(r));
}

int hd_train_run_step(struct hd_train_run *r, struct hd_step_result *out, double *lr, struct hd_err *err)
{
    HD_TRY(round_when_due(r, err));
    while (r->trainer.n_tok < r->c.step_tokens) {
        int64_t before = r->trainer.n_tok;

        if (r->c.task.n_stage) {
            r->trainer.hp.index_dense = r->c.hp.index_dense && !r->c.task.stage[r->c.task.at].sparse;
            HD_TRY(hd_curriculum_next(&r->c.task, r->step, r->trainer.n_batch, r->c.hp.batch_tokens, r->loader.max_seq, &r->batch, err));
        } else {
            HD_TRY(hd_loader_next(&r->loader, &r->batch, false, err));
        }
        if (r->c.teacher)
            HD_TRY(hd_teacher_ask(&r->teacher, &r->batch, err));
        HD_TRY(hd_trainer_batch(&r->trainer, &r->batch, err));
        if (r->c.step_tokens - r->trainer.n_tok < (r->trainer.n_tok - before) / 2)
            break;                                    /* nearer to what was asked for than one batch more */
    }
    *lr = hd_schedule_lr(&r->c.schedule, r->step, elapsed(r));
    HD_TRY(hd_trainer_update(&r->trainer, *lr, r->c.bias_follows ? *lr / r->c.schedule.lr : 1, out, err));
    r->step++;
    hd_average_update(&r->average, &r->trainer.ps, r->step, r->pool);
    r->n_tok += out->n_tok;
    if (r->c.task.n_stage)
        hd_curriculum_took(&r->c.task, out->sure);
    r->smooth = r->step == 1 ? out->loss : SMOOTH * r->smooth + (1 - SMOOTH) * out->loss;
    return HD_OK;
}

int hd_train_run_eval(struct hd_train_run *r, struct hd_eval_result *out, struct hd_err *err)
{
    struct hd_balance *seen = &r->trainer.seen;
    struct hd_loader l;
    double sum = 0, part;
    int64_t n = 0, k;
    bool first = true;
    int rc;

    HD_TRY(round_when_due(r, err));
    hd_balance_release(seen);
    HD_TRY(hd_loader_init(&l, &r->val, r->c.hp.context, r->c.hp.batch_tokens, 0, false, err));
    do {
        rc = hd_loader_next(&l, &r->batch, true, err);
        if (rc == HD_OK && r->batch.n_tok)
            rc = hd_trainer_eval(&r->trainer, &r->batch, &part, &k, err);
        if (rc == HD_OK && first)
            rc = hd_trainer_gain(&r->trainer, &r->batch, &r->gain, err);
        first = false;
        if (rc == HD_OK && r->batch.n_tok) {
            sum += part;
            n += k;
        }
    } while (rc == HD_OK && r->batch.n_tok);
    hd_loader_release(&l);
    HD_TRY(rc);
    *out = (struct hd_eval_result){.loss = sum / (double)n, .max_vio = hd_balance_vio(seen, false)};
    out->bits_per_byte = r->val.n_bytes ? sum / log(2) / (double)r->val.n_bytes * (double)r->val.n / (double)n : 0;
    return HD_OK;
}

static int save_native(const struct hd_train_run *r, struct hd_err *err)
{
    char *dir = hd_path_join(r->c.out, "native");
    int rc = dir ? hd_model_dir_others(dir, r->c.out, false, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");

    if (rc == HD_OK)
        rc = hd_quant_write(&r->trainer.ps, dir, err);
    hd_free(dir);
    return rc;
}

static int save_average(struct hd_train_run *r, struct hd_err *err)
{
    char *dir = hd_path_join(r->c.out, "ema");
    int rc;

    if (!dir)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");
    hd_average_swap(&r->average, &r->trainer.ps);
    rc = hd_model_dir_write(dir, r->c.out, &r->trainer.ps, HD_F32, err);
    hd_average_swap(&r->average, &r->trainer.ps);
    hd_free(dir);
    return rc;
}

int hd_train_run_save(struct hd_train_run *r, bool best, struct hd_err *err)
{
    char *path = best ? hd_path_join(r->c.out, "best") : NULL;
    int rc = hd_model_dir_write(r->c.out, r->c.out, &r->trainer.ps, HD_F32, err);

    if (rc == HD_OK && best)
        rc = path ? hd_model_dir_write(path, r->c.out, &r->trainer.ps, HD_F32, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");
    hd_free(path);
    if (rc == HD_OK && r->c.qat)
        rc = save_native(r, err);
    if (rc == HD_OK && r->average.w)
        rc = save_average(r, err);
    return rc < 0 ? rc : save_state(r, err);
}
