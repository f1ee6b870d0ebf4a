#!/bin/sh
# compare.sh: hadal beside llama.cpp and ik_llama.cpp, alternately, on the same weights: medians and ratios.
#
#   bench/compare.sh [options] [MODEL.gguf]
#   bench/compare.sh [options] --shape v4f-L6E16|v2-lite [--type q8_0|q4_0|bf16]
#
#   --json         figures as JSON          --rounds N   of all engines (default 5)
#   --threads N    (default: cores)         --cpu-clock  processor time instead of the time of day, one thread: for a machine with other work
#   --shape SHAPE  random weights of one of `hadal bench --synthetic`'s shapes, as checkpoint and as GGUF (bench/synthetic_gguf.py);
#                  v2-lite: V2-Lite with 8 of its 64 experts (v2lite-L27E8)
#   --type TYPE    what GGUF makes of fp8 matrices, or of bf16 ones where there is no fp8 (default q8_0)
#
# Engines: hadal on the GGUF (and on the checkpoint, where its formats are those of DeepSeek-V4: fp4, fp8); llama.cpp on the GGUF; ik_llama.cpp too where
# that is of the architecture deepseek2, the only one of ours that it knows. llama.cpp: flash attention, weights repacked when loaded (its default), 512
# tokens at a time. ik_llama.cpp: -mla 3, flash attention, repacked when loaded, fused experts.
#
# They come from the source distributions of llama-cpp-python 0.3.36 and ik-llama-cpp-python 0.1.5 on PyPI, built here with this machine's own
# instructions, into build/compare; LLAMA_BENCH and IK_BENCH name a llama-bench that is there already. Needs pip, cmake, ninja, python3 and, the first
# time, ten minutes for llama.cpp and twenty for ik_llama.cpp.
set -eu
cd "$(dirname "$0")/.."
work=build/compare rounds=5 threads=0 json=0 clock=0 shape= type=q8_0 model=models/cache/SmolLM2-135M-Instruct.Q4_1.gguf
while [ $# -gt 0 ]; do
    case $1 in
    --json) json=1 ;;
    --cpu-clock) clock=1 ;;
    --rounds | --threads | --shape | --type)
        [ $# -gt 1 ] || { echo "compare.sh: $1: expected a value" >&2; exit 2; }
        eval "${1#--}=\$2"
        shift
        ;;
    -*) echo "compare.sh: $1: expected --json, --cpu-clock, --rounds N, --threads N, --shape SHAPE, --type TYPE" >&2; exit 2 ;;
    *) model=$1 ;;
    esac
    shift
done
make -s all >&2
hadal=$(make -s print-bin)
mkdir -p $work

# fetch PACKAGE VERSION DIR: a source distribution, unpacked
fetch() {
    [ -d "$3" ] && return
    pip download -q --no-deps --no-binary "$1" -d $work "$1==$2" >&2
    mkdir "$3" && tar xf "$work/$(echo "$1" | tr - _)-$2.tar.gz" -C "$3" --strip-components 1
}

llama=${LLAMA_BENCH:-$work/build/bin/llama-bench}
if [ ! -x "$llama" ]; then
    fetch llama-cpp-python 0.3.36 $work/src
    cmake -S $work/src/vendor/llama.cpp -B $work/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF >&2
    ninja -C $work/build llama-bench >&2
fi

checkpoint=
[ "$shape" != v2-lite ] || shape=v2lite-L27E8
if [ -n "$shape" ]; then
    dir=$work/$shape
    model=$dir/$type.gguf
    [ -f "$dir/model.safetensors" ] || [ -f "$model" ] || {
        rm -rf "$dir"
        $hadal bench --synthetic "$shape" --keep "$dir" --exact=f32 --prompt-tokens 1 --depth 0 --batch 1 -n 1 >/dev/null
    }
    if [ ! -f "$model" ]; then
        python=python3
        python3 -c 'import gguf' 2>/dev/null || {
            [ -x $work/venv/bin/python ] || { python3 -m venv $work/venv && $work/venv/bin/pip install -q gguf numpy >&2; }
            python=$work/venv/bin/python
        }
        $python bench/synthetic_gguf.py "$dir" "$model" --type "$type" >&2
    fi
    case $shape in v4*) checkpoint=$dir ;; esac
