/* model_dir.c: see model_dir.h. */
#include "train/model_dir.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "weights/safetensors_write.h"

int hd_make_dir(const char *dir, struct hd_err *err)
{
    if (mkdir(dir, 0777) && errno != EEXIST)
        return hd_err_set(err, HD_ERR_IO, "%s: cannot be made: %s", dir, strerror(errno));
    return hd_file_is_dir(dir) ? HD_OK : hd_err_set(err, HD_ERR_IO, "%s: is no directory", dir);
}

int hd_write_file(const char *dir, const char *name, const void *p, size_t n, struct hd_err *err)
{
    char *path = hd_path_join(dir, name);
    struct hd_out out;
    int rc = path ? hd_out_open(&out, path, err) : hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");

    if (rc == HD_OK) {
        hd_out_write(&out, p, n);
        rc = hd_out_commit(&out, err);
    }
    hd_free(path);
    return rc;
}

int hd_write_json(const char *dir, const char *name, const json_t *j, struct hd_err *err)
{
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    int rc = text ? hd_write_file(dir, name, text, strlen(text), err) : hd_err_set(err, HD_ERR_MEMORY, "%s: no memory", name);

    hd_free(text);                    /* jansson allocates through base/mem.h */
    return rc;
}

/* ---- a new one ---- */

struct job {
    struct hd_st_writer w;
    struct hd_param_init init;
    float *buf;                       /* a row */
    int64_t widest;                   /* of the rows */
    bool no_memory;
};

static enum hd_dtype type_of(const struct hd_tensor *t)
{
    return t->type == HD_I32 || t->type == HD_I64 ? HD_I64 : HD_F32;
}

static void declare(void *arg, const struct hd_tensor *t)
{
    struct job *j = arg;

    hd_st_writer_declare(&j->w, t->name, type_of(t), t->n_dim, t->dim);
}

static void write_one(void *arg, const struct hd_tensor *t)
{
    struct job *j = arg;
    int64_t n = hd_elems(t);
    size_t bytes = (size_t)n * (type_of(t) == HD_I64 ? 8 : 4);
    void *p = j->no_memory ? NULL : hd_malloc(bytes);

    if (!p) {
        j->no_memory = true;
        return;
    }
    if (type_of(t) == HD_I64)
        hd_param_init_table(&j->init, n, hd_cols(t), p);
    else
        hd_param_init(&j->init, t, p);
    hd_st_writer_data(&j->w, p, bytes);
    hd_free(p);
}

static int write_new(const struct hd_model *m, const char *dir, double std, uint64_t seed, struct hd_err *err)
{
    char *path = hd_path_join(dir, "model.safetensors");
    const json_t *text = json_object_get(m->store.config, "text_config"), *experts = json_object_get(json_is_object(text) ? text : m->store.config, "n_routed_experts");
    struct job j = {.init = {.std = std, .n_layer = m->hp.n_layer, .n_choice = json_integer_value(experts) > 0 ? json_integer_value(experts) : 1}};
    int rc;

    if (!path)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");
    hd_rng_seed(&j.init.rng, seed);
    hd_st_writer_init(&j.w);
    hd_params_each(m, declare, &j);
    rc = hd_st_writer_begin(&j.w, path, err);
    hd_free(path);
    HD_TRY(rc);
    hd_params_each(m, write_one, &j);
    if (j.no_memory) {
        hd_st_writer_abort(&j.w);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a weight");
    }
    return hd_st_writer_commit(&j.w, err);
}

/* Weights of an earlier run must not be bound to the new config. */
static void forget(const char *dir, const char *name)
{
    char *path = hd_path_join(dir, name);

    if (path)
        remove(path);
    hd_free(path);
}

