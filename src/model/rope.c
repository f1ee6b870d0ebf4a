/* rope.c: see rope.h. Frequencies are computed in f32 where the references do, so that angles agree at long positions. */
#include "model/rope.h"

#include <math.h>
#include <string.h>

int hd_rope_config(struct hd_rope_hp *hp, const json_t *config, int64_t n_ctx, const char *file, struct hd_err *err)
{
    const json_t *p = json_object_get(config, "rope_parameters"), *from = p;
    const char *type, *legacy;
    double theta;

    if (!json_is_object(p)) {
        p = json_object_get(config, "rope_scaling");
        from = config;
    }
    if (p && !json_is_object(p) && !json_is_null(p))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: rope_scaling: found something else; expected an object or null", file);
    HD_TRY(hd_json_real_or(config, "rope_theta", 1, 1e12, 10000, &theta, file, err));
    HD_TRY(hd_json_real_or(from, "rope_theta", 1, 1e12, theta, &hp->theta, file, err));
    hp->kind = HD_ROPE_DEFAULT;
    hp->factor = 1;
    hp->n_ctx_orig = n_ctx;
    if (!json_is_object(p))
        return HD_OK;
    HD_TRY(hd_json_str_or(p, "type", "default", &legacy, file, err));
    HD_TRY(hd_json_str_or(p, "rope_type", legacy, &type, file, err));
    if (!strcmp(type, "default"))
        return HD_OK;
    if (!strcmp(type, "linear"))
        hp->kind = HD_ROPE_LINEAR;
    else if (!strcmp(type, "dynamic"))
        hp->kind = HD_ROPE_DYNAMIC;
    else if (!strcmp(type, "llama3"))
        hp->kind = HD_ROPE_LLAMA3;
    else if (!strcmp(type, "yarn"))
        hp->kind = HD_ROPE_YARN;
    else
        return hd_err_set(err, HD_ERR_UNSUPPORTED, "%s: rope_type: found \"%s\"; expected default, linear, dynamic, llama3 or yarn", file, type);
    if (hp->kind == HD_ROPE_DYNAMIC)
        return hd_err_set(err, HD_ERR_UNSUPPORTED,
                          "%s: rope_type: found \"dynamic\", whose frequencies change with the length and so break cached keys; expected linear, llama3 or yarn", file);
    if (!json_object_get(p, "factor"))
        return hd_err_set(err, HD_ERR_FORMAT, "%s: rope factor: found nothing; expected a number with rope_type %s", file, type);
    HD_TRY(hd_json_real_or(p, "factor", 1e-3, 1e6, 1, &hp->factor, file, err));
    HD_TRY(hd_json_int_or(p, "original_max_position_embeddings", 1, (int64_t)1 << 40, n_ctx, &hp->n_ctx_orig, file, err));
    HD_TRY(hd_json_real_or(p, "low_freq_factor", 1e-6, 1e6, 1, &hp->low_freq, file, err));
    HD_TRY(hd_json_real_or(p, "high_freq_factor", 1e-6, 1e6, 4, &hp->high_freq, file, err));
    HD_TRY(hd_json_real_or(p, "beta_fast", 1e-6, 1e6, 32, &hp->beta_fast, file, err));
    HD_TRY(hd_json_real_or(p, "beta_slow", 1e-6, 1e6, 1, &hp->beta_slow, file, err));
    HD_TRY(hd_json_real_or(p, "mscale", 0, 1e6, 0, &hp->mscale, file, err));
    HD_TRY(hd_json_real_or(p, "mscale_all_dim", 0, 1e6, 0, &hp->mscale_all, file, err));
    HD_TRY(hd_json_real_or(p, "attention_factor", 0, 1e6, 0, &hp->attn_factor, file, err));
    HD_TRY(hd_json_bool_or(p, "truncate", true, &hp->truncate, file, err));
    if (hp->kind == HD_ROPE_LLAMA3 && hp->low_freq >= hp->high_freq)
        return hd_err_set(err, HD_ERR_FORMAT, "%s: low_freq_factor: found %g; expected less than high_freq_factor %g", file, hp->low_freq, hp->high_freq);
    return HD_OK;
}

static float mscale_of(double factor, double m)
{
    return factor <= 1 ? 1.0f : (float)(0.1 * m * log(factor) + 1.0);
}

/* The dim at which a wave makes `turns` turns within the original context. */
static double yarn_dim(const struct hd_rope_hp *hp, double turns)
{
    return (double)hp->dim * log((double)hp->n_ctx_orig / (turns * 2 * M_PI)) / (2 * log(hp->theta));
}

static void yarn(const struct hd_rope_hp *hp, float *f, float *scale)
{
    double lo = yarn_dim(hp, hp->beta_fast), hi = yarn_dim(hp, hp->beta_slow);

    if (hp->truncate) {
        lo = floor(lo);
        hi = ceil(hi);
    }
    lo = lo < 0 ? 0 : lo;
    hi = hi > (double)(hp->dim - 1) ? (double)(hp->dim - 1) : hi;
    if (lo == hi)
        hi += 0.001;
    for (int64_t i = 0; i < hp->dim / 2; i++) {
        float ramp = (float)(((double)i - lo) / (hi - lo)), keep;

        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        keep = 1 - ramp;
        f[i] = f[i] / (float)hp->factor * (1 - keep) + f[i] * keep;
    }
    if (hp->attn_factor > 0)
        *scale = (float)hp->attn_factor;
    else if (hp->mscale > 0 && hp->mscale_all > 0)
        *scale = mscale_of(hp->factor, hp->mscale) / mscale_of(hp->factor, hp->mscale_all);
    else
        *scale = mscale_of(hp->factor, 1);
}

static void llama3(const struct hd_rope_hp *hp, float *f)
{
    double low_wave = (double)hp->n_ctx_orig / hp->low_freq, high_wave = (double)hp->n_ctx_orig / hp->high_freq;

    for (int64_t i = 0; i < hp->dim / 2; i++) {
        double wave = 2 * M_PI / (double)f[i];

        if (wave > low_wave) {
            f[i] = (float)((double)f[i] / hp->factor);
        } else if (wave >= high_wave) {
            double smooth = ((double)hp->n_ctx_orig / wave - hp->low_freq) / (hp->high_freq - hp->low_freq);

            f[i] = (float)((1 - smooth) * (double)f[i] / hp->factor + smooth * (double)f[i]);
        }
    }
}

void hd_rope_freqs(const struct hd_rope_hp *hp, float *f, float *scale)
{
    *scale = 1;
    for (int64_t i = 0; i < hp->dim / 2; i++)
        f[i] = 1.0f / (float)pow(hp->theta, (double)((float)(2 * i) / (float)hp->dim));
    if (hp->kind == HD_ROPE_LINEAR)
        for (int64_t i = 0; i < hp->dim / 2; i++)
            f[i] /= (float)hp->factor;
    else if (hp->kind == HD_ROPE_LLAMA3)
        llama3(hp, f);
    else if (hp->kind == HD_ROPE_YARN)
        yarn(hp, f, scale);
}
