/* vocab.h: the inside of a tokenizer: pieces, merges, added tokens, the steps before BPE. */
#ifndef HD_TOKEN_VOCAB_H
#define HD_TOKEN_VOCAB_H

#include "base/arena.h"
#include "token/pretoken.h"
#include "token/token.h"

struct hd_merge {
    int32_t left, right, rank, id;    /* left -1: empty slot */
};

struct hd_added {
    struct hd_view text;
    int32_t id;
    bool special, lstrip, rstrip, single_word, normalized;
};

enum hd_spelling { HD_SPELL_BYTES, HD_SPELL_SPM };   /* byte-level, or characters with U+2581 for spaces and byte fallback */

#define HD_CACHE_WORD 24              /* longest word that the cache holds */
#define HD_CACHE_IDS 6
#define HD_CACHE_SLOTS 65536

struct hd_cached_word {
    char word[HD_CACHE_WORD];
    uint8_t n, n_id;                  /* n 0: empty */
    int32_t id[HD_CACHE_IDS];
};

struct hd_tokenizer {
    struct hd_arena arena;
    enum hd_spelling spelling;
    struct hd_view *piece;            /* raw bytes by id; p NULL: no such id */
    bool *is_added, *is_special;
    int64_t n_piece;
    uint32_t *hash;                   /* bytes -> id + 1 */
    size_t n_hash;
    struct hd_merge *merge;           /* open addressing */
    size_t n_merge_slot;
    int32_t byte_id[256];             /* byte-level: of the byte; SPM: of <0xXX>; -1 when missing */
    int32_t unk;
    bool ignore_merges, fuse_unk;
    struct hd_added *added;
    size_t n_added;
    uint8_t added_first[256];         /* does an added token begin with this byte? */
    struct hd_pretoken *pre;
    bool nfc, spm_prefix, spm_strip;  /* normaliser: NFC; a space put in front; taken off again when decoding */
    int32_t bos;
    int32_t end[16];
    int n_end;
    char *chat_template;
    char model_type[32];              /* of config.json */
    char thinking[8];                 /* of generation_config.json; "": not said */
    bool ga;                          /* a DeepSeek-V4 checkpoint of July or later: it carries a DSpark drafter */
    struct hd_cached_word *cache;
};

/* The word's ids appended to out. */
int hd_bpe(struct hd_tokenizer *t, const char *word, size_t n, struct hd_ids *out, struct hd_err *err);
bool hd_ids_push(struct hd_ids *ids, int32_t id);
int32_t hd_piece_find(const struct hd_tokenizer *t, const char *p, size_t n);

/* Bytes in the byte-level alphabet of GPT-2: printable ones stand for themselves, the others from U+0100 on. */
void hd_spell_bytes(const char *p, size_t n, struct hd_str *out);

/* ---- vocab_build.c: what both readers make a tokenizer from; what: the file, for messages ---- */

#define HD_PIECES_MAX ((int64_t)1 << 24)

struct hd_tokenizer *hd_vocab_create(void);           /* NULL: no memory */
int hd_vocab_no_memory(const char *what, struct hd_err *err);
/* Room for n pieces and their look-up; merges. */
int hd_vocab_alloc_pieces(struct hd_tokenizer *t, int64_t n, const char *what, struct hd_err *err);
int hd_vocab_alloc_merges(struct hd_tokenizer *t, size_t n, const char *what, struct hd_err *err);
/* The bytes that a spelled piece stands for, in the arena. False: no memory. */
bool hd_vocab_raw_piece(struct hd_tokenizer *t, const char *p, size_t n, struct hd_view *out);
/* Where the look-up has these bytes, or would have them. */
size_t hd_piece_slot(const struct hd_tokenizer *t, const char *p, size_t n);
/* byte_id, once all pieces are there. */
void hd_vocab_find_bytes(struct hd_tokenizer *t);
/* The merge of that rank, as two spelled pieces, or as one line "left right". buf: scratch. */
int hd_vocab_add_merge(struct hd_tokenizer *t, size_t rank, struct hd_view left, struct hd_view right, struct hd_str *buf, const char *what, struct hd_err *err);
int hd_vocab_add_merge_line(struct hd_tokenizer *t, size_t rank, struct hd_view line, struct hd_str *buf, const char *what, struct hd_err *err);
int hd_vocab_add_added(struct hd_tokenizer *t, const struct hd_added *a, const char *what, struct hd_err *err);
/* One more id that ends an answer; ids that there are not are ignored. */
void hd_vocab_add_end(struct hd_tokenizer *t, int64_t id);

/* The longest added token that p begins with, or NULL. */
const struct hd_added *hd_added_find(const struct hd_tokenizer *t, const char *p, size_t n);

#endif
