/* train_config.c: see train_config.h. */
#include "train/train_config.h"

#include <glob.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "train/ngram_loss.h"
#include "train/teacher.h"

#define CONFIG_MAX ((size_t)1 << 24)

static const char *const known[] = {"model", "out", "tokenizer", "bpe_vocab", "special_tokens", "init", "data", "context", "batch_tokens", "step_tokens", "steps", "optimizer", "schedule", "balance", "indexer", "draft", "task", "qat",
                                    "init_std", "seed", "ngram", "eval_every", "save_every", "log_every", "sample", "recompute", "z_loss", "precision", "teacher"};
static const char *const known_data[] = {"train", "val", "val_part", "targets", "stream"};
static const char *const known_optim[] = {"name", "lr", "betas", "eps", "weight_decay", "momentum", "ns_steps", "table_lr", "clip", "muon_experts", "muon_heads", "ema"};
static const char *const known_schedule[] = {"name", "warmup", "last", "decay", "minutes"};
static const char *const known_balance[] = {"bias_speed", "loss", "rule", "follow_lr"};
static const char *const known_indexer[] = {"weight", "dense"};
static const char *const known_draft[] = {"weight", "confidence"};
static const char *const known_qat[] = {"from", "quantization"};
static const char *const known_task[] = {"symbols", "fillers", "stages"};
static const char *const known_teacher[] = {"model", "share", "top"};
static const char *const known_sample[] = {"tokens", "prompt"};

/* A misspelt field would be a default that nobody asked for. */
static int check_keys(const json_t *o, const char *const *keys, int n, const char *what, const char *file, struct hd_err *err)
{
    const char *key;
    json_t *v;

    if (o && !json_is_object(o))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: %s: expected an object", file, what);
    json_object_foreach((json_t *)o, key, v)
    {
        int i = 0;

        while (i < n && strcmp(keys[i], key))
            i++;
        if (i == n)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: %s%s%.60s: no such field", file, what, *what ? "." : "", key);
    }
    return HD_OK;
}

/* A path, or what a pattern stands for, in the order of names. */
static int add_paths(json_t *list, const char *path, const char *key, const char *file, struct hd_err *err)
{
    glob_t g;
    int rc;

    if (!strpbrk(path, "*?[") || hd_file_exists(path)) {
        json_array_append_new(list, json_string(path));
        return HD_OK;
    }
    rc = glob(path, 0, NULL, &g);
    for (size_t i = 0; rc == 0 && i < g.gl_pathc; i++)
        json_array_append_new(list, json_string(g.gl_pathv[i]));
    if (rc == 0)
        globfree(&g);
    return rc == 0 ? HD_OK : hd_err_set(err, HD_ERR_IO, "%s: data.%s: \"%.200s\" matches no file", file, key, path);
}

/* data.KEY as a list, patterns as what they stand for: so it is kept with the run. */
static int files(json_t *data, const char *key, const char **out, int *n, const char *file, struct hd_err *err)
{
    json_t *v = json_object_get(data, key), *list, *e;
    int rc = HD_OK;
    size_t i;

    if (!v)
        return HD_OK;
    if (!(list = json_array()))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", file);
    if (json_is_string(v))
        rc = add_paths(list, json_string_value(v), key, file, err);
    else if (!json_is_array(v))
        rc = hd_err_set(err, HD_ERR_FORMAT, "%s: data.%s: expected a path or a list of paths", file, key);
    json_array_foreach(v, i, e)
        if (rc == HD_OK)
            rc = json_is_string(e) ? add_paths(list, json_string_value(e), key, file, err)
                                   : hd_err_set(err, HD_ERR_FORMAT, "%s: data.%s: expected a path or a list of paths", file, key);
    if (rc == HD_OK && json_array_size(list) > HD_MAX_DATA)
        rc = hd_err_set(err, HD_ERR_FORMAT, "%s: data.%s: found %zu paths; expected at most %d", file, key, json_array_size(list), HD_MAX_DATA);
    if (rc < 0) {
        json_decref(list);
        return rc;
    }
    json_object_set_new(data, key, list);
    json_array_foreach(list, i, e)
        out[(*n)++] = json_string_value(e);
    return HD_OK;
}

