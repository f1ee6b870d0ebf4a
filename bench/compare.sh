#!/bin/sh
# compare.sh: hadal beside llama.cpp, alternately, on one GGUF file: medians and ratios.
#
#   bench/compare.sh [--json] [--rounds N] [--threads N] [MODEL.gguf]
#
# llama.cpp comes from the source distribution of llama-cpp-python 0.3.36 on PyPI, built here with this machine's own instructions, into
# build/compare; LLAMA_BENCH names a llama-bench that is there already. Needs pip, cmake, ninja, python3 and ten minutes the first time.
set -eu
cd "$(dirname "$0")/.."
work=build/compare rounds=5 threads=0 json=0 model=models/cache/SmolLM2-135M-Instruct.Q4_1.gguf version=0.3.36
while [ $# -gt 0 ]; do
    case $1 in
    --json) json=1 ;;
    --rounds) rounds=$2; shift ;;
    --threads) threads=$2; shift ;;
    -*) echo "compare.sh: $1: expected --json, --rounds N, --threads N" >&2; exit 2 ;;
    *) model=$1 ;;
    esac
    shift
done
[ -f "$model" ] || { echo "compare.sh: $model: not there (sh tools/fetch_model.sh)" >&2; exit 1; }
make -s all >&2
hadal=$(make -s print-bin)
[ "$threads" -gt 0 ] || threads=$($hadal doctor --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["threads"])')

llama=${LLAMA_BENCH:-$work/build/bin/llama-bench}
if [ ! -x "$llama" ]; then
    mkdir -p $work
    [ -d $work/src ] || {
        pip download -q --no-deps --no-binary llama-cpp-python -d $work "llama-cpp-python==$version" >&2
        mkdir $work/src && tar xf $work/llama_cpp_python-$version.tar.gz -C $work/src --strip-components 1
    }
    cmake -S $work/src/vendor/llama.cpp -B $work/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF >&2
    ninja -C $work/build llama-bench >&2
fi

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
i=0
while [ $i -lt "$rounds" ]; do
    "$llama" -m "$model" -p 512 -n 32 -d 0,512 -t "$threads" -r 1 -fa 1 -o json >"$out/llama.$i" 2>/dev/null
    $hadal bench "$model" --json --threads "$threads" --prompt-tokens 512 --depth 16,512 >"$out/hadal.$i" 2>/dev/null
    i=$((i + 1))
done
python3 bench/compare.py "$out" "$rounds" "$json" "$model" "$threads"
