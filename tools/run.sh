#!/bin/sh
# run.sh BIN PROMPT: the main job on a real model; what `make run` ends with.
set -eu
bin=$1 prompt=$2
sh tools/fetch_model.sh
model=models/cache/SmolLM2-135M-Instruct.Q4_1.gguf
[ -t 1 ] && echo "> $prompt"
"$bin" run "$model" -p "$prompt" -n 200 --temp 0
echo "chat with it: $bin run $model" >&2
