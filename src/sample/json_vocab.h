/* json_vocab.h: what constraints know of each token of a vocabulary: what kind it is, and all of them as a trie over their bytes.
 *
 * Threads  written once, then read by any
 */
#ifndef HD_SAMPLE_JSON_VOCAB_H
#define HD_SAMPLE_JSON_VOCAB_H

#include "base/err.h"
#include "token/token.h"

/* PLAIN: whole printable characters without " \\ and <: inside a text they mean nothing but themselves. NEVER: markers, and ids without text. */
enum hd_token_class { HD_TOKEN_NEVER, HD_TOKEN_PLAIN, HD_TOKEN_OTHER, HD_TOKEN_END };

/* Nodes in depth-first order: what two tokens begin with is walked once, and what begins with a byte that may not come is skipped at once. */
struct hd_token_node {
    uint32_t end;                     /* the first node that is not below this one */
    int32_t id;                       /* of the token that ends here, -1: none */
    uint16_t depth;                   /* bytes before this one */
    uint8_t byte;
};

struct hd_token_trie {
    struct hd_token_node *node;
    size_t n, cap;
};

#define HD_PLAIN_CHARS 16

struct hd_json_vocab {
    const struct hd_tokenizer *tok;
    int64_t n;
    uint8_t *class;
    struct hd_token_trie all, other;  /* PLAIN and OTHER; OTHER */
    size_t n_word;                    /* of a mask over the vocabulary, a bit an id */
    uint64_t *end;                    /* END */
    uint64_t *plain[HD_PLAIN_CHARS + 1];      /* PLAIN of at most so many characters; the last one: all of them */
    struct hd_plain_long {
        int32_t id, n_char;
    } *plain_long;                    /* of more than HD_PLAIN_CHARS */
    size_t n_plain_long, cap_plain_long;
    int64_t plain_max;                /* characters of the longest */
    int32_t byte[256];                /* the token that is this one byte, -1: none */
    bool spells;                      /* each byte of printable UTF-8 has a token: what may come by bytes can be said */
};

#define HD_TOKEN_BYTES 1024           /* of the longest token that is ever offered */

/* Once for a tokenizer, which outlives it. Errors: MEMORY. */
int hd_json_vocab_create(struct hd_json_vocab **out, const struct hd_tokenizer *t, struct hd_err *err);
void hd_json_vocab_free(struct hd_json_vocab *v);

/* Anything but an end may come. */
void hd_json_vocab_go_on(const struct hd_json_vocab *v, float *logits, int64_t n_vocab);
/* Only what has its bit set may come; mask[n_word]. */
void hd_json_vocab_mask(const struct hd_json_vocab *v, const uint64_t *mask, float *logits, int64_t n_vocab);

#endif
