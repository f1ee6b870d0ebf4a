/* experts_inside.h: what expert_gather.c (who there is), experts.c (who is in memory) and expert_read.c (how they get there) share. */
#ifndef HD_WEIGHTS_EXPERTS_INSIDE_H
#define HD_WEIGHTS_EXPERTS_INSIDE_H

#include <pthread.h>

#include "tensor/panel.h"
#include "weights/experts.h"

enum hd_expert_state { HD_EXPERT_ABSENT, HD_EXPERT_QUEUED, HD_EXPERT_READING, HD_EXPERT_PACKING, HD_EXPERT_READY };

struct hd_expert {
    struct hd_tensor *w[3];           /* gate, up, down: the model's own */
    const void *data[3], *scale[3];   /* where they lie in the maps */
    struct hd_panels panels[3];       /* kind NONE: rows as they lie */
    int64_t pack_at;                  /* its record in the pack; -1: it comes from the checkpoint */
    uint64_t pack_sum;                /* of its record's pages' beginnings */
    int32_t slot;                     /* -1: none */
    int32_t layer;
    uint8_t state;                    /* enum hd_expert_state */
    bool wanted;                      /* by the mixture now running, which has not taken it yet */
    bool pinned;                      /* ready, and not given back */
    bool ahead;                       /* read ahead, and not wanted since */
    bool given_up;                    /* READING ahead what the mixture turned out not to want: ends at the next piece */
    int64_t step;                     /* last wanted in */
    double key;                       /* of the decayed count of uses: comparable between experts at any time */
};

struct hd_expert_layer {
    const struct hd_tensor *gate, *route;
    int64_t n;
    int32_t first;                    /* index of its expert 0 */
};

struct hd_expert_list {
    int32_t *id;
    size_t n;
};

/* Experts that the next mixture will probably want. */
struct hd_expert_guess {
    int32_t id[HD_SOURCE_AHEAD_MAX];
    int n;
    double worth;                     /* share of what was wanted lately that had been guessed */
};

struct hd_expert_reader {
    struct hd_experts *x;
    pthread_t thread;
    bool started;
    char *buf;                        /* x->buf_bytes, aligned for direct reads */
    int32_t now;                      /* READING for it; -1: none */
    int64_t bytes;                    /* asked of the drive so far */
};

/* An open pack; path NULL: none. */
struct hd_expert_pack {
    char *path;
    struct hd_file_map file;
    int direct;                       /* past the page cache, or -1 */
    struct hd_pack_sum *sum;          /* of each expert's record */
    int64_t n_taken;                  /* experts that come from it */
};

struct hd_experts {
    const struct hd_store *store;
    struct hd_expert_pack pack;
    int *direct;                      /* [n_file]: file descriptors past the page cache, or -1 */
    bool raw, failed;                 /* failed: no memory while gathering */
    struct hd_expert *e;
    size_t n, cap;
    struct hd_expert_layer *layer;
    size_t n_layer, cap_layer;
    size_t n_main;                    /* layers of the model itself; then come the draft module's */
    const struct hd_tensor **table;
    size_t n_table, cap_table;

    char *data;                       /* slots */
    int64_t n_slot, slot_bytes, buf_bytes;
    int32_t *owner;                   /* [n_slot]: expert, or -1 */
    struct hd_source source;

    pthread_mutex_t lock;             /* everything below, and states of experts */
    pthread_cond_t work, arrived;
    bool locks, closing;
    struct hd_expert_list queue;      /* QUEUED, with slots; wanted ones are read first */
    struct hd_expert_list miss, ready;        /* of the mixture now running: without a slot yet; to be taken */
    int64_t n_left;                   /* of the mixture: not taken yet */
    bool begun;                       /* soon() named what the mixture wants */
    int32_t *count, *pick;            /* [largest layer]: soon()'s */
    int64_t n_ahead;                  /* QUEUED or READING for nobody yet */
    int32_t layer_now;
    bool sweep;                       /* the mixture wants most of its layer */
    int64_t step;
    struct hd_expert_guess guess[2];  /* made while the mixture before runs, and behind it */
    double n_tok;                     /* of all steps so far */
    struct hd_err err;                /* of an expert that the mixture wants; code 0: none */
    struct hd_experts_stats stats;
    bool (*stop)(void *arg);
    void *stop_arg;
    double asked;                     /* when stop was called last */
    struct hd_expert_reader reader[HD_EXPERTS_READERS];
};

/* Whose gate tensors these are; NULL: nobody's. */
const struct hd_expert_layer *hd_expert_layer_of(const struct hd_experts *x, const struct hd_tensor *gate);

/* Bytes of matrix m of e in a slot (64-byte multiples), and as stored with its scales. */
int64_t hd_expert_part(const struct hd_expert *e, int m);
int64_t hd_expert_stored(const struct hd_expert *e);
/* Bytes of e in a slot, and those that are read to bring it there. */
int64_t hd_expert_slot(const struct hd_expert *e);
int64_t hd_expert_needed(const struct hd_expert *e);
/* Bytes that a reader's buffer must have for e. */
int64_t hd_expert_buffer(const struct hd_expert *e);

/* A matrix in a slot is made of units: panels, or all of it where it has none. Lays unit k of w, which is e's matrix m, wherever its bytes lie; out: where the matrix begins. */
int64_t hd_expert_units(const struct hd_expert *e, int m);
void hd_expert_lay(const struct hd_expert *e, int m, const struct hd_tensor *w, int64_t k, char *out);

#define HD_EXPERT_BLOCK ((int64_t)4096)       /* of direct reads: what every file system accepts */

/* A file past the page cache, or -1. */
int hd_expert_open_direct(int fd);
/* Sum of n bytes, a multiple of 32, of which every step-th 32 count: 32, or HD_EXPERT_BLOCK. */
uint64_t hd_expert_sum(const void *p, int64_t n, int64_t step);
void hd_expert_pack_close(struct hd_experts *x);

int hd_experts_open_files(struct hd_experts *x, struct hd_err *err);
void hd_experts_close_files(struct hd_experts *x);
bool hd_experts_start(struct hd_experts *x);          /* the readers; false: not all could be started */
void hd_experts_stop(struct hd_experts *x);
bool hd_experts_has_rows(void *self, const struct hd_tensor *w);
int hd_experts_row(void *self, const struct hd_tensor *w, int64_t row, void *data, void *scale, struct hd_err *err);
void hd_experts_rows_ahead(void *self, const struct hd_tensor *w, const int32_t *row, int64_t n);
/* A reader is done with expert i; the lock is held. */
void hd_experts_done(struct hd_experts *x, int32_t i, int rc, const struct hd_err *err);

#endif
