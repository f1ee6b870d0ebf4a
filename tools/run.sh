#!/bin/sh
# run.sh BIN MODEL PROMPT: the main job on a real model; what `make run` ends with. SmolLM2 is fetched when it is asked for and not there.
set -eu
bin=$1 model=$2 prompt=$3
case $model in models/cache/*) sh tools/fetch_model.sh ;; esac
[ -t 1 ] && echo "> $prompt"
"$bin" run "$model" -p "$prompt" -n 200 --temp 0
echo "chat with it: $bin run $model" >&2
