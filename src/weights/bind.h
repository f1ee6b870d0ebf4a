/* bind.h: weight lists: one table an architecture: which tensors there are, how they are called, what shape they have.
 *
 * The same list binds a checkpoint (finding, validating, naming what is missing, extra or misshapen), plans one that is
 * not there (shapes without data), inspects, and later converts and initialises.
 */
#ifndef HD_WEIGHTS_BIND_H
#define HD_WEIGHTS_BIND_H

#include "weights/store.h"

enum hd_weight_class {
    HD_W_MATRIX,              /* floats or quantised blocks; stays as it lies in the file */
    HD_W_VECTOR,              /* any float format; converted to f32 in the model's arena unless it is f32 already */
    HD_W_TABLE                /* integers */
};

enum hd_weight_flags {
    HD_W_GLOBAL = 1,          /* once, not per layer */
    HD_W_OPTIONAL = 2,        /* may be absent: the field's dims stay 0 */
    HD_W_STORED_ONLY = 4,     /* known by name, ignored: rotary tables and the like */
    HD_W_PLANNED = 32,        /* optional, and the published checkpoints have it */
    HD_W_FP8 = 16,            /* what quantised publications keep in fp8: for plans */
    HD_W_FP8_ROWS = 64,       /* likewise, every row with scales of its own */
    HD_W_EXPERT = 8           /* one per expert: the field is a struct hd_tensor *, an array that binding allocates; in GGUF they are one
                               * tensor, its outermost dimension the expert */
};

/* {field, class, flags, safetensors name, GGUF name, shape}: names hold at most one %d, the layer (experts' a second one, the
 * expert); "a|b" offers two names; '@' at a name's begin is the list's prefix. shape: dimensions separated by commas, each a
 * product of symbols and numbers: "H*Dh,D". when: what must hold for the row to exist (NULL: always): a symbol that must not
 * be 0, or, when the list has exists(), whatever that makes of it. */
struct hd_weight_row {
    size_t field;             /* offsetof a struct hd_tensor in the globals' or the layer's struct */
    enum hd_weight_class class;
    int flags;
    const char *st_name, *gguf_name;      /* NULL: not in that kind of file */
    const char *shape;
    const char *when;
};

struct hd_symbol {
    const char *name;
    int64_t value;
};

struct hd_weight_list {
    const struct hd_weight_row *row;
    int n_row;
    const struct hd_symbol *sym;
    int n_sym;
    int64_t n_layer, first_layer;      /* layers are called first_layer, .. in names and to exists(); layers[0] is the first of them */
    void *globals, *layers;   /* layers: n_layer structs, layer_bytes apart; both zeroed before */
    size_t layer_bytes;
    const char *prefix;       /* "layers.%d.": what '@' stands for */
    int64_t n_expert;         /* of HD_W_EXPERT rows */
    bool (*exists)(const void *arg, const char *when, int64_t layer);      /* may be NULL */
    const void *arg;
};

/* Fills every field. plan: rows get shapes and no data unless the store has them; formats as the config's quantization_config has
 * them published (fp8 and fp4 with their scales), otherwise bf16; f32 for vectors.
 * Errors: FORMAT, one line that counts and names what is missing, extra or misshapen; MEMORY. */
int hd_bind(struct hd_store *st, const struct hd_weight_list *list, struct hd_arena *arena, bool plan, struct hd_err *err);
/* The same for several lists that share a checkpoint: a model and its draft module. */
int hd_bind_lists(struct hd_store *st, const struct hd_weight_list *list, int n_list, struct hd_arena *arena, bool plan, struct hd_err *err);

/* Calls fn for every bound (or planned) weight, in the list's order. */
void hd_bind_each(const struct hd_weight_list *list, void (*fn)(void *arg, const struct hd_tensor *w), void *arg);

#endif
