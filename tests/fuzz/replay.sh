#!/bin/sh
# replay.sh: seeds and findings through the readers, under the address and undefined-behaviour sanitizers.
set -eu
out=build/fuzz
mkdir -p $out
for b in asan ubsan; do make --no-print-directory -s B=$b lib; done
flags="-std=gnu11 -Isrc -Iinclude -D_GNU_SOURCE -g -O1 $(pkg-config --cflags jansson)"
libs="-ljansson -lpcre2-8 -lutf8proc -lm -lpthread"
sh tests/fuzz/seed.sh $out/seeds
for b in asan ubsan; do
    san=$([ $b = asan ] && echo address || echo undefined)
    UBSAN_OPTIONS=halt_on_error=1 gcc $flags -fsanitize=$san tests/fuzz/fuzz_target.c tests/fuzz/fuzz_replay.c build/$b/libhadal.a -o $out/replay_$b $libs
    UBSAN_OPTIONS=halt_on_error=1 timeout 300 $out/replay_$b $out/seeds/* $(ls tests/fuzz/corpus/* 2>/dev/null)
done
