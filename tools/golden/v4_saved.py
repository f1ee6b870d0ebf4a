"""A V4 checkpoint as transformers' save_pretrained writes it, from tests/golden/v4-f32-mini; the expected logits stay the same."""
import os
import shutil

import torch
from transformers import AutoModelForCausalLM

root = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden")
src, dst = os.path.join(root, "v4-f32-mini"), os.path.join(root, "v4-f32-saved")
shutil.rmtree(dst, ignore_errors=True)
AutoModelForCausalLM.from_pretrained(src, dtype=torch.float32, attn_implementation="eager").save_pretrained(dst)
for name in ("tokens.json", "expected.safetensors"):
    shutil.copy(os.path.join(src, name), dst)
