/* data.h: token data, in memory or on disk, and the batches that a run takes from it.
 *
 * Sources  *.txt         UTF-8 text, one document
 *          *.jsonl       one object a line, a document: text or a conversation, of which only answers are targets (document.h)
 *          *.bin         ids: nanoGPT's bare u16, llm.c's (256 i32 of header, magic 20240520, then u16), or u32 where the name ends in .u32.bin
 * Batches  documents are cut into pieces of at most `context` tokens (the cuts move every epoch), shuffled, and laid one behind another until a
 *          batch is full; every piece is a sequence of its own that sees nothing of its neighbours. A piece's last token is a target only.
 * Bits     the order is a function of (seed, epoch): a cursor is two numbers */
#ifndef HD_TRAIN_DATA_H
#define HD_TRAIN_DATA_H

#include "base/rng.h"
#include "base/spill.h"
#include "ops/paged.h"
#include "token/token.h"

struct hd_data {
    int32_t *id;
    int64_t n;
    uint8_t *skip;                    /* [n] 1: no target; NULL: all are */
    bool all;                         /* set by the caller: everything in a conversation is a target */
    int64_t *doc;                     /* [n_doc + 1] where documents begin */
    int64_t n_doc;
    size_t cap_id, cap_doc, cap_skip;
    const char *spill_dir;            /* set by the caller: ids that take more than spill_from bytes go to a nameless file there; NULL: never */
    size_t spill_from;
    struct hd_spill id_file, skip_file;               /* open: id and skip lie there */
    int64_t n_bytes;                  /* of text, for bits per byte; 0 unknown */
    uint64_t hash;
};

/* What a user wants to know of data before training on them. */
struct hd_data_report {
    int64_t n_doc, n_tok, n_skip;     /* skip: tokens that are no targets */
    int64_t n_same;                   /* documents that another one equals */
    int64_t n_cut, longest;           /* documents longer than a context, tokens of the longest */
};
int hd_data_look(const struct hd_data *d, int64_t context, struct hd_data_report *r, struct hd_err *err);

/* Appends a file's documents. n_vocab: ids must be below. tok may be NULL where ids are read. Errors: IO, FORMAT (empty, no text, ids too large), MEMORY. */
int hd_data_add(struct hd_data *d, const char *path, struct hd_tokenizer *tok, int64_t n_vocab, struct hd_err *err);
/* Takes the last part (0 .. 1) of every document of d into val, both whole documents afterwards. */
int hd_data_split(struct hd_data *d, struct hd_data *val, double part, struct hd_err *err);
/* Finishes: hash, and bytes of text as the tokenizer spells the ids. */
void hd_data_seal(struct hd_data *d, const struct hd_tokenizer *tok);
void hd_data_release(struct hd_data *d);

struct hd_piece {
    int64_t first, n;                 /* ids first .. first + n; the last one is a target only */
};

struct hd_loader {
    const struct hd_data *data;
    int64_t context, batch_tokens, max_seq;
    uint64_t seed;
    bool shuffle;
    int64_t epoch, at;                /* the cursor: pieces taken in this epoch */
    struct hd_piece *piece;           /* of the epoch, in its order */
    int64_t n_piece, made;            /* made: the epoch that piece[] belongs to, -1 none */
    size_t cap;
};

/* A batch as forward passes take it. */
struct hd_batch {
    int32_t *id, *pos, *row, *target;
    struct hd_span *span;
    int64_t n_tok, n_seq, n_target, max_len;
};

int hd_loader_init(struct hd_loader *l, const struct hd_data *d, int64_t context, int64_t batch_tokens, uint64_t seed, bool shuffle, struct hd_err *err);
void hd_loader_release(struct hd_loader *l);
int hd_batch_init(struct hd_batch *b, const struct hd_loader *l, struct hd_err *err);
void hd_batch_release(struct hd_batch *b);
/* The next batch; begins a new epoch when the last piece was taken. once: at the end *b is left empty instead. */
int hd_loader_next(struct hd_loader *l, struct hd_batch *b, bool once, struct hd_err *err);

#endif