static int read_model(struct hd_train_config *c, const char *file, struct hd_err *err)
{
    json_t *m = json_object_get(c->json, "model");
    char *inside = NULL;

    if (json_is_object(m)) {
        c->model = json_deep_copy(m);
        return HD_OK;
    }
    if (!json_is_string(m))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: model: expected a config.json, its path or its directory", file);
    if (hd_file_is_dir(json_string_value(m)) && !(inside = hd_path_join(json_string_value(m), "config.json")))
        return hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", file);
    c->model = hd_json_read(inside ? inside : json_string_value(m), CONFIG_MAX, err);
    hd_free(inside);
    return c->model ? HD_OK : err->code;
}

static int read_data(struct hd_train_config *c, const char *file, struct hd_err *err)
{
    json_t *d = json_object_get(c->json, "data"), *stream = json_object_get(d, "stream");
    const char *targets;

    HD_TRY(check_keys(d, known_data, HD_LEN(known_data), "data", file, err));
    HD_TRY(files(d, "train", c->train, &c->n_train, file, err));
    HD_TRY(files(d, "val", c->val, &c->n_val, file, err));
    HD_TRY(hd_json_real_or(d, "val_part", 0, 0.9, c->n_val ? 0 : 0.1, &c->val_part, file, err));
    HD_TRY(hd_json_str_or(d, "targets", "answers", &targets, file, err));
    if (strcmp(targets, "answers") && strcmp(targets, "all"))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: data.targets: found \"%.40s\"; expected answers or all", file, targets);
    c->all_targets = !strcmp(targets, "all");
    if (stream && !json_is_boolean(stream) && !(json_is_string(stream) && !strcmp(json_string_value(stream), "auto")))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: data.stream: expected \"auto\", true or false", file);
    c->stream = json_is_true(stream) ? HD_STREAM_ALWAYS : json_is_false(stream) ? HD_STREAM_NEVER : HD_STREAM_AUTO;
    if (json_object_get(c->json, "task")) {
        if (d)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: task makes its own data; expected no \"data\" beside it", file);
        c->val_part = 0;
        return HD_OK;
    }
    if (!c->n_train)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: data.train: found nothing; expected a path or a list of paths", file);
    if (c->n_val && c->val_part > 0)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: data: val names files and val_part takes from training; expected one of them", file);
    return HD_OK;
}

