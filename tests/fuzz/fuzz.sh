#!/bin/sh
# fuzz.sh [SECONDS] [libfuzzer|afl]: looks for trouble. Findings go to build/fuzz/crashes; put them into tests/fuzz/corpus with their fix.
set -eu
seconds=${1:-60} kind=${2:-libfuzzer}
out=build/fuzz
mkdir -p $out/work $out/crashes
flags="-std=gnu11 -Isrc -Iinclude -D_GNU_SOURCE -g -O1 -ffp-contract=off -Wno-unknown-pragmas $(pkg-config --cflags jansson)"
libs="-ljansson -lpcre2-8 -lutf8proc -lm -lpthread"
sh tests/fuzz/seed.sh $out/work
sources="$(find src -name '*.c' ! -path 'src/cli/*' ! -path 'src/server/*' ! -name '*_avx*' ! -name '*_amx.c' ! -name '*_neon.c') src/server/http_head.c"
case $kind in
libfuzzer)
    clang $flags -DHD_SCALAR_ONLY -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_target.c $sources -o $out/fuzz_hadal $libs
    $out/fuzz_hadal -max_total_time="$seconds" -max_len=20000 -timeout=20 -rss_limit_mb=4096 -artifact_prefix=$out/crashes/ $out/work
    ;;
afl)
    afl-clang-fast $flags -DHD_SCALAR_ONLY tests/fuzz/fuzz_target.c tests/fuzz/fuzz_replay.c $sources -o $out/afl_hadal $libs
    AFL_NO_UI=1 AFL_SKIP_CPUFREQ=1 AFL_I_DONT_CARE_ABOUT_MISSING_CRASHES=1 timeout "$seconds" afl-fuzz -i $out/work -o $out/afl -t 5000 $out/afl_hadal || true
    ;;
esac
