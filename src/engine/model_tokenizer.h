/* model_tokenizer.h: the tokenizer that belongs to a model: a directory's tokenizer.json, or a GGUF file's metadata. */
#ifndef HD_ENGINE_MODEL_TOKENIZER_H
#define HD_ENGINE_MODEL_TOKENIZER_H

#include "token/token.h"

/* Needs no weights. Errors: whatever the files say. Free with hd_tokenizer_free(). */
int hd_model_tokenizer(struct hd_tokenizer **out, const char *model, struct hd_err *err);

#endif
