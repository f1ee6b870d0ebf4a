#!/bin/sh
# seed.sh DIR: writes the seeds that fuzzing starts from: small valid inputs of every format, made from tests/golden.
set -eu
dir=$1
mkdir -p "$dir"
put() { { printf %s "$1"; cat; } >"$dir/$2"; }
put c config-llama <tests/golden/llama-a/config.json
put c config-yarn <tests/golden/llama-yarn/config.json
put c config-qwen2 <tests/golden/qwen2-window/config.json
for t in gpt2 llama3 deepseek; do put t tokenizer-$t <tests/golden/tokenizer/$t/tokenizer.json; done
head -c 3000 tests/golden/llama-a/model.safetensors | put s safetensors-cut
printf '\100\000\000\000\000\000\000\000{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}          12345678' | put s safetensors-small
head -c 4000 tests/golden/gguf-qwen2/model.gguf | put g gguf-cut
for m in v3-a v4-mx; do head -c 4000 tests/golden/gguf-$m/model.gguf | put g gguf-$m; done
printf 'GGUF\003\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000' | put g gguf-empty
printf '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}' | put m messages
# completions: the first byte is the family (0 to 4: plain, R1, V3.1, V4, V4.1) and 8 times the start
D='｜DSML｜' E='<｜end▁of▁sentence｜>'
printf '\013hm</think>hi\n\n<%stool_calls>\n<%sinvoke name="f">\n<%sparameter name="k" string="true">v "x"</%sparameter>\n<%sparameter name="n" string="false">[1, {"a": null}]</%sparameter>\n</%sinvoke>\n</%stool_calls>%s' $D $D $D $D $D $D $D $D "$E" | put p completion-v4
printf '\004hi\n\n<%s calls>\n<%s invoke name="f">\n<%s parameter name="k" string="false">tru' $D $D $D | put p completion-v41-cut
printf '\011hm\n</think>\n\nhi<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>%s' "$E" | put p completion-r1
printf '\002<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": "\344\270' | put p completion-v31-cut