static int read_optim(struct hd_train_config *c, const char *file, struct hd_err *err)
{
    const json_t *o = json_object_get(c->json, "optimizer"), *betas = json_object_get(o, "betas");
    struct hd_optim_hp *hp = &c->hp.optim;
    const char *name;
    int64_t steps;
    bool experts;

    *hp = hd_optim_default;
    HD_TRY(check_keys(o, known_optim, HD_LEN(known_optim), "optimizer", file, err));
    HD_TRY(hd_json_str_or(o, "name", "muon", &name, file, err));
    if (strcmp(name, "muon") && strcmp(name, "adamw"))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: optimizer.name: found \"%.40s\"; expected muon or adamw", file, name);
    hp->muon = !strcmp(name, "muon");
    HD_TRY(hd_json_real_or(o, "lr", 0, 10, hp->muon ? 3e-3 : 1e-3, &c->schedule.lr, file, err));
    HD_TRY(hd_json_real_or(o, "eps", 0, 1, hp->eps, &hp->eps, file, err));
    HD_TRY(hd_json_real_or(o, "weight_decay", 0, 10, hp->decay, &hp->decay, file, err));
    HD_TRY(hd_json_real_or(o, "momentum", 0, 0.9999, hp->momentum, &hp->momentum, file, err));
    HD_TRY(hd_json_real_or(o, "table_lr", 0, 1000, hp->table_lr, &hp->table_lr, file, err));
    HD_TRY(hd_json_real_or(o, "clip", 0, 1e9, hp->clip, &hp->clip, file, err));
    HD_TRY(hd_json_real_or(o, "ema", 0, 0.999999, 0, &c->ema, file, err));
    HD_TRY(hd_json_bool_or(o, "muon_experts", hp->muon_experts, &experts, file, err));
    HD_TRY(hd_json_int_or(o, "ns_steps", 1, 20, hp->ns_steps + hp->ns_last, &steps, file, err));
    hp->muon_experts = experts;
    HD_TRY(hd_json_bool_or(o, "muon_heads", hp->muon_heads, &hp->muon_heads, file, err));
    hp->ns_last = steps < 4 ? 0 : 2;
    hp->ns_steps = (int)steps - hp->ns_last;
    if (betas) {
        hp->beta1 = json_number_value(json_array_get(betas, 0));
        hp->beta2 = json_number_value(json_array_get(betas, 1));
        if (json_array_size(betas) != 2 || !(hp->beta1 >= 0 && hp->beta1 < 1 && hp->beta2 >= 0 && hp->beta2 < 1))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: optimizer.betas: expected two numbers from 0 to below 1", file);
    }
    return HD_OK;
}

static int read_schedule(struct hd_train_config *c, const char *file, struct hd_err *err)
{
    static const char *const names[] = {"constant", "cosine", "wsd"};
    const json_t *s = json_object_get(c->json, "schedule");
    const char *name;
    int k = 0;

    HD_TRY(check_keys(s, known_schedule, HD_LEN(known_schedule), "schedule", file, err));
    HD_TRY(hd_json_str_or(s, "name", "cosine", &name, file, err));
    while (k < HD_LEN(names) && strcmp(names[k], name))
        k++;
    if (k == HD_LEN(names))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: schedule.name: found \"%.40s\"; expected constant, cosine or wsd", file, name);
    c->schedule.kind = (enum hd_schedule_kind)k;
    HD_TRY(hd_json_real_or(s, "minutes", 0, 1e7, 0, &c->schedule.minutes, file, err));
    HD_TRY(hd_json_int(c->json, "steps", 1, (int64_t)1 << 40, &c->schedule.n_step, file, err));
    HD_TRY(hd_json_int_or(s, "warmup", 0, (int64_t)1 << 40, c->schedule.n_step / 20 < 100 ? c->schedule.n_step / 20 : 100, &c->schedule.warmup, file, err));
    HD_TRY(hd_json_real_or(s, "last", 0, 1, 0.1, &c->schedule.last, file, err));
    return hd_json_real_or(s, "decay", 0, 1, 0.2, &c->schedule.decay, file, err);
}

/* What learns beside the logits. */
static int read_learn(struct hd_train_config *c, const char *file, struct hd_err *err)
{
    const json_t *i = json_object_get(c->json, "indexer"), *d = json_object_get(c->json, "draft");
    double *w = c->hp.learn;

    HD_TRY(check_keys(i, known_indexer, HD_LEN(known_indexer), "indexer", file, err));
    HD_TRY(check_keys(d, known_draft, HD_LEN(known_draft), "draft", file, err));
    HD_TRY(hd_json_real_or(i, "weight", 0, 1000, 1, &w[HD_LEARN_INDEX], file, err));
    HD_TRY(hd_json_bool_or(i, "dense", false, &c->hp.index_dense, file, err));
    HD_TRY(hd_json_real_or(c->json, "z_loss", 0, 1000, 0, &w[HD_LEARN_Z], file, err));
    HD_TRY(hd_json_real_or(d, "weight", 0, 1000, 0.3, &w[HD_LEARN_DRAFT], file, err));
    return hd_json_real_or(d, "confidence", 0, 1000, 0.1, &w[HD_LEARN_CONFIDENCE], file, err);
}

