/* model.h: a model: hyper-parameters, bound weights, cache spec, and one forward pass written in ops.
 *
 * An architecture (arch_*.c, a row in arch.def) fills the table below; everything else knows models through it. Loaded
 * models are immutable.
 */
#ifndef HD_MODEL_MODEL_H
#define HD_MODEL_MODEL_H

#include "base/arena.h"
#include "cache/cache.h"
#include "ops/ops.h"
#include "weights/store.h"

/* What everybody may ask about a model, whatever its architecture. */
struct hd_hparams {
    int64_t n_layer, d_model, n_vocab, n_ctx;
};

struct hd_model;

/* What proposes tokens: an MTP module, one token after another, or DSpark, a block at once. Both read what forward() left in their own parts of the
 * cache; a token that they propose is only ever a guess, so nothing here changes what a model says. */
struct hd_draft {
    int64_t depth;                    /* most tokens it proposes; 0: there is none, or it was not asked for */
    int64_t block;                    /* rows that a sequence takes in draft(), the noise tokens' included; MTP: 1 */
    int32_t noise;                    /* the id that a block is filled with */
    bool chain;                       /* MTP: a call a token, fed with the one before */
};

struct hd_draft_out {
    struct hd_tensor *logits;         /* [rows, V], a block's without what next() adds */
    struct hd_tensor *y;              /* blocks: [rows, D], for next(); NULL otherwise */
};

struct hd_arch {
    const char *name;                 /* config.json's model_type */
    const char *gguf_name;            /* GGUF's general.architecture; NULL: the same; "": none of its own (see gguf_deepseek.h) */
    /* Reads hyper-parameters, binds weights (unless the store has none: planning), sets the cache spec. One-line errors. */
    int (*load)(struct hd_model *m, struct hd_err *err);
    /* logits[n_out, V] of tokens out_rows (indices into the batch). */
    struct hd_tensor *(*forward)(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, const int32_t *out_rows, int64_t n_out);
    /* Calls fn for every weight of the list, bound or only planned. */
    void (*each_weight)(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg);
    /* The same for draft modules and vision towers: parts of the checkpoint that a token's forward pass does not use. NULL: none. */
    void (*each_aside)(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg);
    /* Of those the ones that draft() uses beside the model's own. NULL: none. */
    void (*each_draft)(const struct hd_model *m, void (*fn)(void *arg, const struct hd_tensor *w), void *arg);
    /* b: draft.block tokens a sequence, the newest token and noise behind it, at the positions behind what the cache holds. With MTP one token at the
     * position that it has, whose logits are of the one behind it; calls for the next positions propose further ones, and need rows of the cache. */
    void (*draft)(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *b, struct hd_draft_out *out);
    /* Blocks: logits[B, V] of rows rows[B] (indices into draft()'s), given the token before each (prev, a token a sequence), and confidence[B, 1],
     * log odds that the best of them will stand. NULL for MTP. */
    struct hd_tensor *(*next)(const struct hd_model *m, struct hd_stream *s, const struct hd_ragged *prev, const int32_t *rows, const struct hd_draft_out *of,
                              struct hd_tensor **confidence);
    /* Of the weights that each_weight() names, how many elements a token does not meet (experts, table rows). NULL: none. */
    int64_t (*n_idle)(const struct hd_model *m);
    /* Classes of token ids (token/token_classes.h), for architectures that hash them; called once, after loading, when
     * wants_classes says so. map[n] is copied. */
    int (*take_classes)(struct hd_model *m, const int32_t *map, int64_t n, int64_t n_class, struct hd_err *err);
};

struct hd_model {
    const struct hd_arch *arch;
    struct hd_store store;
    struct hd_arena arena;            /* model lifetime */
    struct hd_hparams hp;
    void *impl;                       /* the architecture's own struct, in the arena */
    struct hd_cache_spec spec;
    enum hd_kv kv;                    /* chosen by the caller */
    struct hd_draft draft;
    char draft_note[400];             /* why a draft module that is there was left out; "" otherwise */
    bool wants_draft, wants_learn;    /* HD_MODEL_DRAFT, HD_MODEL_LEARN */
    bool draft_learns;                /* forward() has losses of the draft module where a stream asks for them (ops/learn.h) */
    int64_t shortcut;                 /* tokens of a prompt's end that need every layer; the others can do with the encoder half. 0: no halves */
    bool planned;                     /* no weights: shapes only */
    bool wants_classes;               /* take_classes() must be called before the first forward pass */
};

enum { HD_MODEL_DRAFT = 1 << 16,      /* bring the draft module, if there is one */
       HD_MODEL_LEARN = 1 << 17,      /* likewise, to be trained with the model (planned: if its config has one) */
       HD_MODEL_DRAFT_IF_WHOLE = 1 << 18 };   /* likewise, but one that cannot be used is left out, and draft_note says why */

/* flags: of enum hd_store_flags, and the above. PLAN: a directory with nothing but a config.json will do; its weights have shapes and no data. */
int hd_model_open(struct hd_model *m, const char *path, enum hd_kv kv, int flags, struct hd_err *err);
void hd_model_close(struct hd_model *m);

const struct hd_arch *hd_arch_find(const char *name);      /* NULL when unknown */

struct hd_counts {
    int64_t total, active;            /* parameters; active: those a token meets */
    int64_t bytes;                    /* as stored, scales included */
    int64_t aside, aside_bytes;       /* parameters and bytes of draft modules and vision towers, in none of the above */
    int64_t n_tensor;                 /* in the checkpoint: all of them, and their scales */
};
void hd_model_count(const struct hd_model *m, struct hd_counts *c);

#endif
