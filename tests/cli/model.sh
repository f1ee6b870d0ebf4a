# model.sh: the program on the real model, when it is there: answers, options, interruption.
. tests/cli/common.sh
M=models/cache/SmolLM2-135M-Instruct.Q4_1.gguf
if [ ! -f $M ]; then
    echo "ok 1 - # SKIP $M is not there"
    exit 0
fi
works "answers" "$HADAL" run $M -p "What is the capital of France?" -n 30 --temp 0
says "sensibly" "Paris"
complains "closing line" "of the roofline"
cp "$T/out" "$T/one"
works "again, one thread, quiet" "$HADAL" run $M -p "What is the capital of France?" -n 30 --temp 0 --threads 1 -q
cmp -s "$T/out" "$T/one"
report $? "the same bytes"
[ ! -s "$T/err" ]
report $? "quiet is quiet"
works "raw" "$HADAL" run $M --raw -p "The capital of France is" -n 3 --temp 0 -q
says "continues" " Paris"
works "stop string" "$HADAL" run $M --raw -p "1, 2, 3, 4," -n 20 --temp 0 -q --stop " 7"
case $(cat "$T/out") in *7*) ok=1 ;; *6*) ok=0 ;; *) ok=1 ;; esac
report $ok "ends before it"
works "seed" "$HADAL" run $M -p "Tell me a story." -n 24 --seed 5 -q
cp "$T/out" "$T/one"
works "same seed" "$HADAL" run $M -p "Tell me a story." -n 24 --seed 5 -q
cmp -s "$T/out" "$T/one"
report $? "same answer"
works "other seed" "$HADAL" run $M -p "Tell me a story." -n 24 --seed 6 -q
! cmp -s "$T/out" "$T/one"
report $? "other answer"
works "json" "$HADAL" run $M -p "Hi" -n 5 --json -q --temp 0
says "has ids" '"ids": ['
works "f16 cache" "$HADAL" run $M -p "What is the capital of France?" -n 30 --temp 0 -q --kv f16
says "answers too" "Paris"
works "every option" "$HADAL" run $M -p "Hi" -n 5 -q --top-k 5 --top-p 0.9 --min-p 0.1 --repeat-penalty 1.1 --presence-penalty 0.1 --frequency-penalty 0.1 --logit-bias 5:1.5,6:-2
works "nothing asked for" "$HADAL" run $M -p "Hi" -n 0 -q
fails 1 "prompt that does not fit" "$HADAL" run $M -p "a b c d e f g h i j k l m n o p q r s t u v w x y z" -n 5 -c 16
works "one question" "$HADAL" run $M -p "Name a big fish." --temp 0 -n 30 -q
cp "$T/out" "$T/one"
works "another" "$HADAL" run $M -p "What is the capital of France?" --temp 0 -n 30 -q
cat "$T/out" >>"$T/one"
printf 'Name a big fish.\n/new\nWhat is the capital of France?\n' >"$T/chat"
timeout 60 "$HADAL" run $M --temp 0 -n 30 -q <"$T/chat" >"$T/out" 2>"$T/err"
report $? "chat from a pipe"
tr -d '\n' <"$T/out" >"$T/out1"
tr -d '\n' <"$T/one" >"$T/one1"
cmp -s "$T/out1" "$T/one1"
report $? "answers as one by one"
# Ctrl-C ends the answer, not with a crash: the process exits by itself, with its closing line
"$HADAL" run $M -p "Write a very long story about the sea." -n 1000 --temp 0.5 --seed 1 >"$T/long" 2>"$T/err" &
pid=$!
for i in $(seq 1 100); do [ -s "$T/long" ] && break; sleep 0.2; done
kill -INT $pid
wait $pid
rc=$?
[ $rc -eq 0 ] || [ $rc -eq 130 ]
report $? "interrupted: exit $rc"
complains "says so" "interrupted"
works "tokenize from GGUF" "$HADAL" tokenize $M -p "Hello world" --ids
printf '{"messages": [{"role": "user", "content": "Hi <|im_end|>"}]}' >"$T/m.json"
works "chat template" "$HADAL" tokenize $M --chat "$T/m.json"
says "is ChatML" "<|im_start|>user"
works "its ids" "$HADAL" tokenize $M --chat "$T/m.json" --ids
if [ -x "${HD_TEST_BUILD:-build/release}/examples/answer" ]; then
    works "example program" "${HD_TEST_BUILD:-build/release}/examples/answer" $M "What is the capital of France?"
    says "streams" "Paris"
fi
echo "1..$n"
