# runner.sh: what tests/run.sh makes of a suite's output: passed, failed, skipped by name, a suite that says nothing.
. tests/cli/common.sh
mkdir -p "$T/o/tests/unit"
# suite NAME STATUS: a test program that prints stdin and ends so
suite() {
    f=$T/o/tests/unit/test_$1
    { echo "#!/bin/sh"; echo "cat <<'END'"; cat; echo END; echo "exit $2"; } >"$f"
    chmod +x "$f"
}
# ends NAME LINE: how the last command's stdout ends
ends() {
    [ "$(tail -n 1 "$T/out")" = "$2" ]
    report $? "$1"
}
# only SUITE...: these under run.sh
only() {
    HD_TESTS=$* run sh tests/run.sh "$T/o"
}
suite good 0 <<'EOF'
1..4
ok 1 - one
ok 2 # SKIP test_two
ok 3 - three # SKIP there is no disk
ok 4 - four
EOF
echo 'ok 1 - tiles # SKIP not here' | suite skipped 0
printf 'ok 1 - one\nnot ok 2 - two\n' | suite bad 1
echo 'ok 1 - one' | suite dies 3
suite silent 0 </dev/null
echo '3 passed, 0 failed' | suite counts 0
only test_good test_counts
ends "what is skipped has not passed" "5 passed, 0 failed"
says "named" "skipped: test_good: test_two"
says "all of them" "skipped: test_good: three: there is no disk"
says "counted" "2 skipped"
says "a suite's own count" "ok     test_good: 2"
[ "$rc" -eq 0 ]
report $? "ends with 0"
only test_skipped
ends "all of it skipped: nothing passed" "0 passed, 0 failed"
[ "$rc" -eq 0 ]
report $? "nor failed"
only test_bad
ends "a failure" "1 passed, 1 failed"
[ "$rc" -eq 1 ]
report $? "ends with 1"
only test_dies
ends "one that dies has failed" "1 passed, 1 failed"
only test_silent
ends "one that says nothing has failed" "0 passed, 1 failed"
echo "1..$n"
