/* model.c: opening a model: who it is, then its architecture's own loader. */
#include "model/model.h"

#include <stdio.h>
#include <string.h>

#include "weights/gguf_deepseek.h"

#define HD_ARCH(symbol) extern const struct hd_arch hd_arch_##symbol;
#include "model/arch.def"
#undef HD_ARCH

static const struct hd_arch *const archs[] = {
#define HD_ARCH(symbol) &hd_arch_##symbol,
#include "model/arch.def"
#undef HD_ARCH
};

const struct hd_arch *hd_arch_find(const char *name)
{
    for (int i = 0; i < HD_LEN(archs); i++)
        if (!strcmp(archs[i]->name, name))
            return archs[i];
    return NULL;
}

static int find_arch(struct hd_model *m, struct hd_err *err)
{
    bool gguf = m->store.kind == HD_STORE_GGUF;
    const char *field = gguf ? "general.architecture" : "model_type", *json_name = NULL;
    char name[64] = "", known[200] = "";
    struct hd_view v;

    if (gguf)
        HD_TRY(hd_gguf_deepseek_config(&m->store, err));
    if (!m->store.config) {
        if (hd_gguf_str(&m->store, field, &v) && v.n < sizeof name)
            memcpy(name, v.p, v.n);
    } else {
        HD_TRY(hd_json_str_or(m->store.config, "model_type", "", &json_name, m->store.config_path, err));
        snprintf(name, sizeof name, "%s", json_name);
    }
    if ((m->arch = hd_arch_find(name)))
        return HD_OK;
    for (int i = 0; i < HD_LEN(archs); i++) {
        const char *a = gguf && archs[i]->gguf_name ? archs[i]->gguf_name : archs[i]->name;

        if (a[0])
            snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", known[0] ? ", " : "", a);
    }
    return name[0] ? hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: %s: found \"%s\"; expected one of %s", m->store.config_path, field, name, known)
                   : hd_err_set(err, HD_ERR_FORMAT, "%s: %s: found nothing; expected one of %s", m->store.config_path, field, known);
}

static int open_once(struct hd_model *m, const char *path, enum hd_kv kv, int flags, struct hd_err *err)
{
    int rc;

    memset(m, 0, sizeof *m);
    hd_arena_init(&m->arena, 0);
    HD_TRY(hd_store_open(&m->store, path, flags & ~(HD_MODEL_DRAFT | HD_MODEL_LEARN), err));
    m->kv = kv;
    m->wants_draft = flags & HD_MODEL_DRAFT;
    m->wants_learn = flags & HD_MODEL_LEARN;
    m->planned = (flags & HD_STORE_PLAN) && m->store.n_entry == 0;
    if ((rc = find_arch(m, err)) < 0 || (rc = m->arch->load(m, err)) < 0) {
        hd_gguf_deepseek_explain(&m->store, err);
        hd_model_close(m);
    }
    return rc;
}

int hd_model_open(struct hd_model *m, const char *path, enum hd_kv kv, int flags, struct hd_err *err)
{
    struct hd_err why = {0};

    if (!(flags & HD_MODEL_DRAFT_IF_WHOLE))
        return open_once(m, path, kv, flags, err);
    flags &= ~HD_MODEL_DRAFT_IF_WHOLE;
    if (open_once(m, path, kv, flags | HD_MODEL_DRAFT, &why) == HD_OK)
        return HD_OK;
    HD_TRY(open_once(m, path, kv, flags, err));       /* fails likewise where it is not the module's fault */
    snprintf(m->draft_note, sizeof m->draft_note, "%.399s", why.msg);
    return HD_OK;
}

void hd_model_close(struct hd_model *m)
{
    hd_store_close(&m->store);
    hd_arena_release(&m->arena);
    memset(m, 0, sizeof *m);
}

static void count(void *arg, const struct hd_tensor *w)
{
    struct hd_counts *c = arg;

    c->total += hd_elems(w);
    c->bytes += hd_tensor_bytes(w) + (w->scale.n_row ? w->scale.n_row * hd_row_bytes(w->scale.type, w->scale.n_col) : 0);
    c->n_tensor += 1 + (w->scale.n_row > 0);
}

void hd_model_count(const struct hd_model *m, struct hd_counts *c)
{
    struct hd_counts aside = {0};

    memset(c, 0, sizeof *c);
    m->arch->each_weight(m, count, c);
    if (m->arch->each_aside)
        m->arch->each_aside(m, count, &aside);
    c->aside = aside.total;
    c->aside_bytes = aside.bytes;
    c->n_tensor += aside.n_tensor;
    c->active = c->total - (m->arch->n_idle ? m->arch->n_idle(m) : 0);
}
