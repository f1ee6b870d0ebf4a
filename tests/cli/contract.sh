# contract.sh: what every command promises: usage errors are 2, the world's are 1, one line each; outputs as documented.
. tests/cli/common.sh
L=tests/golden/llama-a
K=tests/golden/tokenizer/llama3

# usage
fails 2 "no command" "$HADAL"
fails 2 "unknown command" "$HADAL" fly
fails 2 "unknown option" "$HADAL" logits $L --tokns 1
complains "suggests the option" "--tokens"
fails 2 "missing argument" "$HADAL" inspect
fails 2 "extra argument" "$HADAL" inspect $L $L
fails 2 "value missing" "$HADAL" logits $L --tokens
fails 2 "not a number" "$HADAL" run $L -n x
fails 2 "number out of range" "$HADAL" inspect $L --threads 0
fails 2 "flag with a value" "$HADAL" inspect $L --plan=1
fails 2 "unknown exact mode" "$HADAL" logits $L --tokens 1 --out "$T/x" --exact=f16
fails 2 "level the CPU lacks" "$HADAL" logits $L --tokens 1 --out "$T/x" --cpu avx9000
if grep -q 'flags.* amx_int8' /proc/cpuinfo; then
    works "level amx" "$HADAL" logits $L --tokens 1 --out "$T/x" --cpu amx
else
    fails 2 "level amx where there is none" "$HADAL" logits $L --tokens 1 --out "$T/x" --cpu amx
fi
o=${HD_TEST_BUILD:-.}/src/kernels/panel/panel_amx.o
if [ -f "$o" ] && command -v objdump >"$T/out"; then
    objdump -d "$o" >"$T/out"
    says "products of tiles are compiled" tdpbssd
fi
fails 2 "ids that are none" "$HADAL" logits $L --tokens 1,b --out "$T/x"
fails 2 "negative id" "$HADAL" logits $L --tokens -1 --out "$T/x"
fails 2 "no ids" "$HADAL" logits $L --tokens , --out "$T/x"
fails 2 "tokenize what" "$HADAL" tokenize $K
fails 2 "two prompts" "$HADAL" run $L -p a -f b
works "--version" "$HADAL" --version
works "help" "$HADAL" help
for c in run serve usage logits tokenize inspect pack bench train doctor; do
    works "help $c" "$HADAL" $c --help
    works "man $c" "$HADAL" man $c
    says "man $c is troff" ".SH OPTIONS"
done
works "man" "$HADAL" man
works "completion bash" "$HADAL" completion bash
bash -n "$T/out" 2>/dev/null
report $? "bash accepts it"
works "completion zsh" "$HADAL" completion zsh
fails 2 "completion for nobody" "$HADAL" completion fish

# logits
works "logits" "$HADAL" logits $L --tokens 1,2,3 --out "$T/a.safetensors" --exact=f32
[ ! -s "$T/out" ]
report $? "logits writes nothing to stdout"
echo "1, 2,3" >"$T/ids"
works "ids from a file" "$HADAL" logits $L --tokens "@$T/ids" --out "$T/b.safetensors" --exact=f32 --threads 1
cmp -s "$T/a.safetensors" "$T/b.safetensors"
report $? "the same bytes with one thread"
works "trace" "$HADAL" logits $L --tokens 1,2,3 --out "$T/c.safetensors" --exact=f32 --trace
grep -qa '"layers.1.out"' "$T/c.safetensors"
report $? "trace names layers"
works "official" "$HADAL" logits $L --tokens 1 --out "$T/d.safetensors" --exact=official
fails 1 "id beyond the vocabulary" "$HADAL" logits $L --tokens 1,128 --out "$T/e.safetensors"
seq -s , 0 127 >"$T/ids"
tr '\n' , <"$T/ids" >"$T/many"; cat "$T/ids" >>"$T/many"; printf , >>"$T/many"; cat "$T/ids" >>"$T/many"
fails 1 "context overflow" "$HADAL" logits $L --tokens "@$T/many" --out "$T/e.safetensors"
fails 1 "ids file missing" "$HADAL" logits $L --tokens "@$T/nothing" --out "$T/e.safetensors"
fails 1 "no such directory for the output" "$HADAL" logits $L --tokens 1 --out "$T/no/e.safetensors"
fails 1 "output is a directory" "$HADAL" logits $L --tokens 1 --out "$T"
fails 1 "no such model" "$HADAL" logits "$T/none" --tokens 1 --out "$T/e.safetensors"
HD_FAULT=write:1; export HD_FAULT
fails 1 "a write fails" "$HADAL" logits $L --tokens 1,2,3 --out "$T/e.safetensors"
HD_FAULT=alloc:150
fails 1 "an allocation fails" "$HADAL" logits $L --tokens 1,2,3 --out "$T/e.safetensors"
unset HD_FAULT
[ "$(ls "$T" | grep -c '^e\.')" -eq 0 ]
report $? "nothing was left behind"
if [ -w /dev/full ]; then
    "$HADAL" inspect $L >/dev/full 2>"$T/err"
    rc=$?
    [ $rc -eq 1 ] && [ "$(wc -l <"$T/err")" -eq 1 ]
    report $? "a full disk"
    fails 1 "logits to a full device" "$HADAL" logits $L --tokens 1 --out /dev/full
