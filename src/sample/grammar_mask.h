/* grammar_mask.h: which tokens keep what is generated inside a grammar.
 *
 * All ways through the grammar are followed at once; a set of places is interned, its steps and its mask over the vocabulary are remembered,
 * so that a known set costs a pass over the mask. For a new one the vocabulary's trie is walked; where any text may stand, plain tokens
 * are allowed by their length (json_vocab.h) and only the others are walked.
 *
 * It may stand behind reasoning, and behind a marker that begins it:  reasoning ... </think> text ... MARKER grammar  end
 *
 * Everything is bounded: places in a set, sets, and work for one mask. Beyond a bound some ways are given up, never all of them: what is
 * written still fits the grammar, and single bytes are looked at first, so that something may always come.
 *
 * Threads  a mask belongs to the runner's; the grammar and the vocabulary are read
 */
#ifndef HD_SAMPLE_GRAMMAR_MASK_H
#define HD_SAMPLE_GRAMMAR_MASK_H

#include "sample/grammar.h"
#include "sample/json_vocab.h"

struct hd_grammar_mask;

/* Text is free until the marker comes, and may end without it. */
struct hd_grammar_trigger {
    int32_t marker;
    int before;                       /* the byte that the marker must stand behind; -1: any */
    int32_t never;                    /* a marker that may not come in the text; -1: none */
};

/* Holds g. behind: the id that the grammar stands behind (the end of reasoning); -1: it begins at once. trigger: or NULL; copied. Errors: MEMORY;
 * UNSUPPORTED (not every byte has a token). */
int hd_grammar_mask_create(struct hd_grammar_mask **out, struct hd_grammar *g, const struct hd_json_vocab *v, int32_t behind, const struct hd_grammar_trigger *trigger, struct hd_err *err);

/* The functions of an hd_constraint; self is the mask. */
void hd_grammar_mask_apply(void *self, float *logits, int64_t n_vocab);
void hd_grammar_mask_take(void *self, int32_t id);
void hd_grammar_mask_free(void *self);

/* For tests and measurements: is what was taken whole, the bytes that are held, and how many masks were made so far. */
int64_t hd_grammar_mask_known(const struct hd_grammar_mask *m);
bool hd_grammar_mask_whole(const struct hd_grammar_mask *m);
int64_t hd_grammar_mask_bytes(const struct hd_grammar_mask *m);

#endif
