# nano.sh: what `make run` does, on the model in the repository: answers, the same for any number of threads, measured as a text's perplexity.
. tests/cli/common.sh
M=models/nano
if [ ! -f $M/model.safetensors ]; then
    echo "ok 1 - # SKIP $M holds no weights"
    exit 0
fi
works "make run's command" sh tools/run.sh "$HADAL" $M "Tell me a story about a boy named Sam and a red kite."
says "tells of Sam" "Sam"
works "greedy" "$HADAL" run $M -p "What does a cow eat?" -n 40 --temp 0 -q
says "knows cows" "grass"
cp "$T/out" "$T/one"
works "one thread" "$HADAL" run $M -p "What does a cow eat?" -n 40 --temp 0 -q -t 1
cmp -s "$T/out" "$T/one"
report $? "the same bytes"
works "two turns" sh -c "printf 'My name is Lily.\nWhat is my name?\n' | \"$HADAL\" run $M --temp 0 -n 40 -q"
says "remembers" "Lily"
echo '{"messages": [{"role": "user", "content": "What does a cow eat?"}, {"role": "assistant", "content": "A cow eats grass."}]}' >"$T/cow.jsonl"
works "its own answers do not surprise it" "$HADAL" eval ppl $M --text "$T/cow.jsonl" --answers --json
python3 -c "import json, sys; sys.exit(not json.load(open('$T/out'))['ppl'] < 3)"
report $? "perplexity below 3"
[ "$(du -k $M/model.safetensors | cut -f1)" -le 24576 ]
report $? "at most 24 MiB"
works "needle" "$HADAL" eval needle $M --ctx 1024 --records 16 --json -q
python3 -c "import json, sys; sys.exit(not json.load(open('$T/out'))['accuracy'] >= 0.75)"
report $? "finds three of four codes"
