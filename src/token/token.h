/* token.h: text to token ids and back: byte-pair encoding as Hugging Face's tokenizer.json and GGUF metadata describe it.
 *
 * Text never turns into special tokens unless the caller says so (HD_TOK_SPECIAL): plain text matches none of the added
 * tokens, special or not. Any bytes can be tokenised; byte-level vocabularies give them back as they were.
 *
 * Source   the tokenizers library's documented behaviour; Sennrich et al. 2016; GPT-2's byte-to-unicode table
 * Traps    a merge's rank is its line, not the merged piece's id; \s of Oniguruma and PCRE2 differ at U+180E
 * Threads  one thread at a time (a word cache is inside)
 */
#ifndef HD_TOKEN_TOKEN_H
#define HD_TOKEN_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

struct hd_tokenizer;

struct hd_ids {
    int32_t *id;
    size_t n, cap;
};
void hd_ids_release(struct hd_ids *ids);

/* Reads DIR/tokenizer.json, and tokenizer_config.json, generation_config.json, config.json where they exist.
 * n_vocab > 0: ids beyond it are an error. Errors: IO, FORMAT, UNSUPPORTED, MEMORY; one line with file and field. */
int hd_tokenizer_open(struct hd_tokenizer **out, const char *dir, int64_t n_vocab, struct hd_err *err);

/* From the bytes of a tokenizer.json alone (tests, fuzzing). what: its name for messages. */
int hd_tokenizer_parse(struct hd_tokenizer **out, const char *json, size_t n, const char *what, int64_t n_vocab, struct hd_err *err);

/* From arrays, as GGUF has them. type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; may be NULL. */
struct hd_vocab_source {
    size_t n_piece, n_merge;
    const struct hd_view *piece;      /* in GPT-2's byte-to-unicode spelling */
    const int32_t *type;
    const struct hd_view *merge;      /* "left right" */
    struct hd_view pre;               /* tokenizer.ggml.pre */
    int64_t bos, eos;                 /* -1: none */
    struct hd_view chat_template;
    const char *model_type;           /* as config.json would name the architecture, where its chat format needs that; may be NULL */
    const char *what;
};
int hd_tokenizer_create(struct hd_tokenizer **out, const struct hd_vocab_source *src, struct hd_err *err);
void hd_tokenizer_free(struct hd_tokenizer *t);

enum { HD_TOK_SPECIAL = 1 };          /* match added tokens in the text, leftmost-longest */

/* Appends the ids of text. Errors: MEMORY, LIMIT. */
int hd_tokenize(struct hd_tokenizer *t, const char *text, size_t n, int flags, struct hd_ids *out, struct hd_err *err);

/* The bytes of one id; empty for ids without text. special: also spell special tokens out. */
struct hd_view hd_token_text(const struct hd_tokenizer *t, int32_t id, bool special);

/* Text of a sequence of ids, appended. */
void hd_detokenize(const struct hd_tokenizer *t, const int32_t *id, size_t n, bool special, struct hd_str *out);

int64_t hd_tokenizer_size(const struct hd_tokenizer *t);              /* largest id + 1 */
bool hd_tokenizer_is_end(const struct hd_tokenizer *t, int32_t id);   /* one of the end-of-sequence ids */
int32_t hd_tokenizer_find(const struct hd_tokenizer *t, const char *added);   /* id of an added token's text, -1 */
int32_t hd_tokenizer_bos(const struct hd_tokenizer *t);               /* -1: none */
int32_t hd_tokenizer_end(const struct hd_tokenizer *t);               /* the first end-of-sequence id, -1: none */
const char *hd_tokenizer_template(const struct hd_tokenizer *t);      /* "" when there is none */

/* How the model answers those who do not say: what generation_config.json has under "thinking" (off, on, low, high, max; true and false are on
 * and off), a key of ours. NULL: nothing. */
const char *hd_tokenizer_thinking(const struct hd_tokenizer *t);
bool hd_is_thinking_level(const char *s);

/* ---- text as it streams out ---- */

/* Holds back what cannot be shown yet: cut UTF-8 sequences and anything that may become a stop string. */
struct hd_text_stream {
    const struct hd_tokenizer *tok;
    const char *const *stop;
    int n_stop;
    struct hd_str pending;            /* not released yet */
    bool stopped;                     /* a stop string was found: it and what follows are dropped */
};

void hd_text_stream_init(struct hd_text_stream *s, const struct hd_tokenizer *t, const char *const *stop, int n_stop);
void hd_text_stream_release(struct hd_text_stream *s);
/* Appends to out what may be shown after this token. */
void hd_text_stream_push(struct hd_text_stream *s, int32_t id, struct hd_str *out);
void hd_text_stream_push_text(struct hd_text_stream *s, const char *p, size_t n, struct hd_str *out);
void hd_text_stream_finish(struct hd_text_stream *s, struct hd_str *out);     /* the rest, cut sequences included */

#endif