fi
"$HADAL" inspect $L >&- 2>"$T/err"
rc=$?
[ $rc -eq 1 ] && [ "$(wc -l <"$T/err")" -eq 1 ]
report $? "a closed stdout"
( "$HADAL" inspect tests/golden/llama-a --json; echo $? >"$T/rc" ) 2>"$T/err" | true
[ "$(cat "$T/rc")" -le 1 ]
report $? "a reader that left"

# tokenize
works "ids" "$HADAL" tokenize $K -p "the sea" --ids
grep -qE '^[0-9]+(,[0-9]+)*$' "$T/out"
report $? "comma-separated on one line"
works "empty text" "$HADAL" tokenize $K -p "" --ids
[ ! -s "$T/out" ] || [ "$(cat "$T/out")" = "" ]
report $? "nothing for empty text"
works "special tokens stay text" "$HADAL" tokenize $K -p "<|end|>" --ids
case $(cat "$T/out") in *,*) ok=0 ;; *) ok=1 ;; esac
report $ok "several ids"
works "unless asked" "$HADAL" tokenize $K -p "<|end|>" --ids --special
case $(cat "$T/out") in *,*) ok=1 ;; *) ok=0 ;; esac
report $ok "one id"
printf 'a\377\376\303 \344\270b\000c\r\n' >"$T/bytes"
"$HADAL" tokenize $K --text-file "$T/bytes" --ids >"$T/ids"
"$HADAL" tokenize $K --decode --ids-file "$T/ids" >"$T/back"
cmp -s "$T/bytes" "$T/back"
report $? "any bytes come back"
fails 1 "id that is none" sh -c "echo 999999 > '$T/ids'; '$HADAL' tokenize $K --decode --ids-file '$T/ids'"
fails 1 "no tokenizer" "$HADAL" tokenize $L -p a
D='｜DSML｜'
printf 'hm</think>hi\n\n<%stool_calls>\n<%sinvoke name="f">\n<%sparameter name="k" string="true">v</%sparameter>\n</%sinvoke>\n</%stool_calls>' $D $D $D $D $D $D >"$T/answer"
works "parse" "$HADAL" tokenize tests/golden/chat/v4 --parse --thinking --text-file "$T/answer"
says "is the message" '{"role": "assistant", "reasoning_content": "hm", "content": "hi", "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{\"k\": \"v\"}"}}], "end": "end"}'
works "parse plain text" "$HADAL" tokenize $K --parse -p "a</think>b"
says "all of it content" '"content": "a</think>b"'

# a chat whose context is full goes on
printf 'hi\n%s\n/new\nhi\n' "$(yes 'and then' | head -n 60 | tr '\n' ' ')" | timeout 60 "$HADAL" run tests/golden/v41-f32-a -n 2 --ctx 64 --temp 0 >"$T/out" 2>"$T/err"
report $? "a question that is too long ends no chat"
complains "says what to do" "has room for 64 (--ctx makes it larger); /new starts over"
[ "$(grep -c '^\[prompt' "$T/err")" -eq 2 ]
report $? "the others are answered"

