/* model_dir.h: a model directory as Hugging Face has them: made from a config.json, and written again with trained weights.
 *
 * DIR holds config.json, model.safetensors, generation_config.json and, where there is a tokenizer, tokenizer.json. Every file appears complete or
 * not at all (base/file.h). */
#ifndef HD_TRAIN_MODEL_DIR_H
#define HD_TRAIN_MODEL_DIR_H

#include <jansson.h>

#include "train/param.h"

/* DIR/config.json and DIR/model.safetensors in f32, initialised from the architecture's weight list. Overwrites. Errors: FORMAT, IO, MEMORY. */
int hd_model_dir_create(const char *dir, const json_t *config, double init_std, uint64_t seed, struct hd_err *err);

/* DIR/model.safetensors anew, in f32, with the weights of the model in directory `from`: any formats, any number of files. Errors: USAGE (no directory); those of
 * hd_model_open(); IO, MEMORY. */
int hd_model_dir_take(const char *dir, const char *from, struct hd_err *err);

/* DIR (made if need be) gets the weights in type (F32 or BF16; vectors stay f32), and copies of `from`'s other files. */
int hd_model_dir_write(const char *dir, const char *from, const struct hd_params *ps, enum hd_dtype type, struct hd_err *err);

/* DIR (made if need be) gets copies of `from`'s other files: tokenizer and the like, with or without config.json. */
int hd_model_dir_others(const char *dir, const char *from, bool config, struct hd_err *err);

int hd_write_json(const char *dir, const char *name, const json_t *j, struct hd_err *err);
int hd_write_file(const char *dir, const char *name, const void *p, size_t n, struct hd_err *err);
int hd_make_dir(const char *dir, struct hd_err *err);

#endif
