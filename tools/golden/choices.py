"""What DeepSeek's own code chose, out of the traces that came with its goldens: python3 tools/golden/choices.py DIR_OF_GOLDENS

tests/golden/NAME/choices.safetensors: the experts and the selected entries of every layer and position (-1: none)."""
import os
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden")

for name in sorted(os.listdir(ROOT)):
    trace = os.path.join(sys.argv[1], name, "trace.safetensors")
    if os.path.exists(trace):
        found = {k: v.astype(np.int32) for k, v in load_file(trace).items() if k.startswith("layers.") and k.endswith((".ffn.experts", ".attn.selected"))}
        save_file(found, os.path.join(ROOT, name, "choices.safetensors"))
        print(name, len(found))
