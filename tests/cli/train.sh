# train.sh: hadal train: a run, cut and resumed, with its files; what bad configurations get; Ctrl-C and kill -9.
. tests/cli/common.sh

i=0
while [ $i -lt 60 ]; do echo "the sea is deep and the sea is cold, said number $((i % 7))."; i=$((i + 1)); done >"$T/text.txt"
config() { # name out more
    cat >"$T/$1.json" <<EOT
{"model": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
  "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": false},
 "out": "$T/$2", "data": {"train": "$T/text.txt"}, "context": 32, "batch_tokens": 128, "save_every": 5, "eval_every": 10, "sample": {"tokens": 8, "prompt": "the"}$3}
EOT
}

config a a ', "steps": 20'
works "a run" "$HADAL" train "$T/a.json" --json -t 1
says "ends with its loss" '"best_val_loss"'
complains "says what it needs" "weights and gradients"
complains "shows steps" "step 20/20"
complains "validates" "bits per byte"
for f in config.json model.safetensors tokenizer.json generation_config.json state.safetensors train.json metrics.jsonl loss.svg best/model.safetensors; do
    [ -s "$T/a/$f" ]
    report $? "has $f"
done
works "the model runs" "$HADAL" run "$T/a" --raw -p "the sea" -n 4 --temp 0
fails 2 "not over another run" "$HADAL" train "$T/a.json" -q
complains "says how to go on" "--resume"
works "a finished run resumed does nothing" "$HADAL" train --resume "$T/a" -q

config profile profile ', "steps": 20'
works "where the time of steps went" "$HADAL" train "$T/profile.json" -q --steps 3 --profile
says "names products" "products dW"
says "names the update" "cpu ms a step"

config b b ', "steps": 20'
works "the same run, 7 steps" "$HADAL" train "$T/b.json" -q --steps 7 -t 2
works "and the rest" "$HADAL" train --resume "$T/b" -q -t 1
cmp -s "$T/a/state.safetensors" "$T/b/state.safetensors"
report $? "resumed with other workers: the same bits"
cmp -s "$T/a/model.safetensors" "$T/b/model.safetensors"
report $? "and the same model"
[ "$(grep -c val_loss "$T/b/metrics.jsonl")" -eq 2 ] && [ "$(grep -c grad_norm "$T/b/metrics.jsonl")" -eq 20 ]
report $? "its metrics are whole"

# a state that is not as it was written
config s s ', "steps": 20'
works "7 steps" "$HADAL" train "$T/s.json" -q --steps 7
cp "$T/s/state.safetensors" "$T/state"
head -c "$(($(wc -c <"$T/state") / 2))" "$T/state" >"$T/s/state.safetensors"
fails 1 "half a state" "$HADAL" train --resume "$T/s" -q
complains "says so" "it is cut short"
head -c 50 "$T/state" >"$T/s/state.safetensors"
fails 1 "less than a head" "$HADAL" train --resume "$T/s" -q
python3 - "$T/state" "$T/s/state.safetensors" <<'EOF'
import struct, sys
b = bytearray(open(sys.argv[1], "rb").read())
head = 8 + struct.unpack_from("<Q", b)[0]
assert struct.unpack_from("<q", b, head + 24)[0] == 7                   # the step
struct.pack_into("<q", b, head + 24 + 4 * 8, 1 << 40)                   # pieces of the epoch that were taken
open(sys.argv[2], "wb").write(b)
struct.pack_into("<q", b, head + 24 + 4 * 8, -5)
open(sys.argv[2] + ".2", "wb").write(b)
EOF
works "more pieces taken than there are: the next epoch" "$HADAL" train --resume "$T/s" -q --steps 1
mv "$T/s/state.safetensors.2" "$T/s/state.safetensors"
fails 1 "less than none" "$HADAL" train --resume "$T/s" -q
complains "says so" "it is damaged"

# layers computed again
config r r ', "steps": 20, "recompute": true'
works "layers computed again" "$HADAL" train "$T/r.json" -t 2
complains "says so" "computed again"
cmp -s "$T/a/state.safetensors" "$T/r/state.safetensors"
report $? "with the same bits"
config r2 r2 ', "steps": 20, "recompute": "sometimes"'
fails 1 "another word" "$HADAL" train "$T/r2.json" -q
complains "says what it takes" "auto"

# products in bf16
config h h ', "steps": 12, "precision": "bf16"'
works "products in bf16" "$HADAL" train "$T/h.json" -t 1
complains "says so" "round their operands to bf16"
config h2 h2 ', "steps": 12, "precision": "bf16"'
works "the same, 5 steps" "$HADAL" train "$T/h2.json" -q -t 2 --steps 5
works "and the rest" "$HADAL" train --resume "$T/h2" -q -t 1
cmp -s "$T/h/state.safetensors" "$T/h2/state.safetensors"
report $? "the same bits"
config h3 h3 ', "steps": 2, "precision": "bf16"'
HD_CPU=scalar "$HADAL" train "$T/h3.json" --plan 2>"$T/err"
complains "says where no instruction does it" "AVX512_BF16"
config h4 h4 ', "steps": 2, "precision": "fp16"'
fails 1 "another precision" "$HADAL" train "$T/h4.json" -q
complains "says which there are" "expected f32 or bf16"

