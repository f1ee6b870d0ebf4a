/* ref.h: the plain reference: hadal's models once more, in double precision, by the formulas and nothing else.
 *
 * How to read  ref_math.c first (a page of helpers), then one family: ref_llama.c, ref_latent.c, ref_v4.c, ref_v41.c (which
 *              borrows from ref_v4.c what did not change). ref_io.c reads config.json and safetensors, ref_main.c is the program.
 * Method       a whole prompt of T tokens at once, no cache, no threads: every layer is a loop over tokens; weights are
 *              decoded to double when a layer needs them. Independent of src/: nothing of it is included.
 * Modes        f32: the mathematics. official: the same code, with the rounding points of DeepSeek's own code applied to the
 *              doubles; every one is a call of round_bf16(), linear(), fp8_sim(), fp4_sim() or fp4_e4m3_sim(), which do nothing
 *              of the kind in f32.
 * Shapes       row-major, x[T, n] is x[t * n + i]; weights w[n_out, n_in], y = W x.
 */
#ifndef HD_REF_H
#define HD_REF_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* ---- ref_io.c: files, numbers, memory ---- */

struct ref {                          /* an opened model */
    const char *dir;
    json_t *config;                   /* config.json */
    bool official;
    int64_t n_vocab;
    int64_t block[2];                 /* weight_block_size of config.json; activations are quantised in blocks of block[1] */
    struct ref_file *file;
    int n_file;
};

struct mat {                          /* a matrix [n_out, n_in] of doubles; a vector has n_out 1 */
    int64_t n_out, n_in;
    const double *w;
    bool quantised;                   /* stored in 8 or 4 bits: the official code quantises what it is multiplied with */
};

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Memory lives until release(mark()) of a mark made before it. Zeroed. */
void *space(int64_t n, int64_t bytes);
double *array(int64_t n);
int64_t mark(void);
void release(int64_t mark);

void ref_open(struct ref *m, const char *dir);
void ref_close(struct ref *m);
bool ref_has(const struct ref *m, const char *name, ...) __attribute__((format(printf, 2, 3)));
struct mat ref_mat(const struct ref *m, int64_t n_out, int64_t n_in, const char *name, ...) __attribute__((format(printf, 4, 5)));
const double *ref_vec(const struct ref *m, int64_t n, const char *name, ...) __attribute__((format(printf, 3, 4)));
/* Row id[t] of an embedding for every token. */
void embed(const struct ref *m, int64_t T, const int64_t *id, int64_t D, double *x, const char *name);
/* Rows first .. first + n of a matrix. */
struct mat rows(const struct mat *w, int64_t first, int64_t n);

json_t *ref_json(const char *dir, const char *name, bool required);       /* the caller's to json_decref() */
/* Members of a JSON object; need_int() dies where there is none, the others have a default. */
int64_t need_int(const json_t *c, const char *key);
int64_t get_int(const json_t *c, const char *key, int64_t otherwise);
double get_real(const json_t *c, const char *key, double otherwise);
bool get_bool(const json_t *c, const char *key, bool otherwise);
const char *get_str(const json_t *c, const char *key, const char *otherwise);
bool listed(const json_t *c, const char *key, int64_t id);       /* is id in the array? */

struct mat ref_read(const char *path, const char *name);          /* one tensor of a safetensors file */
void ref_write(const char *path, const double *logits, int64_t n_tok, int64_t n_vocab);
int64_t ref_ids(const char *text, int64_t **id);                  /* "1,2,3", or @FILE: text, .json or .safetensors with tokens */

/* ---- ref_math.c: the helpers ---- */

double bf16(double x);
double e4m3(double x);
double e2m1(double x);
void round_bf16(const struct ref *m, double *x, int64_t n);
void fp8_sim(const struct ref *m, double *x, int64_t n, int64_t block);
void fp4_sim(const struct ref *m, double *x, int64_t n);
void fp4_e4m3_sim(const struct ref *m, double *x, int64_t n);

double dot(int64_t n, const double *a, const double *b);
void matmul(int64_t T, double *y, const struct mat *w, const double *x);
void linear(const struct ref *m, int64_t T, double *y, const struct mat *w, const double *x);
void add(double *x, const double *y, int64_t n);
void add_bias(int64_t T, double *y, int64_t n, const double *bias);
void rmsnorm(const struct ref *m, int64_t T, int64_t n, double *y, const double *x, const double *w, double eps);
double sigmoid(double x);
double silu(double x);
void softmax(double *x, int64_t n);
void top_k(const double *score, int64_t n, int64_t k, int64_t *idx);
void hadamard(double *x, int64_t n);

struct rope {
    int64_t dim;                      /* rotated dims, dim / 2 pairs */
    float *freq;
    double scale;                     /* of cos and sin: YaRN's attention factor */
};
enum pairs { NEIGHBOURS, HALVES };    /* pair i is (2i, 2i + 1), or (i, i + dim / 2) */

struct rope rope_of(const json_t *config, int64_t dim, double theta);
void rotate(const struct rope *r, double *x, int64_t pos, enum pairs pairs, bool inverse);

/* ---- families: logits[T, n_vocab] of all positions ---- */

double *ref_llama(const struct ref *m, int64_t T, const int64_t *id);
double *ref_latent(const struct ref *m, int64_t T, const int64_t *id);
double *ref_v4(const struct ref *m, int64_t T, const int64_t *id);
double *ref_v41(const struct ref *m, int64_t T, const int64_t *id);

/* ---- ref_v4.c: what V4.1 kept of V4 ---- */

#define HC_MAX 8

struct mhc {                          /* hyper-connections: n_hc copies of the stream */
    int64_t n_hc, d_model, iters;
    double norm_eps, eps;
};
struct mix {
    double pre[HC_MAX], post[HC_MAX], comb[HC_MAX][HC_MAX];
};
struct moe {
    int64_t d_model, d_expert, n_expert, n_used, n_shared;
    double scale, limit, temp, norm_eps;
    bool norm;
};

struct mhc mhc_of(const json_t *config, double norm_eps);
struct mix *mhc_mix(const struct ref *m, const struct mhc *h, int64_t T, const double *X, const char *half, int64_t layer);
void mhc_collapse(const struct ref *m, const struct mhc *h, int64_t T, double *u, const double *X, const struct mix *mix);
void mhc_expand(const struct ref *m, const struct mhc *h, int64_t T, double *X, const double *a, const struct mix *mix);
struct moe moe_of(const json_t *config);
void moe(const struct ref *m, const struct moe *hp, int64_t layer, bool hash, int64_t T, const int64_t *id, const double *u, double *y);
double *pool(int64_t n, int64_t ratio, int64_t dim, const double *z, const double *g, bool overlap);
void index_weights(const struct ref *m, int64_t T, double *w, const struct mat *proj, const double *u, int64_t n_head, int64_t dim);
double index_score(const struct ref *m, int64_t n_head, int64_t dim, const double *q, const double *k, const double *w);
void attend_rows(const struct ref *m, int64_t n_head, int64_t dim, const double *q, const double *const *row, int64_t n, const double *sink, double *o);
void grouped_out(const struct ref *m, int64_t layer, int64_t T, int64_t n_group, int64_t rank, int64_t n_in, int64_t D, double *y, const double *o);

#endif