fi
[ -f "$model" ] || { echo "compare.sh: $model: not there (sh tools/fetch_model.sh)" >&2; exit 1; }

ik=
if [ "$($hadal inspect "$model" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["arch"])')" = deepseek_v2 ]; then
    ik=${IK_BENCH:-$work/ik/bin/llama-bench}
    if [ ! -x "$ik" ]; then
        fetch ik-llama-cpp-python 0.1.5 $work/ik-src
        info=$work/ik-src/vendor/ik_llama.cpp/common
        [ -d $info/cmake ] || {                        # what writes build-info.cpp is not in the source distribution
            mkdir $info/cmake && : >$info/cmake/build-info-gen-cpp.cmake
            printf '%s\n' 'int LLAMA_BUILD_NUMBER = 0;' 'char const *LLAMA_COMMIT = "0.1.5";' 'char const *LLAMA_COMPILER = "";' 'char const *LLAMA_BUILD_TARGET = "";' \
                >$info/build-info.cpp
        }
        cmake -S $work/ik-src/vendor/ik_llama.cpp -B $work/ik -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_IQK_FA_ALL_QUANTS=OFF \
            -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF >&2
        ninja -C $work/ik llama-bench >&2
    fi
fi

run=env
if [ $clock = 1 ]; then
    cc -O2 -shared -fPIC -o $work/cpu_clock.so bench/cpu_clock.c
    run="env LD_PRELOAD=$PWD/$work/cpu_clock.so" threads=1
fi
[ "$threads" -gt 0 ] || threads=$($hadal doctor --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["threads"])')

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# First whether both say the same: their logits of the same ids. A llama-bench that was there already has its headers elsewhere: LLAMA_SRC.
src=${LLAMA_SRC:-$work/src/vendor/llama.cpp}
if [ -n "$shape" ] && [ -f "$src/include/llama.h" ]; then
    lib=$(cd "$(dirname "$llama")" && pwd)
    cc -O2 -I"$src/include" -I"$src/ggml/include" -o "$out/llama_logits" bench/llama_logits.c -L"$lib" -lllama -lggml-base "-Wl,-rpath,$lib"
    ids=5,42,79,116,153,190,227,264,301,338,375,412,449,486,523,560
    $hadal logits "$model" --tokens $ids --out "$out/logits" --quiet
    "$out/llama_logits" "$model" $ids "$out/llama.logits"
fi

# measure ENGINE COMMAND...: its report, beside that of the rounds before
measure() {
    name=$1
    shift
    $run "$@" >"$out/$name.$i" 2>"$out/errors" || { echo "compare.sh: $*:" >&2; tail -5 "$out/errors" >&2; exit 1; }
}
i=0
while [ $i -lt "$rounds" ]; do
    [ -z "$checkpoint" ] || measure checkpoint "$hadal" bench "$checkpoint" --json --threads "$threads" --prompt-tokens 512 --depth 16,512 --batch 1
    measure hadal "$hadal" bench "$model" --json --threads "$threads" --prompt-tokens 512 --depth 16,512 --batch 1
    measure llama "$llama" -m "$model" -p 512 -n 0 -t "$threads" -r 1 -fa 1 -o jsonl
    measure llama.more "$llama" -m "$model" -p 0 -n 32 -d 16,512 -t "$threads" -r 1 -fa 1 -o jsonl
    [ -z "$ik" ] || measure ik "$ik" -m "$model" -p 512 -n 0 -gp 16,32 -gp 512,32 -t "$threads" -r 1 -fa 1 -mla 3 -rtr 1 -fmoe 1 -o json
    i=$((i + 1))
done
python3 bench/compare.py "$out" "$rounds" "$json" "${shape:+$shape }$(basename "$model")" "$threads" $clock