static int read_special(struct hd_train_config *c, const char *file, struct hd_err *err)
{
    json_t *list = json_object_get(c->json, "special_tokens"), *v;
    size_t i;

    if (list && (!json_is_array(list) || !json_array_size(list) || json_array_size(list) > HD_MAX_SPECIAL))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: special_tokens: expected a list of 1 to %d strings", file, HD_MAX_SPECIAL);
    json_array_foreach(list, i, v)
    {
        if (!json_string_length(v))
            return hd_err_set(err, HD_ERR_FORMAT, "%s: special_tokens[%zu]: expected a string", file, i);
        c->special[c->n_special++] = json_string_value(v);
    }
    if (!list)
        c->special[c->n_special++] = "<|endoftext|>";
    return HD_OK;
}

/* A bias of the rule of signs moves by all of its speed whatever the gap: DeepSeek's 0.001 is for many thousands of steps. */
static int read_balance(struct hd_train_config *c, const char *file, struct hd_err *err)
{
    const json_t *b = json_object_get(c->json, "balance");
    const char *rule;

    HD_TRY(check_keys(b, known_balance, HD_LEN(known_balance), "balance", file, err));
    HD_TRY(hd_json_str_or(b, "rule", "share", &rule, file, err));
    if (strcmp(rule, "share") && strcmp(rule, "sign"))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: balance.rule: found \"%.40s\"; expected share or sign", file, rule);
    c->hp.bias_sign = !strcmp(rule, "sign");
    HD_TRY(hd_json_real_or(b, "bias_speed", 0, 1, c->hp.bias_sign ? 1e-3 : 3e-2, &c->hp.bias_speed, file, err));
    HD_TRY(hd_json_bool_or(b, "follow_lr", false, &c->bias_follows, file, err));
    return hd_json_real_or(b, "loss", 0, 10, 1e-4, &c->hp.balance, file, err);
}

static int read_recompute(struct hd_train_config *c, const char *file, struct hd_err *err)
{
    const json_t *v = json_object_get(c->json, "recompute");

    c->again_if_needed = !v || (json_is_string(v) && !strcmp(json_string_value(v), "auto"));
    c->hp.again = json_is_true(v);
    return c->again_if_needed || json_is_boolean(v) ? HD_OK : hd_err_set(err, HD_ERR_FORMAT, "%s: recompute: expected \"auto\", true or false", file);
}

static int read_precision(struct hd_train_config *c, const char *file, struct hd_err *err)
{
    const char *name;

    HD_TRY(hd_json_str_or(c->json, "precision", "f32", &name, file, err));
    c->hp.bf16 = !strcmp(name, "bf16");
    if (!c->hp.bf16 && strcmp(name, "f32"))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: precision: found \"%.40s\"; expected f32 or bf16", file, name);
    return HD_OK;
}

static int read_teacher(struct hd_train_config *c, const char *file, struct hd_err *err)
{
    const json_t *t = json_object_get(c->json, "teacher");

    HD_TRY(check_keys(t, known_teacher, HD_LEN(known_teacher), "teacher", file, err));
    HD_TRY(hd_json_str_or(t, "model", NULL, &c->teacher, file, err));
    HD_TRY(hd_json_real_or(t, "share", 0, 1, 0.5, &c->teacher_share, file, err));
    HD_TRY(hd_json_int_or(t, "top", 1, HD_TEACHER_TOP_MAX, 32, &c->teacher_top, file, err));
    return !t || c->teacher ? HD_OK : hd_err_set(err, HD_ERR_FORMAT, "%s: teacher.model: found nothing; expected a model's directory or .gguf file", file);
}

