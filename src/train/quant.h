/* quant.h: the formats that DeepSeek publishes weights in, for models trained here: seen while they learn, and written in the end.
 *
 * Math     Training that knows: a step computes with w rounded to its format, the gradient goes to w as if nothing had been rounded (straight through).
 *          fp8: e4m3 in blocks of weight_block_size with a scale 2^ceil(log2(amax / 448)); fp4 (experts): e2m1 in blocks of 32 of a row, 2^ceil(log2(amax / 6));
 *          n-gram tables: fp8 in blocks of 32 of a row; the other matrices bf16; vectors f32
 * Source   the published config.json files (quantization_config) and act_quant kernels; V4's report for the straight-through gradient
 *
 * Which weight has which format is what a plan of the config says (weights/bind.h): one place for reading and writing. */
#ifndef HD_TRAIN_QUANT_H
#define HD_TRAIN_QUANT_H

#include <jansson.h>

#include "base/pool.h"
#include "train/param.h"

/* Makes DIR/config.json, that of `config` with quantization (NULL: fp8 in blocks of 32, experts fp4), and takes every weight's format from a plan of it.
 * Errors: FORMAT (a quantization that is no fp8), IO, MEMORY. */
int hd_quant_plan(struct hd_params *ps, const char *dir, const json_t *config, const json_t *quantization, struct hd_err *err);

/* The model's tensors show rounded weights from now on (hd_quant_round() fills them in), gradients stay where they are; false: the masters again. */
int hd_quant_show(struct hd_params *ps, bool rounded, struct hd_err *err);
void hd_quant_round(struct hd_params *ps, struct hd_pool *pool);

/* DIR/model.safetensors in the planned formats. */
int hd_quant_write(const struct hd_params *ps, const char *dir, struct hd_err *err);

#endif
