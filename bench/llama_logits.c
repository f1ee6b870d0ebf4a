/* llama_logits.c: llama.cpp's logits of given tokens: llama_logits MODEL.gguf IDS OUT, ids with commas between; OUT: f32, positions times vocabulary.
 *
 * compare.sh builds it with llama.cpp and compares these with hadal's before it compares speed. Only llama.h is used. */
#include <stdio.h>
#include <stdlib.h>

#include "llama.h"

#define MAX_TOKENS 512

static void quiet(enum ggml_log_level level, const char *text, void *arg)
{
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

static int read_ids(const char *s, llama_token *ids)
{
    int n = 0;

    for (char *end; *s && n < MAX_TOKENS; s = *end == ',' ? end + 1 : end) {
        ids[n] = (llama_token)strtol(s, &end, 10);
        if (end == s || (*end && *end != ','))
            return -1;
        n++;
    }
    return *s ? -1 : n;
}

int main(int argc, char **argv)
{
    struct llama_context_params cp = llama_context_default_params();
    struct llama_model *model;
    struct llama_context *ctx;
    struct llama_batch batch;
    llama_token ids[MAX_TOKENS];
    int n = argc == 4 ? read_ids(argv[2], ids) : -1, n_vocab;
    FILE *f;

    if (n < 1) {
        fprintf(stderr, "usage: llama_logits MODEL.gguf ID,ID... OUT (at most %d ids)\n", MAX_TOKENS);
        return 2;
    }
    llama_log_set(quiet, NULL);
    llama_backend_init();
    cp.n_ctx = cp.n_batch = cp.n_ubatch = MAX_TOKENS;
    cp.n_threads = cp.n_threads_batch = 1;
    model = llama_model_load_from_file(argv[1], llama_model_default_params());
    ctx = model ? llama_init_from_model(model, cp) : NULL;
    if (!ctx || !(f = fopen(argv[3], "wb"))) {
        fprintf(stderr, "llama_logits: cannot open %s or %s\n", argv[1], argv[3]);
        return 1;
    }
    n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    batch = llama_batch_init(n, 0, 1);
    for (int i = 0; i < n; i++) {
        batch.token[i] = ids[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    batch.n_tokens = n;
    if (llama_decode(ctx, batch)) {
        fprintf(stderr, "llama_logits: %s: llama_decode failed\n", argv[1]);
        return 1;
    }
    for (int i = 0; i < n; i++)
        fwrite(llama_get_logits_ith(ctx, i), sizeof(float), (size_t)n_vocab, f);
    return fclose(f) ? 1 : 0;
}
