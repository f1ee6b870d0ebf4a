#!/bin/sh
# run.sh OUT: runs every test under OUT (build/release), tests/cli and tests/wire, and ends with "N passed, N failed".
#
# A test program prints TAP ("ok 1 - name") or ends with a line "N passed, N failed". One that dies, or says nothing, is a
# failure of its own. What is skipped ("ok 1 - name # SKIP why") has not passed: every one is named, and they are counted on the line before the last.
# Output is shown only where something failed. HD_TESTS="a b" runs these only.
set -u
out=$1
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT INT TERM
passed=0 failed=0 skipped=0
export UBSAN_OPTIONS=halt_on_error=1
export HADAL="$PWD/$out/hadal" CMOCKA_MESSAGE_OUTPUT=TAP HD_TEST_OUT="$log" HD_TEST_BUILD="$PWD/$out"

one() { # name command...
    name=$1
    shift
    case " ${HD_TESTS:-$name} " in *" $name "*) ;; *) return ;; esac
    timeout 1200 "$@" >"$log/out" 2>&1
    rc=$?
    set -- $(awk '
        /^ok [0-9]+.*# SKIP/ { s++; next }
        /^ok [0-9]+/ { p++ } /^not ok [0-9]+/ { f++ }
        /^[0-9]+ passed, [0-9]+ failed$/ { p += $1; f += $3 }
        END { print p + 0, f + 0, s + 0 }' "$log/out")
    p=$1 f=$2 s=$3
    if [ $rc -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    if [ $((p + f + s)) -eq 0 ]; then f=1; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [ "$f" -gt 0 ]; then
        grep -v '^ok ' "$log/out" | tail -n 40
        echo "FAILED $name: $p passed, $f failed, exit $rc"
    else
        echo "ok     $name: $p"
    fi
    sed -n "s/^ok [0-9]*[ -]*\(.*\)# SKIP */\1: /p" "$log/out" | sed "s/^: //; s/ : /: /; s/^/       skipped: $name: /"
}

for t in "$out"/tests/check* "$out"/tests/unit/test_*; do
    case $t in *.d | *\**) continue ;; esac
    one "$(basename "$t")" "$t"
done
for t in tests/cli/*.sh; do
    case $t in *common.sh | *\**) continue ;; esac
    one "$(basename "$t" .sh)" sh "$t"
done
for t in tests/wire/wire_*.py; do
    case $t in *\**) continue ;; esac
    one "$(basename "$t" .py)" python3 -B "$t"
done
[ "$skipped" -eq 0 ] || echo "$skipped skipped"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
