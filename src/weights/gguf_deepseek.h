/* gguf_deepseek.h: the metadata of GGUF's deepseek2, deepseek32 and deepseek4 files under config.json's names, so that the
 * architectures read one kind of configuration whatever the checkpoint lies in.
 *
 * Source   llama.cpp's converter and loader for the keys (gguf-py's constants), the models' config.json for the names
 * Traps    yarn_log_multiplier is a tenth of mscale_all_dim, and mscale itself is not stored; expert_weights_norm is absent where
 *          it is false; block_count includes draft modules when nextn_predict_layers says so; topk_method is not stored
 */
#ifndef HD_WEIGHTS_GGUF_DEEPSEEK_H
#define HD_WEIGHTS_GGUF_DEEPSEEK_H

#include "weights/store.h"

/* Fills st->config when the file is of one of these architectures (otherwise it stays NULL), and sets aside the tensors of
 * draft modules. Errors name GGUF's keys: FORMAT, UNSUPPORTED, MEMORY. */
int hd_gguf_deepseek_config(struct hd_store *st, struct hd_err *err);

/* A message about a field of st->config speaks of GGUF's key instead. */
void hd_gguf_deepseek_explain(const struct hd_store *st, struct hd_err *err);

#endif
