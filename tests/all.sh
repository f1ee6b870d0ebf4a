#!/bin/sh
# all.sh: what `make check-all` runs: the tests under every sanitizer, every instruction-set level that can be emulated, aarch64
# kernels under qemu, fuzz corpora. Ends with "N passed, N failed".
set -u
total=0 bad=0
make="make --no-print-directory -s -j$(nproc)"
tally() { # name, log
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$2" | tail -n 1)
    p=${line%% passed*} f=${line#*, }
    f=${f%% failed*}
    if [ -z "$line" ]; then p=0 f=1; fi
    [ "$f" -eq 0 ] || grep -v '^ok' "$2" | tail -n 60
    grep -E '^ +skipped: ' "$2"
    echo "== $1: $p passed, $f failed"
    total=$((total + p)) bad=$((bad + f))
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT INT TERM
for b in release asan ubsan tsan; do
    $make B=$b all tests >"$log" 2>&1 || { tail -n 20 "$log"; bad=$((bad + 1)); continue; }
    ASAN_OPTIONS=detect_leaks=1 TSAN_OPTIONS=halt_on_error=1 sh tests/run.sh build/$b >"$log" 2>&1
    tally "$b" "$log"
done
HD_TEST_ALL=1 HD_TESTS="test_schema test_calls" sh tests/run.sh build/release >"$log" 2>&1
tally "10k random schemas" "$log"
HD_CPU=scalar sh tests/run.sh build/release >"$log" 2>&1
tally "scalar kernels" "$log"
if $make B=emulate checkkern >"$log" 2>&1; then build/emulate/tests/checkkern >"$log" 2>&1; fi
tally "every x86 level, emulated" "$log"
if $make B=aarch64 CC=aarch64-linux-gnu-gcc checkkern >"$log" 2>&1; then qemu-aarch64 build/aarch64/tests/checkkern >"$log" 2>&1; fi
tally "aarch64, under qemu" "$log"
sh tests/needle.sh >"$log" 2>&1
tally "needles at 65,536 tokens" "$log"
sh tests/fuzz/replay.sh >"$log" 2>&1
tally "fuzz corpora" "$log"
echo "$total passed, $bad failed"
[ "$bad" -eq 0 ]
