/* cpu.c: the table of the CPU backend. */
#include "backend/cpu/cpu.h"

#include <string.h>

#include "backend/backend.h"
#include "backend/cpu/cpu_back.h"
#include "base/mem.h"
#include "kernels/kernels.h"

const char *const hd_backend_cpu_levels[] = {"scalar", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx", "neon", NULL};

int hd_backend_cpu_init(const char *level, struct hd_err *err)
{
    return hd_kernels_init(level) ? HD_OK : hd_err_set(err, HD_ERR_USAGE, "--cpu %.40s: this CPU has no such level", level ? level : "NULL");
}

const char *hd_backend_cpu_level(void)
{
    return hd_isa_name(hd_k.isa);
}

bool hd_backend_cpu_bf16(void)
{
    return hd_k.gemm[HD_GEMM_BF16].pairs;
}

bool hd_backend_cpu_has(const char *level)
{
    for (int i = 0; i < HD_N_ISA; i++)
        if (!strcmp(hd_isa_name((enum hd_isa)i), level))
            return hd_isa_available((enum hd_isa)i);
    return false;
}

static enum hd_dtype act_type(void *self, const struct hd_tensor *w, int64_t row0)
{
    return hd_cpu_act_type(w, row0);
}

int hd_backend_cpu_create(struct hd_backend *be, struct hd_pool *pool, struct hd_err *err)
{
    struct hd_cpu *cpu = hd_calloc(1, sizeof *cpu);

    if (!cpu)
        return hd_err_set(err, HD_ERR_MEMORY, "no memory for the CPU backend");
    cpu->pool = pool;
    *be = (struct hd_backend){
        .name = "cpu",
        .self = cpu,
        .move = hd_cpu_move,
        .act_type = act_type,
        .run = {
            [HD_OP_EMBED] = hd_cpu_embed,
            [HD_OP_GATHER] = hd_cpu_gather,
            [HD_OP_RMSNORM] = hd_cpu_rmsnorm,
            [HD_OP_QUANT] = hd_cpu_quant,
            [HD_OP_MATMUL] = hd_cpu_matmul,
            [HD_OP_ADD_ROW] = hd_cpu_add_row,
            [HD_OP_ADD] = hd_cpu_add,
            [HD_OP_SILU_MUL] = hd_cpu_silu_mul,
            [HD_OP_ROPE_TABLE] = hd_cpu_rope_table,
            [HD_OP_ROPE] = hd_cpu_rope,
            [HD_OP_KV_PUT] = hd_cpu_kv_put,
            [HD_OP_ATTEND] = hd_cpu_attend,
            [HD_OP_SIMULATE] = hd_cpu_simulate,
            [HD_OP_SCALE] = hd_cpu_scale,
            [HD_OP_HEAD_NORM] = hd_cpu_head_norm,
            [HD_OP_HADAMARD] = hd_cpu_hadamard,
            [HD_OP_COPIES] = hd_cpu_copies,
            [HD_OP_MHC_MIX] = hd_cpu_mhc_mix,
            [HD_OP_MHC_PRE] = hd_cpu_mhc_pre,
            [HD_OP_MHC_POST] = hd_cpu_mhc_post,
            [HD_OP_RING_PUT] = hd_cpu_ring_put,
            [HD_OP_SHIFT] = hd_cpu_shift,
            [HD_OP_POOL] = hd_cpu_pool,
            [HD_OP_INDEX] = hd_cpu_index,
            [HD_OP_ATTEND_SEL] = hd_cpu_attend_sel,
            [HD_OP_GATE] = hd_cpu_gate,
            [HD_OP_MOE] = hd_cpu_moe,
            [HD_OP_DETACH] = hd_cpu_detach,
            [HD_OP_INDEX_LOSS] = hd_cpu_index_loss,
            [HD_OP_ATTEND_BLOCK] = hd_cpu_attend_block,
            [HD_OP_CONFIDENCE] = hd_cpu_confidence,
            [HD_OP_NGRAM] = hd_cpu_ngram,
            [HD_OP_XENT] = hd_cpu_xent,
            [HD_OP_LAYERNORM] = hd_cpu_layernorm,
            [HD_OP_GROUP_MATMUL] = hd_cpu_group_matmul,
            [HD_OP_ABSORB] = hd_cpu_absorb,
            [HD_OP_ABSORB_T] = hd_cpu_absorb_t,
            [HD_OP_TABLE] = hd_cpu_table,
            [HD_OP_ENGRAM] = hd_cpu_engram,
            [HD_OP_SHORT_CONV] = hd_cpu_short_conv,
        },
        .back = {
            [HD_OP_EMBED] = hd_cpu_embed_back,
            [HD_OP_GATHER] = hd_cpu_gather_back,
            [HD_OP_RMSNORM] = hd_cpu_rmsnorm_back,
            [HD_OP_MATMUL] = hd_cpu_matmul_back,
            [HD_OP_ADD_ROW] = hd_cpu_add_row_back,
            [HD_OP_ADD] = hd_cpu_add_back,
            [HD_OP_SILU_MUL] = hd_cpu_silu_mul_back,
            [HD_OP_ROPE] = hd_cpu_rope_back,
            [HD_OP_KV_PUT] = hd_cpu_kv_put_back,
            [HD_OP_ATTEND] = hd_cpu_attend_back,
            [HD_OP_SIMULATE] = hd_cpu_simulate_back,
            [HD_OP_SCALE] = hd_cpu_scale_back,
            [HD_OP_HEAD_NORM] = hd_cpu_head_norm_back,
            [HD_OP_HADAMARD] = hd_cpu_hadamard_back,
            [HD_OP_COPIES] = hd_cpu_copies_back,
            [HD_OP_MHC_MIX] = hd_cpu_mhc_mix_back,
            [HD_OP_MHC_PRE] = hd_cpu_mhc_pre_back,
            [HD_OP_MHC_POST] = hd_cpu_mhc_post_back,
            [HD_OP_POOL] = hd_cpu_pool_back,
            [HD_OP_ATTEND_SEL] = hd_cpu_attend_sel_back,
            [HD_OP_GATE] = hd_cpu_gate_back,
            [HD_OP_MOE] = hd_cpu_moe_back,
            [HD_OP_XENT] = hd_cpu_xent_back,
            [HD_OP_INDEX_LOSS] = hd_cpu_index_loss_back,
            [HD_OP_ATTEND_BLOCK] = hd_cpu_attend_block_back,
            [HD_OP_CONFIDENCE] = hd_cpu_confidence_back,
            [HD_OP_LAYERNORM] = hd_cpu_layernorm_back,
            [HD_OP_GROUP_MATMUL] = hd_cpu_group_matmul_back,
            [HD_OP_ABSORB] = hd_cpu_absorb_back,
            [HD_OP_ABSORB_T] = hd_cpu_absorb_t_back,
            [HD_OP_TABLE] = hd_cpu_table_back,
            [HD_OP_ENGRAM] = hd_cpu_engram_back,
            [HD_OP_SHORT_CONV] = hd_cpu_short_conv_back,
        },
    };
    for (int op = 0; op < HD_N_OP; op++)
        HD_ASSERT((be->run[op] || hd_ops[op].need == HD_NEED_FUSED) && (!be->back[op] == (hd_ops[op].bwd >= HD_BWD_FLAT)));
    return HD_OK;
}

void hd_backend_cpu_free(struct hd_backend *be)
{
    hd_free(be->self);
    memset(be, 0, sizeof *be);
}

void hd_cpu_rows(struct hd_cpu *cpu, int64_t n, int64_t cols, hd_range_fn fn, void *arg)
{
    int64_t grain = cols > 0 ? HD_CPU_SMALL / 2 / cols : n;

    if (n * cols <= HD_CPU_SMALL)
        fn(arg, 0, n);
    else
        hd_pool_for(cpu->pool, n, grain > 0 ? grain : 1, fn, arg);
}
