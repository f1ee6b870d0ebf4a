/* engine_inside.h: what plan.c (what an engine will need) and engine.c (that runs it) share. */
#ifndef HD_ENGINE_ENGINE_INSIDE_H
#define HD_ENGINE_ENGINE_INSIDE_H

#include "engine/engine.h"

/* n_ctx and chunk, where they are 0. */
void hd_engine_defaults(struct hd_engine_options *o, const struct hd_model *m);

/* Runs the model dry over one span: n_tok tokens from pos0, logits for n_out of them. meet: who is told of the weights met, or NULL. */
int hd_engine_dry_run(const struct hd_model *m, enum hd_exact exact, int64_t pos0, int64_t n_tok, int64_t n_out, struct hd_cost *cost, const struct hd_meet *meet, struct hd_err *err);
/* The draft module over n_row rows of as many sequences as take them; meet as above. */
int hd_engine_dry_draft(const struct hd_model *m, enum hd_exact exact, int64_t pos0, int64_t n_row, struct hd_cost *cost, const struct hd_meet *meet, struct hd_err *err);

/* any_chunk: o->chunk is nobody's wish, and may grow. *x: the experts' directory where not everything fits, else NULL; the caller frees it. */
int hd_engine_make_plan(const struct hd_model *m, struct hd_engine_options *o, bool any_chunk, int64_t n_seq, struct hd_plan *plan, struct hd_experts **x, struct hd_err *err);
/* MEMORY, with what the plan wanted and what there is. */
int hd_engine_no_memory(const struct hd_plan *p, const struct hd_engine_options *o, struct hd_err *err);

#endif