# inspect, doctor, bench
works "inspect a quantised GGUF file" "$HADAL" inspect tests/golden/gguf-v3-k/model.gguf
says "latents as bf16" "(544 B a token)"
for kv in f16 native f32; do
    works "latents, --kv $kv" "$HADAL" logits tests/golden/v3-a --tokens 5,9,2,30,7,11 -o "$T/$kv.st" --kv $kv -q
done
cmp -s "$T/f16.st" "$T/native.st" && ! cmp -s "$T/f16.st" "$T/f32.st"
report $? "f16 keeps them as bf16"
works "inspect" "$HADAL" inspect $L --json
says "total" '"params": {"total": 78144, "active": 78144}'
mkdir "$T/plan"; cp $L/config.json "$T/plan/"
works "plan without weights" "$HADAL" inspect "$T/plan" --plan --json
says "the same total" '"params": {"total": 78144, "active": 78144}'
fails 1 "weights are needed otherwise" "$HADAL" inspect "$T/plan"
works "doctor" "$HADAL" doctor --json
works "bench" "$HADAL" bench $L --json --prompt-tokens 16 --depth 8,12 --batch 1,2 -n 4
for key in '"read_gbs"' '"fma_gflops"' '"int8_gops"' '"prefill"' '"decode"' '"share"' '"depth"' '"batch"' '"barrier_share"' '"in_turns"' '"of_first"'; do says "bench has $key" "$key"; done
fails 2 "bench beyond the context" "$HADAL" bench $L --prompt-tokens 16 --depth 1000000
works "bench at the whole context" "$HADAL" bench $L --json --prompt-tokens 16 --depth 8,256 --batch 1 -n 4
says "leaves room for what is decoded" '"depth": 252'
works "bench --profile" "$HADAL" bench $L --json --profile --prompt-tokens 16 --depth 8 --batch 1 -n 4
python3 - "$T/out" <<'END'
import json, sys
r = json.load(open(sys.argv[1]))
for x in r["prefill"] + r["decode"]:
    share = {p["name"]: p["share"] for p in x["profile"]}
    assert 0.95 < sum(share.values()) < 1.001 and "ffn_down.weight" in share or "mlp.down_proj.weight" in share, share
    assert "attend" in share and all("layers" not in n for n in share), share
END
report $? "shares of a whole, products by weight"

# run: reasoning is no part of the answer. A tiny V4 model with a tokenizer of one character a token
mkdir "$T/v4"; cp tests/golden/v4-f32-a/config.json tests/golden/v4-f32-a/model.safetensors "$T/v4/"
awk 'BEGIN {
    printf "{\"added_tokens\": [{\"id\": 96, \"content\": \"</think>\", \"special\": true}, {\"id\": 97, \"content\": \"<think>\", \"special\": true}], "
    printf "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"merges\": [], \"vocab\": {"
    for (i = 33; i < 127; i++) printf "\"%s%c\": %d, ", i == 34 || i == 92 ? "\\" : "", i, i - 33
    printf "\"\\u0120\": 94, \"\\u010a\": 95}}}" }' >"$T/v4/tokenizer.json"
works "an answer" "$HADAL" run "$T/v4" -p hello -n 24 --seed 1 -q
[ -s "$T/out" ]
report $? "on stdout"
works "cut in the reasoning" "$HADAL" run "$T/v4" -p hello -n 24 --seed 1 --thinking on --logit-bias 32:1000
[ ! -s "$T/out" ]
report $? "nothing on stdout"
complains "it is on stderr" "AAAAAAAAAAAAAAAAAAAAAAAA"
works "as JSON" "$HADAL" run "$T/v4" -p hello -n 24 --seed 1 --thinking on --json
says "apart" '{"text": "", "reasoning": "'
works "the reasoning ends" "$HADAL" run "$T/v4" -p hello -n 24 --seed 1 --thinking on -q --logit-bias 96:1000
[ ! -s "$T/out" ]
report $? "without its marker"
fails 1 "a level that is none" "$HADAL" run "$T/v4" -p hello -n 4 --thinking hard -q

# run without a tokenizer
fails 1 "run needs a tokenizer" "$HADAL" run $L -p x -n 4
echo "1..$n"
