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
printf '{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "", "reasoning_content": "r", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\\"a\\": 1}"}}]}, {"role": "tool", "tool_call_id": "1", "content": "2"}], "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}]}' | put m messages-calls
printf 'POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: h:1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n5;x="y"\r\nhello\r\n0\r\nA: b\r\n\r\n' | put h request-chunked
printf 'GET http://h/ HTTP/1.0\r\nConnection: keep-alive, x\r\nContent-Length: 0\r\n\r\n' | put h request-old
printf '{"type": "object", "properties": {"a": {"type": "integer", "minimum": -3, "maximum": 1000}, "b": {"anyOf": [{"type": "string", "pattern": "^[a-f]{2,4}$"}, {"enum": [1, null]}]}, "c": {"$ref": "#/$defs/n"}}, "required": ["a"], "additionalProperties": {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0.5}, "maxItems": 3}, "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}' | put x schema
printf '["yes", "no", "maybe"]' | put x choice
printf '^(?:[a-c\\d]+|x{2,5}?\\.\\p{Lu})(y|z)*$' | put e regex
printf '{"text": "a b"}\n{"prompt": "p", "completion": "c"}\n{"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]}\n{"instruction": "i", "input": "n", "output": "o", "history": [["q", "a"]]}\n{"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "weight": 0}]}\n' | put d lines
printf 'the cat sat on the mat, the cat sat. ab\351\0\377 the mat' | put b text
printf '{"model": {"model_type": "llama", "hidden_size": 8}, "out": "o", "tokenizer": "bpe", "bpe_vocab": 300, "special_tokens": ["<|end|>"], "data": {"train": ["a.txt"], "val_part": 0.1, "stream": "auto"}, "context": 16, "batch_tokens": 32, "step_tokens": 64, "steps": 10, "optimizer": {"name": "adamw", "lr": 0.01, "betas": [0.9, 0.95], "ema": 0.9}, "schedule": {"name": "wsd", "warmup": 2, "decay": 0.3}, "balance": {"bias_speed": 0.01}, "sample": {"tokens": 5, "prompt": "x"}, "precision": "bf16", "seed": 1}' | put r run
printf '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}' | put m messages
# completions: the first byte is the family (0 to 4: plain, R1, V3.1, V4, V4.1) and 8 times the start
D='｜DSML｜' E='<｜end▁of▁sentence｜>'
printf '\013hm</think>hi\n\n<%stool_calls>\n<%sinvoke name="f">\n<%sparameter name="k" string="true">v "x"</%sparameter>\n<%sparameter name="n" string="false">[1, {"a": null}]</%sparameter>\n</%sinvoke>\n</%stool_calls>%s' $D $D $D $D $D $D $D $D "$E" | put p completion-v4
printf '\004hi\n\n<%s calls>\n<%s invoke name="f">\n<%s parameter name="k" string="false">tru' $D $D $D | put p completion-v41-cut
printf '\011hm\n</think>\n\nhi<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>%s' "$E" | put p completion-r1
printf '\002<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": "\344\270' | put p completion-v31-cut
