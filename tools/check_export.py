#!/usr/bin/env python3
"""check_export.py HADAL DIR TEXT: does a directory that `hadal train` wrote mean the same to Hugging Face?

Ids of TEXT's lines by tokenizers and by `hadal tokenize`; logits of its first tokens by transformers (float32) and by `hadal logits`.
Needs torch, transformers and tokenizers; prints what it found and ends with 1 where they differ.
"""
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

hadal, model_dir, text_path = sys.argv[1:4]
text = open(text_path, encoding="utf-8").read()
tok = Tokenizer.from_file(model_dir + "/tokenizer.json")


def hadal_ids(s):
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as f:
        f.write(s)
        f.flush()
        out = subprocess.run([hadal, "tokenize", model_dir, "--text-file", f.name], check=True, capture_output=True, text=True).stdout
    return [int(x) for x in out.replace("\n", "").split(",") if x]


want = tok.encode(text, add_special_tokens=False).ids
got = hadal_ids(text)
print(f"tokenizer: {len(want)} ids of {len(text)} characters, {'equal' if want == got else 'DIFFERENT'}")
ok = want == got

ids = want[:64]
with tempfile.NamedTemporaryFile(suffix=".safetensors") as f:
    subprocess.run([hadal, "logits", model_dir, "--tokens", ",".join(map(str, ids)), "--out", f.name, "--exact=f32"], check=True, capture_output=True)
    ours = load_file(f.name)["logits"]
model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager").eval()
with torch.no_grad():
    theirs = model(torch.tensor([ids])).logits[0]
diff = (ours - theirs).abs().max().item() / theirs.abs().max().item()
same = (ours.argmax(-1) == theirs.argmax(-1)).sum().item()
print(f"logits: {type(model).__name__}, {len(ids)} tokens, largest difference {diff:.1e} of the largest logit, argmax equal at {same}")
sys.exit(0 if ok and diff <= 1e-3 and same == len(ids) else 1)
