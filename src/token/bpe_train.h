/* bpe_train.h: byte-pair encoding learned from text, as a tokenizer.json that Hugging Face's tokenizers reads with the same ids.
 *
 * Byte-level: words by GPT-2's pattern, ids are the special tokens, then single bytes (all 256, or those that occur), then one id a merge. With no
 * merges at all it is a tokenizer of bytes, or, of text in ASCII, of its characters.
 *
 * Source   Sennrich et al. 2016: merge the most frequent pair of neighbours, again and again; among equals the pair of lowest ids */
#ifndef HD_TOKEN_BPE_TRAIN_H
#define HD_TOKEN_BPE_TRAIN_H

#include <stdbool.h>

#include "base/str.h"
#include "base/err.h"

struct hd_bpe_trainer;

struct hd_bpe_hp {
    int64_t n_vocab;                  /* ids in all; 0: no merges */
    bool used_bytes;                  /* only bytes that occur have ids */
    const char *const *special;
    int n_special;
};

int hd_bpe_trainer_create(struct hd_bpe_trainer **out, struct hd_err *err);
void hd_bpe_trainer_free(struct hd_bpe_trainer *t);
/* Counts the words of a text. Errors: MEMORY. */
int hd_bpe_trainer_add(struct hd_bpe_trainer *t, const char *text, size_t n, struct hd_err *err);
/* Learns and appends the tokenizer.json. *n_vocab: ids that came out, fewer than asked for when no pair is left that occurs twice. Once. Errors: USAGE (n_vocab
 * below bytes and special tokens; a special token that stands twice or is a single byte), MEMORY. */
int hd_bpe_trainer_finish(struct hd_bpe_trainer *t, const struct hd_bpe_hp *hp, struct hd_str *json, int64_t *n_vocab, struct hd_err *err);

#endif
