/* curriculum.c: see curriculum.h. */
#include "train/curriculum.h"

#include <string.h>

#define SMOOTH 0.97

/* The project's measured recipe: starting longer or with more symbols, the model stays at chance for a long time. */
static const struct hd_stage usual[] = {{{16, 2, 2, 16, 16}, 0.95, false},      {{32, 4, 4, 16, 16}, 0.95, false},      {{32, 4, 4, 64, 64}, 0.95, false},
                                        {{64, 8, 5, 256, 256}, 0.95, false},    {{64, 6, 6, 256, 256}, 0.97, false},    {{128, 14, 14, 256, 256}, 0.98, false},
                                        {{256, 30, 30, 256, 256}, 0.985, false}, {{512, 62, 62, 256, 256}, 0.985, false}, {{1024, 126, 126, 256, 256}, 2, false}};

static int read_stage(struct hd_stage *s, const json_t *j, const struct hd_recall *task, int64_t context, const char *f, struct hd_err *err)
{
    struct hd_recall_size *n = &s->size;

    HD_TRY(hd_json_int(j, "length", 8, context, &n->n_tok, f, err));
    HD_TRY(hd_json_int(j, "records", 1, n->n_tok, &n->n_record, f, err));
    HD_TRY(hd_json_int_or(j, "queries", 1, n->n_record, n->n_record, &n->n_query, f, err));
    HD_TRY(hd_json_int_or(j, "symbols", 2, task->n_symbol, task->n_symbol, &n->n_symbol, f, err));
    HD_TRY(hd_json_int_or(j, "key_symbols", 2, n->n_symbol, n->n_symbol, &n->n_key, f, err));
    HD_TRY(hd_json_real_or(j, "accuracy", 0, 2, 2, &s->accuracy, f, err));
    return hd_json_bool_or(j, "sparse", false, &s->sparse, f, err);
}

int hd_curriculum_read(struct hd_curriculum *c, const json_t *j, int64_t context, uint64_t seed, const char *f, struct hd_err *err)
{
    const json_t *stages = json_object_get(j, "stages");
    struct hd_recall_size *n;

    memset(c, 0, sizeof *c);
    c->seed = seed;
    if (!j)
        return HD_OK;
    HD_TRY(hd_json_int_or(j, "symbols", 2, 65536, 256, &c->task.n_symbol, f, err));
    HD_TRY(hd_json_int_or(j, "fillers", 1, 65536, 512, &c->task.n_filler, f, err));
    if (json_array_size(stages) > HD_STAGES)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: task.stages: found %zu; expected at most %d", f, json_array_size(stages), HD_STAGES);
    for (size_t i = 0; i < (stages ? json_array_size(stages) : HD_LEN(usual)); i++, c->n_stage++) {
        struct hd_stage *s = &c->stage[i];

        *s = usual[i % HD_LEN(usual)];
        if (stages && read_stage(s, json_array_get(stages, i), &c->task, context, f, err) < 0)
            return hd_err_prepend(err, "task.stages: stage %zu", i);
        n = &s->size;
        n->n_symbol = n->n_symbol < c->task.n_symbol ? n->n_symbol : c->task.n_symbol;
        n->n_key = n->n_key < n->n_symbol ? n->n_key : n->n_symbol;
        if (n->n_tok > context || n->n_record > hd_recall_room(n->n_tok, n->n_query) || n->n_record > n->n_key * n->n_key)
            return hd_err_set(err, HD_ERR_FORMAT, "%s: task.stages: stage %zu: %lld records and %lld questions in %lld tokens, keys of %lld symbols; the context is %lld, room is for %lld records", f,
                              i, (long long)n->n_record, (long long)n->n_query, (long long)n->n_tok, (long long)n->n_key, (long long)context, (long long)hd_recall_room(n->n_tok, n->n_query));
    }
    return c->n_stage ? HD_OK : hd_err_set(err, HD_ERR_FORMAT, "%s: task.stages: found none", f);
}

int hd_curriculum_next(const struct hd_curriculum *c, int64_t step, int64_t which, int64_t batch_tokens, int64_t max_seq, struct hd_batch *b, struct hd_err *err)
{
    const struct hd_recall_size *n = &c->stage[c->at].size;
    struct hd_rng rng;

    hd_rng_seed(&rng, (c->seed * 1000003u + (uint64_t)step) * 4099u + (uint64_t)which);
    b->n_tok = b->n_seq = b->n_target = 0;
    b->max_len = n->n_tok;
    while (b->n_tok + n->n_tok <= batch_tokens && b->n_seq < max_seq) {
        HD_TRY(hd_recall_make(&c->task, &rng, n, b->id + b->n_tok, b->target + b->n_tok, NULL, err));
        b->span[b->n_seq++] = (struct hd_span){.tok0 = b->n_tok, .n_tok = n->n_tok};
        for (int64_t i = 0; i < n->n_tok; i++, b->n_tok++) {
            b->pos[b->n_tok] = (int32_t)i;
            b->row[b->n_tok] = (int32_t)b->n_tok;
        }
        b->n_target += n->n_query;
    }
    return HD_OK;
}

void hd_curriculum_took(struct hd_curriculum *c, double accuracy)
{
    c->running = SMOOTH * c->running + (1 - SMOOTH) * accuracy;
    if (c->at + 1 < c->n_stage && c->running >= c->stage[c->at].accuracy) {
        c->at++;
        c->running = 0;
    }
}
