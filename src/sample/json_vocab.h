/* json_vocab.h: what constraints know of each token of a vocabulary: what kind it is, and all of them in the order of their bytes.
 *
 * Threads  written once, then read by any
 */
#ifndef HD_SAMPLE_JSON_VOCAB_H
#define HD_SAMPLE_JSON_VOCAB_H

#include "base/err.h"
#include "token/token.h"

/* PLAIN: whole characters that mean nothing inside a string. NEVER: markers, and ids without text. */
enum hd_token_class { HD_TOKEN_NEVER, HD_TOKEN_PLAIN, HD_TOKEN_OTHER, HD_TOKEN_END };

/* Tokens sorted by their bytes: what two neighbours begin with is walked once. */
struct hd_token_order {
    int64_t n;
    int32_t *id;
    uint16_t *common;                 /* bytes shared with the one before */
};

struct hd_json_vocab {
    const struct hd_tokenizer *tok;
    int64_t n;
    uint8_t *class, *first;           /* first: its first byte */
    struct hd_token_order order;      /* PLAIN and OTHER */
    int32_t byte[256];                /* the token that is this one byte, -1: none */
    bool spells;                      /* each byte of printable UTF-8 has a token: what may come by bytes can be said */
    int64_t len_max;
};

/* Once for a tokenizer, which outlives it. Errors: MEMORY. */
int hd_json_vocab_create(struct hd_json_vocab **out, const struct hd_tokenizer *t, struct hd_err *err);
void hd_json_vocab_free(struct hd_json_vocab *v);

/* Anything but an end may come. */
void hd_json_vocab_go_on(const struct hd_json_vocab *v, float *logits, int64_t n_vocab);

#endif
