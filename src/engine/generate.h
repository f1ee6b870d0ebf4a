/* generate.h: one answer: from a prompt's ids to text, token by token. */
#ifndef HD_ENGINE_GENERATE_H
#define HD_ENGINE_GENERATE_H

#include "engine/speculate.h"
#include "sample/sample.h"
#include "token/token.h"

enum hd_finish { HD_FINISH_LENGTH, HD_FINISH_END, HD_FINISH_STOP, HD_FINISH_CANCELLED, HD_FINISH_CONTEXT };

struct hd_generate {
    struct hd_session *session;
    struct hd_tokenizer *tok;         /* NULL, with token(): nothing ends an answer but its length */
    struct hd_sampler *sampler;
    const int32_t *prompt;            /* new tokens behind what the session holds */
    int64_t n_prompt, n_max;          /* n_max < 0: as many as fit */
    const char *const *stop;
    int n_stop;
    hd_progress_fn progress;          /* of the prefill; may be NULL */
    /* Text as it becomes final, and the pick that made it; false ends the answer. */
    bool (*text)(void *arg, const char *p, size_t n, const struct hd_pick *pick);
    /* Instead of text (and stop): every id but the end; false ends the answer. May be NULL. */
    bool (*token)(void *arg, int32_t id);
    bool (*cancelled)(void *arg);     /* may be NULL */
    struct hd_speculate *speculate;   /* NULL: token by token. What is said is the same */
    void *arg;
    /* results */
    enum hd_finish finish;
    int64_t n_generated;
    double prefill_s, decode_s;
    int64_t n_step, n_decoded;        /* decode steps, and tokens (ends too) that came of them: the first one comes with the prefill */
    int64_t n_drafted, n_accepted;    /* proposals, and those that stood */
    struct hd_cost decode_cost;       /* of those steps */
};

/* The session then holds prompt and answer (the last token, if an end token, excluded). */
int hd_generate(struct hd_generate *g, struct hd_err *err);

#endif
