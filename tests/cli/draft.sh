# draft.sh: guesses change the speed, not the answer: --draft of `hadal run`, with a draft module and with earlier text.
. tests/cli/common.sh
M=tests/golden/v41-f32-dspark-a
# ids HOW OPTIONS: what an answer is made of, without what it took
ids() {
    "$HADAL" run $M --raw -p "one two one two one two" -n 40 --json -q --draft "$@" 2>"$T/err" | sed 's/"prefill_tps.*"ids"/"ids"/' >"$T/ids"
}
for options in "--temp 0" "--seed 3" "--seed 4 --temp 1 --top-p 0.9 --frequency-penalty 0.5" "--seed 5 --exact f32" "--seed 6 --threads 2" "--temp 0 --logit-bias 65:100" "--seed 8 --chunk 3"; do
    # shellcheck disable=SC2086
    ids off $options
    cp "$T/ids" "$T/plain"
    for how in auto 1 3 5 ngram ngram:16; do
        # shellcheck disable=SC2086
        ids $how $options
        grep -q '"finish": "length"' "$T/ids" && cmp -s "$T/ids" "$T/plain"
        report $? "--draft $how $options"
    done
done
# a model that says the same token for ever is foreseen
works "closing line" "$HADAL" run $M --raw -p "hello" -n 60 --temp 0 --logit-bias 65:100 --draft ngram:4
complains "tells of guesses" "guesses stood, "
works "numbers" "$HADAL" run $M --raw -p "hello" -n 60 --temp 0 --logit-bias 65:100 --draft ngram:4 --json
python3 - "$T/out" <<'EOF'
import json, sys
r = json.load(open(sys.argv[1]))
sys.exit(not (r["drafted"] >= r["accepted"] > 30 and r["steps"] < 30 and r["tokens"] == 60))
EOF
report $? "fewer steps than tokens"
works "off is off" "$HADAL" run $M --raw -p "hello" -n 9 --temp 0 --json --draft off
says "no guesses" '"drafted": 0, "accepted": 0'
for bad in 0 -1 17 x ngram: ngram:x ngram:0 ngrams 3x; do
    fails 2 "--draft $bad" "$HADAL" run $M --raw -p hello -n 3 --draft "$bad"
    complains "says what it takes" "expected auto, off, ngram, or 1 to 16 tokens"
done
fails 2 "more than the module proposes" "$HADAL" run $M --raw -p hello -n 3 --draft 6
complains "says how many" "expected 1 to 5"
fails 1 "no module" "$HADAL" run tests/golden/v41-f32-a --raw -p hello -n 3 --draft 2
complains "says so" "has no draft module"
works "auto without one" "$HADAL" run tests/golden/v41-f32-a --raw -p hello -n 3 -q
# a checkpoint whose module cannot be used
mkdir "$T/broken"
for f in model.safetensors tokenizer.json; do ln -s "$PWD/$M/$f" "$T/broken/$f"; done
sed 's/"dspark_block_size"[^,]*,//' $M/config.json >"$T/broken/config.json"
works "auto does without the module" "$HADAL" run "$T/broken" --raw -p hello -n 3 --temp 0
complains "and says why" "draft module not used: $T/broken/config.json: dspark_block_size"
[ "$(grep -c 'draft module not used' "$T/err")" -eq 1 ]
report $? "once"
works "quietly" "$HADAL" run "$T/broken" --raw -p hello -n 3 --temp 0 -q
[ ! -s "$T/err" ]
report $? "nothing is said"
fails 1 "a number of guesses needs it" "$HADAL" run "$T/broken" --raw -p hello -n 3 --draft 2
complains "says what is wrong" "dspark_block_size"
works "earlier text needs none" "$HADAL" run "$T/broken" --raw -p hello -n 3 --draft ngram -q
works "bench does without" "$HADAL" bench "$T/broken" --prompt-tokens 8 --depth 8 --batch 1 -n 2 --draft auto
complains "and says so" "draft module not used"
fails 1 "bench, a number of guesses" "$HADAL" bench "$T/broken" --prompt-tokens 8 --depth 8 --batch 1 -n 2 --draft 2
works "pack does without" "$HADAL" pack "$T/broken" --plan
echo "1..$n"
