/* store.h: the tensors of a checkpoint as it lies on disk: a directory of safetensors, or a GGUF file (or the first of its parts).
 *
 * Files are mapped, nothing is copied, pages are read when somebody touches them. The store knows names, formats, shapes
 * and where the bytes are; what they mean is the weight list's business (bind.h).
 *
 * Refused, with one line that names file and tensor or field: anything whose sizes do not add up, tensors that overlap or
 * leave gaps, shards that are missing or outside the directory, unknown formats, headers beyond the limits below.
 */
#ifndef HD_WEIGHTS_STORE_H
#define HD_WEIGHTS_STORE_H

#include <stdbool.h>

#include "base/arena.h"
#include "base/file.h"
#include "base/json.h"
#include "base/str.h"
#include "tensor/tensor.h"

#define HD_HEADER_MAX ((int64_t)100 << 20)    /* bytes of a safetensors header */
#define HD_ENTRY_MAX ((size_t)4 << 20)        /* tensors of a store */

struct hd_entry {
    struct hd_view name;          /* in the arena, with a NUL behind it */
    int type;                     /* enum hd_dtype; -1: a format hadal does not know, type_name says which */
    const char *type_name;
    int n_dim;
    int64_t dim[HD_MAX_DIM];      /* outermost first; beyond n_dim: 1 */
    int64_t bytes;
    const void *data;             /* in the map */
    int file;                     /* index into files */
    bool used;                    /* a weight list took it */
};

enum hd_store_kind { HD_STORE_DIR, HD_STORE_GGUF };

struct hd_gguf_kv;

struct hd_store {
    enum hd_store_kind kind;
    char *path;                   /* as given */
    char *config_path;            /* PATH/config.json, or the GGUF file: for messages */
    json_t *config;               /* of a directory; of a GGUF file when its metadata was translated (gguf_deepseek.h), or NULL */
    struct hd_file_map *files;
    char **file_names;
    int n_file;
    struct hd_entry *entry;
    size_t n_entry, cap_entry;
    uint32_t *hash;               /* open addressing over names: index + 1, 0 empty */
    size_t n_hash;
    struct hd_gguf_kv *kv;        /* HD_STORE_GGUF only */
    size_t n_kv;
    int64_t check_left;           /* scales and vector values that may still be read to see whether they are finite */
    struct hd_arena arena;
};

/* PLAN: weights need not be there; BARE: nor are they read when they are. CHECK: every scale and vector is read and must be finite;
 * otherwise the first 16 Mi values. Errors: IO, FORMAT, LIMIT, MEMORY; the store is released on failure. */
enum hd_store_flags { HD_STORE_PLAN = 1, HD_STORE_CHECK = 2, HD_STORE_BARE = 4 | HD_STORE_PLAN };
int hd_store_open(struct hd_store *st, const char *path, int flags, struct hd_err *err);
void hd_store_close(struct hd_store *st);

struct hd_entry *hd_store_find(const struct hd_store *st, const char *name);

/* Are matrices quantised: does the config say so, or a format of blocks? */
bool hd_store_quantised(const struct hd_store *st);

/* Gives the files' pages back to the system, which brings them in again when somebody reads there. */
void hd_store_cool(const struct hd_store *st);

/* Which file p, an address in a map, lies in, and where. false: in none. */
bool hd_store_locate(const struct hd_store *st, const void *p, int *file, int64_t *at);

/* For the readers: a new entry with its name copied; NULL and *err when it is there already or memory ran out. */
struct hd_entry *hd_store_add(struct hd_store *st, const char *name, size_t n, struct hd_err *err);

/* Parses a mapped safetensors file / GGUF file whose index in files is given. Also the fuzzers' entries. */
int hd_safetensors_parse(struct hd_store *st, int file, struct hd_err *err);
int hd_gguf_parse(struct hd_store *st, int file, struct hd_err *err);

/* ---- GGUF metadata ---- */

enum hd_gguf_type { HD_GGUF_U8, HD_GGUF_I8, HD_GGUF_U16, HD_GGUF_I16, HD_GGUF_U32, HD_GGUF_I32, HD_GGUF_F32, HD_GGUF_BOOL, HD_GGUF_STR, HD_GGUF_ARR,
                    HD_GGUF_U64, HD_GGUF_I64, HD_GGUF_F64, HD_N_GGUF };

struct hd_gguf_kv {
    struct hd_view key;
    enum hd_gguf_type type, elem;     /* elem: of an array */
    const unsigned char *p;           /* the value, or an array's first element, in the map */
    uint64_t n;                       /* elements of an array; 1 otherwise */
};

const struct hd_gguf_kv *hd_gguf_find(const struct hd_store *st, const char *key);
/* Numbers of any integer type (or an integral float) within lo..hi; the _or form has a default. Errors name the key. */
int hd_gguf_int(const struct hd_store *st, const char *key, int64_t lo, int64_t hi, int64_t *out, struct hd_err *err);
int hd_gguf_int_or(const struct hd_store *st, const char *key, int64_t lo, int64_t hi, int64_t dflt, int64_t *out, struct hd_err *err);
int hd_gguf_real_or(const struct hd_store *st, const char *key, double lo, double hi, double dflt, double *out, struct hd_err *err);
bool hd_gguf_bool_or(const struct hd_store *st, const char *key, bool dflt);
bool hd_gguf_str(const struct hd_store *st, const char *key, struct hd_view *out);     /* false: absent or not a string */
/* Walks an array of strings: *at starts at 0; false at the end. Bounds were checked when the file was parsed. */
bool hd_gguf_next_str(const struct hd_gguf_kv *kv, uint64_t *at, const unsigned char **cursor, struct hd_view *out);
int64_t hd_gguf_elem_int(const struct hd_gguf_kv *kv, uint64_t i);                     /* element of an integer array */
double hd_gguf_elem_real(const struct hd_gguf_kv *kv, uint64_t i);

#endif