static int write_generation(const char *dir, const json_t *config, struct hd_err *err)
{
    json_t *g = json_object();
    int rc;

    for (int i = 0; i < 3; i++) {
        static const char *const key[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
        json_t *v = json_object_get(config, key[i]);

        if (v)
            json_object_set(g, key[i], v);
    }
    json_object_set_new(g, "do_sample", json_true());
    rc = hd_write_json(dir, "generation_config.json", g, err);
    json_decref(g);
    return rc;
}

int hd_model_dir_create(const char *dir, const json_t *config, double init_std, uint64_t seed, struct hd_err *err)
{
    struct hd_model m;
    int rc;

    HD_TRY(hd_make_dir(dir, err));
    forget(dir, "model.safetensors");
    HD_TRY(hd_write_json(dir, "config.json", config, err));
    HD_TRY(write_generation(dir, config, err));
    HD_TRY(hd_model_open(&m, dir, HD_KV_F32, HD_STORE_PLAN | HD_MODEL_LEARN, err));
    rc = write_new(&m, dir, init_std, seed, err);
    hd_model_close(&m);
    return rc;
}

/* ---- another model's weights ---- */

static void write_decoded(void *arg, const struct hd_tensor *t)
{
    struct job *j = arg;
    int64_t n = hd_cols(t);

    for (int64_t r = 0; r < hd_rows(t); r++) {
        const char *row = (const char *)t->data + r * t->row_bytes;
        int64_t *whole = (int64_t *)j->buf;

        if (type_of(t) == HD_F32)
            hd_decode_row(t->type, t->data, t->row_bytes, t->scale.data ? &t->scale : NULL, r, n, j->buf);
        for (int64_t i = 0; i < n && type_of(t) == HD_I64; i++)
            whole[i] = t->type == HD_I64 ? ((const int64_t *)row)[i] : ((const int32_t *)row)[i];
        hd_st_writer_data(&j->w, j->buf, (size_t)n * (type_of(t) == HD_I64 ? 8 : 4));
    }
}

static void widest(void *arg, const struct hd_tensor *t)
{
    struct job *j = arg;

    j->widest = hd_cols(t) > j->widest ? hd_cols(t) : j->widest;
}

static int write_taken(const struct hd_model *m, const char *dir, struct hd_err *err)
{
    char *path = hd_path_join(dir, "model.safetensors");
    struct job j = {.widest = 1};
    int rc;

    hd_params_each(m, widest, &j);
    j.buf = hd_malloc((size_t)j.widest * sizeof(int64_t));
    if (!path || !j.buf) {
        hd_free(path);
        hd_free(j.buf);
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a row of weights");
    }
    hd_st_writer_init(&j.w);
    hd_params_each(m, declare, &j);
    rc = hd_st_writer_begin(&j.w, path, err);
    if (rc == HD_OK) {
        hd_params_each(m, write_decoded, &j);
        rc = hd_st_writer_commit(&j.w, err);
    }
    hd_free(path);
    hd_free(j.buf);
    return rc;
}

int hd_model_dir_take(const char *dir, const char *from, struct hd_err *err)
{
    struct hd_model m;
    int rc;

    if (!hd_file_is_dir(from))
        return hd_err_set(err, HD_ERR_USAGE, "%s: is no directory; weights to begin with are read from a directory with config.json and *.safetensors", from);
    HD_TRY(hd_model_open(&m, from, HD_KV_F32, HD_MODEL_LEARN, err));
    rc = write_taken(&m, dir, err);
    hd_model_close(&m);
    return rc;
}

/* ---- a trained one ---- */

static int copy_file(const char *dir, const char *from, const char *name, struct hd_err *err)
{
    char *path = hd_path_join(from, name), *data = NULL;
    size_t n = 0;
    int rc = HD_OK;

    if (!path)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");
    if (hd_file_exists(path) && (rc = hd_file_read(path, (size_t)1 << 30, &data, &n, err)) == HD_OK)
        rc = hd_write_file(dir, name, data, n, err);
    hd_free(data);
    hd_free(path);
    return rc;
}

static enum hd_dtype stored_as(const struct hd_param *p, enum hd_dtype type)
{
    return p->t->type != HD_F32 ? p->t->type : p->kind == HD_PARAM_VECTOR || p->kind == HD_PARAM_BALANCE ? HD_F32 : type;
}

static int write_weights(const char *path, const struct hd_params *ps, enum hd_dtype type, struct hd_err *err)
{
    struct hd_st_writer w;
    uint16_t piece[1024];

    hd_st_writer_init(&w);
    for (int i = 0; i < ps->n; i++)
        hd_st_writer_declare(&w, ps->p[i].name, stored_as(&ps->p[i], type), ps->p[i].t->n_dim, ps->p[i].t->dim);
    HD_TRY(hd_st_writer_begin(&w, path, err));
    for (int i = 0; i < ps->n; i++) {
        const struct hd_param *p = &ps->p[i];

        if (stored_as(p, type) != HD_BF16) {
            hd_st_writer_data(&w, p->w ? p->w : p->t->data, (size_t)hd_tensor_bytes(p->t));
            continue;
        }
        for (int64_t k = 0; k < p->n; k += 1024) {
            int64_t n = p->n - k < 1024 ? p->n - k : 1024;

            hd_encode_row(HD_BF16, p->w + k, n, piece);
            hd_st_writer_data(&w, piece, (size_t)n * 2);
        }
    }
    return hd_st_writer_commit(&w, err);
}

int hd_model_dir_others(const char *dir, const char *from, bool config, struct hd_err *err)
{
    static const char *const others[] = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "recall.json"};
    int rc = hd_make_dir(dir, err);

    for (int i = config ? 0 : 1; i < HD_LEN(others) && rc == HD_OK && strcmp(dir, from); i++)
        rc = copy_file(dir, from, others[i], err);
    return rc;
}

int hd_model_dir_write(const char *dir, const char *from, const struct hd_params *ps, enum hd_dtype type, struct hd_err *err)
{
    char *path = hd_path_join(dir, "model.safetensors");
    int rc = path ? HD_OK : hd_err_set(err, HD_ERR_MEMORY, "no memory for a path");

    if (rc == HD_OK)
        rc = hd_model_dir_others(dir, from, true, err);
    if (rc == HD_OK)
        rc = write_weights(path, ps, type, err);
    hd_free(path);
    return rc;
}
