/* hadal.h: the public C API: load a model, generate and stream, or take steps yourself.
 *
 * Link with libhadal.a and the libraries that `pkg-config --libs jansson libpcre2-8 libutf8proc` names, and -lm -lpthread.
 * examples/answer.c is a whole program.
 *
 * Objects     a model (weights, tokenizer, workers, cache) and sessions on it (one conversation's tokens and cache).
 *             Close sessions before their model.
 * Errors      functions return 0 or a negative enum hadal_status and write one line into *err (may be NULL); outputs stay
 *             untouched on failure. The library never prints and never exits.
 * Threads     one thread at a time per model; its workers are its own.
 * Numbers     the same inputs give the same bits, for any number of threads and however tokens are cut into steps.
 */
#ifndef HADAL_H
#define HADAL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HADAL_VERSION "0.1.0"

enum hadal_status {
    HADAL_OK = 0,
    HADAL_ERR_IO = -1,            /* open, read, write */
    HADAL_ERR_FORMAT = -2,        /* a file's content is not what its format says */
    HADAL_ERR_SHAPE = -3,         /* dimensions do not fit */
    HADAL_ERR_MEMORY = -4,        /* an allocation failed, or a plan does not fit into memory */
    HADAL_ERR_USAGE = -5,         /* the caller asked for something impossible */
    HADAL_ERR_LIMIT = -6,         /* a stated limit was reached: the context is full */
    HADAL_ERR_UNSUPPORTED = -7,   /* well formed, and not something hadal can do */
    HADAL_ERR_CANCELLED = -8      /* a callback asked to stop */
};

struct hadal_err {
    int code;                     /* enum hadal_status */
    char msg[512];                /* one line, printable */
};

/* ---- models ---- */

struct hadal_model;

enum hadal_kv {
    HADAL_KV_AUTO,                /* native when the weights are quantised, otherwise f32 */
    HADAL_KV_NATIVE,              /* the rows that DeepSeek models were trained with: fp8, fp4, bf16; f32 for other models */
    HADAL_KV_F32,
    HADAL_KV_F16
};

enum hadal_exact {
    HADAL_FAST,                   /* what the kernels do best */
    HADAL_EXACT_F32,              /* weights dequantised, all arithmetic float32 or wider */
    HADAL_EXACT_OFFICIAL          /* the rounding points of the official code, where an architecture has them */
};

/* Zeroes are sensible defaults. */
struct hadal_options {
    int threads;                  /* 0: physical cores */
    const char *cpu;              /* instruction-set level, "avx2" ...; NULL: the best */
    enum hadal_exact exact;
    int64_t context;              /* tokens of cache, all sessions together; 0: the model's, at most 8192 */
    int64_t chunk;                /* most tokens of a step; 0: 512 */
    enum hadal_kv kv;             /* what keys and values are kept in; exact modes: f32 */
};

/* path: a directory with config.json and *.safetensors, or a .gguf file. opt may be NULL. */
int hadal_open(struct hadal_model **out, const char *path, const struct hadal_options *opt, struct hadal_err *err);
void hadal_close(struct hadal_model *m);

struct hadal_info {
    const char *arch;             /* "llama": lives with the model */
    int64_t n_layer, d_model, n_vocab, n_ctx;
    int64_t params_total, params_active;
    int64_t weight_bytes, cache_bytes, step_bytes;
};
void hadal_describe(const struct hadal_model *m, struct hadal_info *out);

/* ---- text and ids ---- */

/* Ids of n bytes of text into *ids (free with hadal_free). special: added tokens in the text are matched; otherwise text
 * never turns into special tokens. No BOS is added. Models without a tokenizer: UNSUPPORTED. */
int hadal_tokenize(struct hadal_model *m, const char *text, size_t n, int special, int32_t **ids, size_t *n_ids, struct hadal_err *err);
/* Ids of a conversation (JSON: {"messages": [{"role", "content"}, ...]}) in the model's own chat format. */
int hadal_chat_tokens(struct hadal_model *m, const char *messages_json, int32_t **ids, size_t *n_ids, struct hadal_err *err);
/* Bytes of ids, not necessarily UTF-8, with a NUL behind (free with hadal_free). */
int hadal_detokenize(struct hadal_model *m, const int32_t *ids, size_t n_ids, char **text, size_t *n, struct hadal_err *err);
void hadal_free(void *p);

/* ---- sessions ---- */

struct hadal_session;

int hadal_session_open(struct hadal_session **out, struct hadal_model *m, struct hadal_err *err);
void hadal_session_close(struct hadal_session *s);
size_t hadal_session_length(const struct hadal_session *s);           /* tokens that it holds */
const int32_t *hadal_session_ids(const struct hadal_session *s);      /* them; valid until the session changes */
int hadal_session_rewind(struct hadal_session *s, size_t n, struct hadal_err *err);      /* keep the first n tokens */
int hadal_session_fork(struct hadal_session **out, struct hadal_session *from, struct hadal_err *err);
int hadal_session_save(struct hadal_session *s, const char *path, struct hadal_err *err);
int hadal_session_load(struct hadal_session *s, const char *path, struct hadal_err *err);

/* ---- simple: an answer ---- */

/* hadal_sampling_init() fills in: temperature 0.7, min_p 0.05, everything else off, seed 0. */
struct hadal_sampling {
    double temperature;           /* 0: the most probable token */
    int64_t top_k;                /* 0: off */
    double top_p, min_p;          /* 1, 0: off */
    double repetition, presence, frequency;   /* 1, 0, 0: off */
    uint64_t seed;
};
void hadal_sampling_init(struct hadal_sampling *s);

/* A piece of text as it becomes final (whole UTF-8 where the model writes it); nonzero ends the answer. */
typedef int (*hadal_text_fn)(void *arg, const char *text, size_t n);

enum hadal_finish { HADAL_FINISH_LENGTH, HADAL_FINISH_END, HADAL_FINISH_STOP, HADAL_FINISH_CANCELLED, HADAL_FINISH_CONTEXT };

struct hadal_answer {
    enum hadal_finish finish;
    int64_t n_tokens;             /* generated */
    double prefill_s, decode_s;
};

/* Feeds ids behind what the session holds and generates at most n_max tokens (below 0: as many as fit). stop: n_stop
 * strings before which the answer ends. The session then holds prompt and answer. text, stop and answer may be NULL. */
int hadal_generate(struct hadal_session *s, const int32_t *ids, size_t n_ids, int64_t n_max, const struct hadal_sampling *sampling,
                   const char *const *stop, int n_stop, hadal_text_fn text, void *arg, struct hadal_answer *answer, struct hadal_err *err);

/* ---- batches: steps over several sessions ---- */

struct hadal_step {
    struct hadal_session *session;
    const int32_t *ids;           /* n_ids new tokens */
    size_t n_ids;
    int all_logits;               /* rows for every token rather than for the last one */
    const float *logits;          /* out: rows of n_vocab floats, valid until the model's next step */
};

/* One pass over the weights for all items, at most options.chunk tokens together. On failure no session has changed. */
int hadal_step(struct hadal_model *m, struct hadal_step *items, int n_items, struct hadal_err *err);

#ifdef __cplusplus
}
#endif
#endif
