/* arch_qwen2.c: Qwen2 and Qwen2.5 (dense), R1-Distill-Qwen: biases on q, k and v; optional sliding windows in upper layers.
 *
 * Source   transformers' configuration_qwen2.py and modeling_qwen2.py; llama.cpp's names for GGUF
 */
#include <string.h>

#include "model/decoder.h"

/* layer_types names each layer when present; before it existed, layers from max_window_layers on had the window. */
static int windows(const struct hd_model *m, struct hd_decoder *d, struct hd_err *err)
{
    const json_t *c = m->store.config, *types = json_object_get(c, "layer_types");
    const char *file = m->store.config_path;
    int64_t window, first;
    bool use;

    HD_TRY(hd_json_bool_or(c, "use_sliding_window", false, &use, file, err));
    HD_TRY(hd_json_int_or(c, "sliding_window", 1, (int64_t)1 << 30, 4096, &window, file, err));
    HD_TRY(hd_json_int_or(c, "max_window_layers", 0, 65536, 28, &first, file, err));
    if (!use)
        return HD_OK;
    if (json_is_array(types) && (int64_t)json_array_size(types) != d->n_layer)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: layer_types: found %zu; expected %lld, one a layer", file, json_array_size(types), (long long)d->n_layer);
    for (int64_t i = 0; i < d->n_layer; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));

        if (json_is_array(types) && (!type || (strcmp(type, "sliding_attention") && strcmp(type, "full_attention"))))
            return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: layer_types[%lld]: expected full_attention or sliding_attention", file, (long long)i);
        if (type ? !strcmp(type, "sliding_attention") : i >= first)
            d->layer[i].window = window;
    }
    return HD_OK;
}

static int load(struct hd_model *m, struct hd_err *err)
{
    struct hd_decoder *d;

    HD_TRY(hd_decoder_config(m, &d, err));
    if (m->store.kind == HD_STORE_DIR)
        HD_TRY(windows(m, d, err));
    return hd_decoder_bind(m, d, hd_decoder_rows, hd_decoder_n_row, 1, 0, 0, err);
}

const struct hd_arch hd_arch_qwen2 = {.name = "qwen2", .load = load, .forward = hd_decoder_forward, .each_weight = hd_decoder_each_weight};