# stopped, and killed
config c c ', "steps": 1000000'
"$HADAL" train "$T/c.json" -q -t 1 2>"$T/err" &
pid=$!
while [ ! -s "$T/c/state.safetensors" ]; do sleep 0.1; done
kill -INT $pid
wait $pid
[ $? -eq 130 ]
report $? "Ctrl-C ends with 130"
complains "and says where it was" "--resume"
works "and can be resumed" "$HADAL" train --resume "$T/c" -q --steps 1
"$HADAL" train --resume "$T/c" -q -t 1 2>"$T/err" &
pid=$!
sleep 0.3
kill -KILL $pid
wait $pid 2>/dev/null
works "killed, and can be resumed" "$HADAL" train --resume "$T/c" -q --steps 1
for k in 1 2 3 4; do
    HD_FAULT=write:$k "$HADAL" train --resume "$T/c" -q --steps 1 2>/dev/null
done
works "a disk that fails leaves the last checkpoint" "$HADAL" train --resume "$T/c" -q --steps 1

# what bad input gets
fails 2 "neither CONFIG nor --resume" "$HADAL" train
fails 1 "no such file" "$HADAL" train "$T/nothing.json"
config d d ', "steps": 20, "contxt": 3'
fails 1 "a field that there is none of" "$HADAL" train "$T/d.json" -q
complains "names it" "contxt"
config e e ', "steps": 20, "optimizer": {"name": "sgd"}'
fails 1 "an unknown optimiser" "$HADAL" train "$T/e.json" -q
: >"$T/empty.txt"
sed "s/text.txt/empty.txt/; s|$T/a\"|$T/f\"|" "$T/a.json" >"$T/f.json"
fails 1 "empty data" "$HADAL" train "$T/f.json" -q
complains "names the file" "empty.txt"
fails 1 "a directory that holds no run" "$HADAL" train --resume "$T" -q
echo "more" >>"$T/text.txt"
fails 2 "changed data" "$HADAL" train --resume "$T/b" -q
complains "says so" "not those that the run began with"

config g g ', "steps": 2, "tokenizer": "bpe", "bpe_vocab": 290'
works "a tokenizer of its own" "$HADAL" train "$T/g.json" -q
works "that tokenizes" "$HADAL" tokenize "$T/g" -p "the sea"
echo "1..$n"

# no validation at all
sed "s|\"data\": {\"train\": \"$T/text.txt\"}|\"data\": {\"train\": \"$T/text.txt\", \"val_part\": 0}|; s|\"out\": \"$T/a\"|\"out\": \"$T/n\"|" "$T/a.json" >"$T/n.json"
works "without validation data" "$HADAL" train "$T/n.json" -q --steps 2

# an average of the weights is kept, cut and resumed like everything else
config e e ', "steps": 12, "optimizer": {"ema": 0.9}'
works "an average of weights" "$HADAL" train "$T/e.json" -q
works "is a model" "$HADAL" run "$T/e/ema" --raw -p "the sea" -n 4 --temp 0
config f f ', "steps": 12, "optimizer": {"ema": 0.9}'
works "the same, 5 steps" "$HADAL" train "$T/f.json" -q --steps 5
works "and the rest" "$HADAL" train --resume "$T/f" -q -t 1
cmp -s "$T/e/ema/model.safetensors" "$T/f/ema/model.safetensors" && ! cmp -s "$T/e/ema/model.safetensors" "$T/e/model.safetensors"
report $? "the same bits, not the last step's"

# conversations, completions, time, stored weights, perplexity
i=0
while [ $i -lt 40 ]; do echo "{\"prompt\": \"number $((i % 7)): \", \"completion\": \"the sea is deep\"}"; i=$((i + 1)); done >"$T/pairs.jsonl"
echo '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}' >"$T/chat.jsonl"
sed "s|\"$T/text.txt\"|\"$T/pairs.jsonl\"|" "$T/a.json" | sed "s|\"out\": \"$T/a\"|\"out\": \"$T/p\", \"ngram\": 3|" >"$T/p.json"
works "prompts and completions" "$HADAL" train "$T/p.json" --steps 12
complains "counts what is no target" "of all tokens are no targets"
complains "shows the n-gram loss beside" "(3-grams "
head -1 "$T/p/metrics.csv" | grep -q '^step,tokens,loss' && [ "$(wc -l <"$T/p/metrics.csv")" -eq 14 ] && [ -s "$T/p/events.out.tfevents.0.hadal" ]
report $? "metrics as a table and as events"
sed "s|\"$T/text.txt\"|\"$T/chat.jsonl\"|" "$T/a.json" | sed "s|\"out\": \"$T/a\"|\"out\": \"$T/q\"|" >"$T/q.json"
fails 1 "conversations without a chat format" "$HADAL" train "$T/q.json" -q
complains "names the line" "chat.jsonl: line 1: the model has no chat template"
sed "s|\"out\": \"$T/a\"|\"out\": \"$T/w\", \"init\": \"$T/a\", \"tokenizer\": \"$T/a\", \"schedule\": {\"minutes\": 0.03}|; s/\"steps\": 20/\"steps\": 100000000/" "$T/a.json" >"$T/w.json"
works "stored weights, for two seconds" "$HADAL" train "$T/w.json" -q --json
first_loss() { head -1 "$1/metrics.jsonl" | sed 's/.*"loss": \([0-9.]*\).*/\1/'; }
[ "$(printf '%s\n' "$(first_loss "$T/w")" "$(first_loss "$T/a")" | sort -g | head -1)" = "$(first_loss "$T/w")" ]
report $? "it had learned already"
works "perplexity" "$HADAL" eval ppl "$T/a" --text "$T/text.txt" --ctx 32 --json
says "of every token" '"bits_per_byte": '
fails 2 "perplexity of nothing" "$HADAL" eval ppl "$T/a"
fails 1 "perplexity of a file that is not there" "$HADAL" eval ppl "$T/a" --text "$T/none.txt"
