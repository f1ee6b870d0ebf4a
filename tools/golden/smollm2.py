"""SmolLM2-135M-Instruct (the GGUF that `make run` fetches): transformers on the dequantised weights.

smollm2.py MODEL.gguf writes tests/golden/smollm2.safetensors: for ten prompts the ids (raw text, no template), the f32 logits
behind the last prompt token, and 64 greedy tokens. Takes about two minutes.
"""
import os
import sys

import gguf
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from gguf_tiny import to_hf

PROMPTS = ["The capital of France is", "Once upon a time, a small fish", "def fibonacci(n):\n", "Water boils at", "In the deep sea, light",
           "1, 2, 3, 5, 8,", "Dear Sir or Madam,", "The three primary colours are", "Q: Who wrote Hamlet?\nA:", "La mer est"]
OUT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden", "smollm2.safetensors")
folder, file = os.path.split(sys.argv[1])
torch.set_num_threads(2)
tok = AutoTokenizer.from_pretrained(folder, gguf_file=file)
reader = gguf.GGUFReader(sys.argv[1])


def field(name):
    return reader.fields["llama." + name].contents()


config = LlamaConfig(vocab_size=49152, hidden_size=field("embedding_length"), intermediate_size=field("feed_forward_length"), num_hidden_layers=field("block_count"),
                     num_attention_heads=field("attention.head_count"), num_key_value_heads=field("attention.head_count_kv"),
                     max_position_embeddings=field("context_length"), rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
                     rope_parameters=dict(rope_type="default", rope_theta=field("rope.freq_base")), tie_word_embeddings=True)
config._attn_implementation = "eager"
model = LlamaForCausalLM(config).eval()
weights = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}
names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
for i in range(config.num_hidden_layers):
    for hf, g in {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
                  "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
                  "post_attention_layernorm": "ffn_norm"}.items():
        names["model.layers.%d.%s" % (i, hf)] = "blk.%d.%s" % (i, g)
with torch.no_grad():
    for full, p in model.named_parameters():
        g = names[full.rsplit(".", 1)[0]]
        w = weights.pop(g + ".weight")
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(g.rsplit(".")[-1])
        p.copy_(to_hf(w, heads) if heads else w)
assert not weights, weights.keys()
out = {}
with torch.no_grad():
    for i, p in enumerate(PROMPTS):
        ids = tok(p, add_special_tokens=False, return_tensors="pt").input_ids
        lg = model(ids).logits[0, -1]
        gen = model.generate(ids, max_new_tokens=64, min_new_tokens=64, do_sample=False, pad_token_id=0, eos_token_id=None)[0, ids.shape[1]:]
        out["ids.%d" % i] = ids[0]
        out["greedy.%d" % i] = gen
        if i < 4:
            out["logits.%d" % i] = lg
        text = torch.tensor(list(p.encode()), dtype=torch.uint8)
        out["text.%d" % i] = text
        print(repr(p), "->", repr(tok.decode(gen))[:80])
save_file({k: v.contiguous().clone() for k, v in out.items()}, OUT)