static int read_rest(struct hd_train_config *c, const char *file, struct hd_err *err)
{
    const json_t *j = c->json, *s = json_object_get(j, "sample");
    int64_t seed, ngram;

    HD_TRY(read_learn(c, file, err));
    HD_TRY(read_special(c, file, err));
    HD_TRY(hd_json_str_or(j, "init", NULL, &c->init, file, err));
    c->qat = json_object_get(j, "qat");
    HD_TRY(check_keys(c->qat, known_qat, HD_LEN(known_qat), "qat", file, err));
    HD_TRY(hd_json_real_or(c->qat, "from", 0, 1, 0.8, &c->qat_from, file, err));
    HD_TRY(check_keys(s, known_sample, HD_LEN(known_sample), "sample", file, err));
    HD_TRY(read_balance(c, file, err));
    HD_TRY(read_recompute(c, file, err));
    HD_TRY(read_precision(c, file, err));
    HD_TRY(read_teacher(c, file, err));
    HD_TRY(hd_json_int_or(s, "tokens", 0, 100000, 0, &c->sample_tokens, file, err));
    HD_TRY(hd_json_str_or(s, "prompt", "\n", &c->sample_prompt, file, err));
    HD_TRY(hd_json_str_or(j, "out", NULL, &c->out, file, err));
    HD_TRY(hd_json_str_or(j, "tokenizer", "bytes", &c->tokenizer, file, err));
    HD_TRY(hd_json_int_or(j, "bpe_vocab", 2, 1 << 20, 4096, &c->bpe_vocab, file, err));
    HD_TRY(hd_json_int_or(j, "context", 1, 1 << 20, 256, &c->hp.context, file, err));
    HD_TRY(hd_json_int_or(j, "batch_tokens", c->hp.context, 1 << 24, c->hp.context > 4096 ? c->hp.context : 4096 / c->hp.context * c->hp.context, &c->hp.batch_tokens, file, err));
    HD_TRY(hd_json_int_or(j, "step_tokens", 1, 1 << 30, c->hp.batch_tokens, &c->step_tokens, file, err));
    HD_TRY(hd_json_real_or(j, "init_std", 0, 1, 0.02, &c->init_std, file, err));
    HD_TRY(hd_json_int_or(j, "seed", 0, INT64_MAX / 2000003, 1, &seed, file, err));
    HD_TRY(hd_json_int_or(j, "eval_every", 0, (int64_t)1 << 40, 200, &c->eval_every, file, err));
    HD_TRY(hd_json_int_or(j, "save_every", 0, (int64_t)1 << 40, c->eval_every, &c->save_every, file, err));
    HD_TRY(hd_json_int_or(j, "log_every", 1, (int64_t)1 << 40, 10, &c->log_every, file, err));
    HD_TRY(hd_json_int_or(j, "ngram", 0, HD_NGRAM_ORDER_MAX, 0, &ngram, file, err));
    c->ngram = (int)ngram;
    c->seed = (uint64_t)seed;
    HD_TRY(check_keys(json_object_get(j, "task"), known_task, HD_LEN(known_task), "task", file, err));
    HD_TRY(hd_curriculum_read(&c->task, json_object_get(j, "task"), c->hp.context, c->seed, file, err));
    return c->out ? HD_OK : hd_err_set(err, HD_ERR_FORMAT, "%s: out: found nothing; expected a directory", file);
}

int hd_train_config_read(struct hd_train_config *c, const char *path, struct hd_err *err)
{
    memset(c, 0, sizeof *c);
    if (!(c->json = hd_json_read(path, CONFIG_MAX, err)))
        return err->code;
    HD_TRY(check_keys(c->json, known, HD_LEN(known), "", path, err));
    HD_TRY(read_model(c, path, err));
    HD_TRY(read_data(c, path, err));
    HD_TRY(read_optim(c, path, err));
    HD_TRY(read_schedule(c, path, err));
    return read_rest(c, path, err);
}

void hd_train_config_release(struct hd_train_config *c)
{
    json_decref(c->json);
    json_decref(c->model);
    memset(c, 0, sizeof *c);
}
