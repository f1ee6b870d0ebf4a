/* expert_gather.c: the directory of a model's routed experts, made in a dry run, and how large they are. See experts.h. */
#include <math.h>

#include "base/mem.h"
#include "weights/experts_inside.h"

int hd_experts_create(struct hd_experts **out, bool raw, struct hd_err *err)
{
    struct hd_experts *x = hd_calloc(1, sizeof *x);

    if (!x)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the experts' directory");
    x->raw = raw;
    x->guess[0].worth = x->guess[1].worth = 0.75;
    x->pack.direct = -1;
    *out = x;
    return HD_OK;
}

const struct hd_expert_layer *hd_expert_layer_of(const struct hd_experts *x, const struct hd_tensor *gate)
{
    for (size_t i = 0; i < x->n_layer; i++)
        if (x->layer[i].gate == gate)
            return &x->layer[i];
    return NULL;
}

void hd_experts_meet(void *self, const struct hd_tensor *gate, const struct hd_tensor *up, const struct hd_tensor *down, int64_t n, const struct hd_tensor *route)
{
    struct hd_experts *x = self;
    const struct hd_tensor *all[3] = {gate, up, down};

    if (x->failed || hd_expert_layer_of(x, gate))
        return;
    if (x->n + (size_t)n > INT32_MAX || !HD_GROW(x->layer, x->cap_layer, x->n_layer + 1, SIZE_MAX) || !HD_GROW(x->e, x->cap, x->n + (size_t)n, SIZE_MAX)) {
        x->failed = true;
        return;
    }
    x->layer[x->n_layer] = (struct hd_expert_layer){gate, route, n, (int32_t)x->n};
    for (int64_t i = 0; i < n; i++) {
        struct hd_expert *e = &x->e[x->n++];

        *e = (struct hd_expert){.pack_at = -1, .slot = -1, .layer = (int32_t)x->n_layer, .step = -1, .key = -INFINITY};
        for (int m = 0; m < 3; m++) {
            e->w[m] = (struct hd_tensor *)&all[m][i];         /* the model's own; whoever packs may change where they lie */
            e->data[m] = all[m][i].data;
            e->scale[m] = all[m][i].scale.data;
            if (x->raw || !hd_panels_describe(e->w[m], &e->panels[m]))
                e->panels[m].kind = HD_PANEL_NONE;
        }
    }
    x->n_layer++;
}

void hd_experts_draft(struct hd_experts *x)
{
    x->n_main = x->n_layer;
}

void hd_experts_meet_table(void *self, const struct hd_tensor *w)
{
    struct hd_experts *x = self;

    for (size_t i = 0; i < x->n_table; i++)
        if (x->table[i] == w)
            return;
    if (!HD_GROW(x->table, x->cap_table, x->n_table + 1, SIZE_MAX)) {
        x->failed = true;
        return;
    }
    x->table[x->n_table++] = w;
}

int hd_experts_size(const struct hd_experts *x, struct hd_experts_size *out, struct hd_err *err)
{
    bool unpacked = false;

    *out = (struct hd_experts_size){.n_expert = (int64_t)x->n, .n_layer = (int64_t)x->n_layer};
    if (x->failed)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the experts' directory");
    for (size_t i = 0; i < x->n; i++) {
        int64_t slot = (hd_expert_slot(&x->e[i]) + HD_EXPERT_BLOCK - 1) / HD_EXPERT_BLOCK * HD_EXPERT_BLOCK, buf = hd_expert_buffer(&x->e[i]);

        out->bytes += hd_expert_stored(&x->e[i]);
        out->slot_bytes = slot > out->slot_bytes ? slot : out->slot_bytes;
        out->buffer_bytes = buf > out->buffer_bytes ? buf : out->buffer_bytes;
        unpacked = unpacked || x->e[i].pack_at < 0;
    }
    out->reader_bytes = unpacked ? out->buffer_bytes * HD_EXPERTS_READERS : 0;
    for (size_t i = 0; i < x->n_table; i++)
        out->table_bytes += hd_tensor_bytes(x->table[i]);
    return HD_OK;
}

bool hd_experts_holds(const struct hd_experts *x, const struct hd_tensor *w)
{
    for (size_t i = 0; i < x->n_table; i++)
        if (x->table[i]->data == w->data)
            return true;
    for (size_t l = 0; l < x->n_layer; l++) {
        const struct hd_expert *e = &x->e[x->layer[l].first];

        for (int m = 0; m < 3; m++)
            if (e->data[m] == w->data || (w >= e->w[m] && w < e->w[m] + x->layer[l].n))
                return true;
    }
    return false;
}
