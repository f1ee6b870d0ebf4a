# common.sh: what the command-line tests share. A case: name, then what must hold; TAP on stdout.
# HADAL is the program; T a directory of this test's own.
set -u
HADAL=${HADAL:-$PWD/build/release/hadal}
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT INT TERM
n=0
report() { # status name
    n=$((n + 1))
    if [ "$1" -eq 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; fi
}
# run CMD...: stdout in $T/out, stderr in $T/err, status in $rc
run() {
    "$@" >"$T/out" 2>"$T/err" </dev/null
    rc=$?
}
# fails STATUS NAME CMD...: exits with STATUS, says exactly one line on stderr, writes nothing to stdout, dies of no signal
fails() {
    want=$1 name=$2
    shift 2
    run timeout 60 "$@"
    [ "$rc" -eq "$want" ] && [ "$(wc -l <"$T/err")" -eq 1 ] && [ ! -s "$T/out" ]
    ok=$?
    [ $ok -eq 0 ] || { echo "# exit $rc, expected $want"; sed 's/^/# /' "$T/err" "$T/out" | head -n 5; }
    report $ok "$name"
}
# works NAME CMD...: exits 0
works() {
    name=$1
    shift
    run timeout 120 "$@"
    [ "$rc" -eq 0 ]
    ok=$?
    [ $ok -eq 0 ] || { echo "# exit $rc"; sed 's/^/# /' "$T/err" | head -n 5; }
    report $ok "$name"
}
# says NAME TEXT: the last command's stdout holds TEXT
says() {
    grep -qF -- "$2" "$T/out"
    report $? "$1"
}
complains() {
    grep -qF -- "$2" "$T/err"
    ok=$?
    [ $ok -eq 0 ] || sed 's/^/# /' "$T/err" | head -n 3
    report $ok "$1"
}
