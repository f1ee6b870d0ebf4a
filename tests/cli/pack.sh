# pack.sh: hadal pack: what it says, what it leaves behind when something fails, and that other commands find what it wrote.
. tests/cli/common.sh
works "a model with experts" "$HADAL" bench --synthetic v4-tiny1m --keep "$T/m" --prompt-tokens 1 --depth 0 --batch 1 -n 1
works "plan" "$HADAL" inspect "$T/m" --ctx 176 --json
M=$(python3 -c 'import json, sys; m = json.load(sys.stdin)["memory"]; print(m["weights"] + m["cache"] + m["step"] + (60 << 20))' <"$T/out")
# streamed MORE...: a step with few experts in memory
cat >"$T/streamed" <<EOF
exec "$HADAL" bench "$T/m" --prompt-tokens 1 --depth 0 --batch 1 -n 2 --memory $M "\$@"
EOF
streamed="sh $T/streamed"
works "without a pack" $streamed
complains "from disk" "on disk; cache of"
works "how large it would be" "$HADAL" pack "$T/m" --plan
says "so many" "48 experts"
works "as JSON" "$HADAL" pack "$T/m" --plan --json
bytes=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["bytes"])' <"$T/out")
[ ! -e "$T/m/experts.hdpack" ]
report $? "nothing written yet"
works "packs" "$HADAL" pack "$T/m"
says "tells" "48 experts of 6 layers"
[ "$(wc -c <"$T/m/experts.hdpack")" -eq "$bytes" ]
report $? "as large as it said"
works "reads it all" "$HADAL" pack "$T/m" --check -q
says "all of it" "all as written"
works "found beside the model" $streamed
complains "used" "(experts in a pack)"
works "left alone when told so" $streamed --pack off
! grep -q "in a pack" "$T/err"
report $? "not used"
works "inspect sees it" "$HADAL" inspect "$T/m" --plan --memory "$M" --ctx 176 --json
says "all experts" '"packed_experts": 48'
works "one thread writes the same" "$HADAL" pack "$T/m" -o "$T/other" --threads 1 --cpu scalar -q
cmp -s "$T/m/experts.hdpack" "$T/other"
report $? "the same bytes at another level"
works "named" $streamed --pack "$T/other"
complains "used too" "(experts in a pack)"
fails 1 "named, and not there" "$HADAL" bench "$T/m" --memory "$M" --prompt-tokens 1 --depth 0 --batch 1 -n 1 --pack "$T/none"
complains "which" "$T/none"
dd if="$T/m/experts.hdpack" of="$T/short" bs=4096 count=100 2>/dev/null
works "one that ends early" $streamed --pack "$T/short"
complains "not used, and why" "pack not used: $T/short: is 409600 bytes"
cp "$T/other" "$T/holes"
dd if=/dev/zero of="$T/holes" bs=4096 seek=2 count=4000 conv=notrunc 2>/dev/null
works "one with holes" $streamed --pack "$T/holes"
fails 1 "which --check finds" "$HADAL" pack "$T/m" --check -q -o "$T/holes"
complains "damaged" "is damaged"
works "what is no pack" $streamed --pack "$T/m/config.json"
complains "said so" "no pack of experts"
run "$HADAL" pack "$T/m" --check -q -o "$T/short"
[ $rc -eq 1 ]
report $? "--check fails on it"
fails 1 "no experts" "$HADAL" pack tests/golden/llama-a
complains "nothing to pack" "no routed experts"
fails 1 "no such directory" "$HADAL" pack "$T/m" -o "$T/no/pack" -q
fails 1 "a directory" "$HADAL" pack "$T/m" -o "$T/m" -q
fails 1 "no such model" "$HADAL" pack "$T/nothing"
before=$(ls "$T/m")
HD_FAULT=write:3
export HD_FAULT
fails 1 "a write fails" "$HADAL" pack "$T/m" -q
unset HD_FAULT
( trap '' XFSZ; ulimit -f 2000; exec "$HADAL" pack "$T/m" -q ) >"$T/out" 2>"$T/err"
[ $? -eq 1 ] && [ "$(wc -l <"$T/err")" -eq 1 ] && [ ! -s "$T/out" ]
report $? "a disk that fills up on the way"
[ "$(ls "$T/m")" = "$before" ] && "$HADAL" pack "$T/m" --check -q >"$T/out"
report $? "nothing left behind, and the pack that was there is whole"
mkdir "$T/small"
if unshare -rm sh -c "mount -t tmpfs -o size=1m tmpfs '$T/small'" 2>/dev/null; then
    unshare -rm sh -c "mount -t tmpfs -o size=1m tmpfs '$T/small' && '$HADAL' pack '$T/m' -q -o '$T/small/p'; rc=\$?; ls -A '$T/small'; exit \$rc" >"$T/out" 2>"$T/err"
    [ $? -eq 1 ] && [ ! -s "$T/out" ]
    report $? "no room: refused before anything is written"
    complains "says what is left" "its file system has"
fi
"$HADAL" pack "$T/m" -o "$T/stopped" >"$T/out" 2>"$T/err" &
kill -INT $! 2>/dev/null
wait $!
[ $? -eq 130 ] || [ -s "$T/stopped" ]
report $? "interrupted"
! ls "$T" | grep -q 'stopped\.tmp'
report $? "without a trace"
echo "1..$n"
