/* engine.h: a loaded model with everything that runs it: workers, backend, cache, step arena; and sessions on it.
 *
 * A step is ragged: tokens of several sessions, prefill chunks and single decode tokens, in one pass over the weights.
 * Before anything is computed the same model code runs dry and tells exactly what a step needs; what does not fit is
 * refused with the plan that says why. One thread (the engine thread) calls everything here.
 */
#ifndef HD_ENGINE_ENGINE_H
#define HD_ENGINE_ENGINE_H

#include "backend/backend.h"
#include "model/model.h"
#include "weights/experts.h"
#include "weights/pack.h"

struct hd_plan;

struct hd_engine_options {
    int n_thread;                     /* 0: physical cores */
    const char *cpu;                  /* ISA level, NULL: best */
    enum hd_exact exact;
    int64_t n_ctx;                    /* tokens of cache, all sessions together; 0: the model's context, at most 8192; may exceed the
                                         model's context, which bounds each session */
    double cache_share;               /* with n_ctx 0: as many tokens as this share of the memory at hand has room for, at most eight of the
                                         model's contexts and at least what 0 means */
    int64_t chunk;                    /* most tokens of a step; 0: 512, and up to 8192 where experts are read from disk */
    int64_t memory;                   /* bytes that weights, cache and step may take; 0: what the machine has. Experts that find no room stay on
                                         disk (weights/experts.h) */
    int64_t n_slot;                   /* experts in memory, the others on disk, however much room there is; 0: memory decides. For tests */
    const char *pack;                 /* the experts' pack (weights/expert_pack.h) that they are read from where they are on disk: a file, "off", or NULL: the one beside
                                         the model, if there is one. One that is not believed is left alone, and the plan says why */
    enum hd_kv kv;                    /* exact modes: F32 whatever it says */
    bool shortcut;                    /* hd_session_feed() runs all but a prompt's last tokens through the encoder half only, where a model
                                         has halves (DeepSeek-V4.1): faster, and not quite the same logits */
    bool draft;                       /* bring the draft module too, where the checkpoint has one (draft.h) */
    bool draft_if_whole;              /* the same, but one that is incomplete is left out, and the model's draft_note says why */
    hd_progress_fn loading;           /* bytes of weights brought into the kernels' order; may be NULL */
    void *loading_arg;
    void (*planned)(const struct hd_plan *p);         /* told what memory will be used for before anything is loaded; may be NULL */
};

struct hd_plan {
    int64_t weight_bytes, cache_bytes, step_bytes, available_bytes;
    struct hd_cost decode, prefill;   /* one token at full context; one chunk from position 0 */
    int64_t chunk;                    /* tokens of a step */
    /* Experts on disk, where not everything fits; otherwise 0 */
    int64_t disk_bytes;               /* experts, and tables that are read by the row, as stored */
    int64_t resident_bytes;           /* everything else, and the readers' buffers */
    int64_t n_slot, slot_bytes;       /* experts that the cache has room for; bytes of one */
    int64_t n_packed;                 /* experts that are read from a pack */
    char pack_note[400];              /* why a pack that is there is not used; "" otherwise */
    int64_t least_bytes;              /* memory that must be there: with room for HD_EXPERTS_SLOTS_MIN of them */
    struct hd_cost draft;             /* draft module: as many rows as a chunk has; zero without */
    const char *draft_note;           /* the model's: why a draft module that is there was left out; "" otherwise */
};

struct hd_engine {
    struct hd_model model;
    struct hd_engine_options opt;
    struct hd_pool *pool;
    struct hd_backend backend;
    struct hd_packs packs;            /* fast mode */
    struct hd_experts *experts;       /* those on disk, or NULL */
    bool (*stop)(void *arg);          /* asked while a step waits for the disk: should it end as CANCELLED? NULL: no */
    void *stop_arg;
    struct hd_cache cache;
    struct hd_arena step;             /* tensors of a step */
    struct hd_arena batch;            /* batch descriptions */
    struct hd_plan plan;
    struct hd_cost last;              /* of the last step */
    struct hd_profile *profile;       /* charged with the time of steps; NULL: none */
    hd_trace_fn trace;
    void *trace_arg;
};

/* Errors: whatever the model's files say, MEMORY when the plan exceeds what the machine has, USAGE for bad options. */
int hd_engine_open(struct hd_engine *e, const char *path, const struct hd_engine_options *opt, struct hd_err *err);
void hd_engine_close(struct hd_engine *e);

/* Bytes and operations before loading: nothing is read but headers. */
int hd_engine_plan(const struct hd_model *m, const struct hd_engine_options *opt, int64_t n_seq, struct hd_plan *plan, struct hd_err *err);

/* Names m's routed experts to x, those of a loaded draft module behind the model's own: hd_experts_meet(), in the order in which a step meets them. */
int hd_engine_gather_experts(const struct hd_model *m, enum hd_exact exact, struct hd_experts *x, struct hd_err *err);

/* One sequence of tokens and its cache. */
struct hd_session {
    struct hd_engine *engine;
    struct hd_seq *seq;
    int32_t *ids;                     /* every token that the cache holds */
    size_t n, cap;
    int64_t raw0;                     /* the decoder half has seen the tokens from here on */
};

int hd_session_open(struct hd_session *ss, struct hd_engine *e, struct hd_err *err);
void hd_session_close(struct hd_session *ss);
int hd_session_rewind(struct hd_session *ss, int64_t n, struct hd_err *err);      /* keep the first n tokens */
int hd_session_fork(struct hd_session *to, struct hd_session *from, struct hd_err *err);
int hd_session_save(struct hd_session *ss, const char *path, struct hd_err *err);
int hd_session_load(struct hd_session *ss, const char *path, struct hd_err *err);
/* After hd_seq_load() of ss->seq: the ids, which must be as many as its tokens, and ids of this model. Errors: FORMAT, MEMORY. */
int hd_session_take_ids(struct hd_session *ss, const void *ids, size_t n_bytes, struct hd_err *err);

enum hd_want { HD_WANT_NONE, HD_WANT_LAST, HD_WANT_ALL };

struct hd_step_item {
    struct hd_session *session;
    const int32_t *ids;               /* n_tok new tokens */
    int64_t n_tok;
    enum hd_want want;
    bool encode;                      /* encoder half only (then of all items, and none wants logits) */
    const float *logits;              /* out: rows of V floats, valid until the next step; NULL when none are wanted */
};

/* At most opt.chunk tokens in all. On failure no session has changed. */
int hd_engine_step(struct hd_engine *e, struct hd_step_item *items, int n_item, struct hd_err *err);
/* A stream of a step's tensors, those of the step before are gone. ids[n]: the tokens that come, none for the draft module. */
void hd_engine_stream(struct hd_engine *e, struct hd_stream *s, const int32_t *ids, int64_t n);

/* Feeds any number of tokens in chunks; logits of the last one. progress may be NULL; returning false cancels. */
int hd_session_feed(struct hd_session *ss, const int32_t *ids, int64_t n, hd_progress_fn progress, void *arg, const float **logits, struct hd_err *err);

#endif
