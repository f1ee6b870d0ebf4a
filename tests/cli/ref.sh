# ref.sh: the plain reference against the numbers of the outside, and the engine against the reference, on every golden checkpoint.
. tests/cli/common.sh
REF=${HD_TEST_BUILD:-build/release}/ref/ref

# near NAME A B OPTIONS...: A's logits lie within the bars of B's
near() {
    name=$1
    shift
    run timeout 120 "$REF" --compare "$@"
    [ "$rc" -eq 0 ]
    ok=$?
    sed "s|^|# $name: |" "$T/out" "$T/err"
    report $ok "$name"
}

for d in tests/golden/*/; do
    m=${d%/}
    g=$(basename "$m")
    [ -f "$m/config.json" ] || continue
    case $g in hadal-* | v4-hf-*) continue ;; esac   # written out in tools/golden/hadal_tiny.py; names that the reference does not read
    if [ -f "$m/tokens.json" ]; then
        golden=$m/expected.safetensors ids=$m/tokens.json
    elif [ -f "$m/golden.safetensors" ]; then
        golden=$m/golden.safetensors ids=$golden
    else
        continue
    fi
    "$REF" --ids "@$ids" >"$T/ids" || report 1 "$g: ids"
    works "$g: reference" "$REF" "$m" --tokens "@$T/ids" --out "$T/ref"
    works "$g: engine" "$HADAL" logits "$m" --tokens "@$T/ids" --out "$T/hadal" --exact=f32
    near "$g: engine and reference" "$T/hadal" "$T/ref" --max 1e-4
    case $g in
    *official*)
        # the bars of test_golden.c; of models cut to their first layers, those of the goldens' own README
        case $g in
        v4-official-a) bars="logits:0.062 logits_depth1:0.013 logits_depth2:0.043" ;;
        v41-official-a) bars="logits:0.086 logits_depth1:0.013 logits_depth2:0.022" ;;
        v41-official-mini) bars="logits:1e-4 logits_depth1:1e-4 logits_depth2:1e-4" ;;
        *) bars="logits:1e-4 logits_depth1:1e-4" ;;
        esac
        worst=
        case $g in *mini) worst="--worst 1e-4" ;; esac
        for bar in $bars; do
            tensor=${bar%:*}
            case $tensor in *depth*) cut="--layers ${tensor#*depth}" ;; *) cut= ;; esac
            works "$g: official $tensor" "$REF" "$m" --tokens "@$T/ids" --out "$T/ref" --exact=official $cut
            near "$g: official $tensor and golden" "$T/ref" "$golden" --tensor "$tensor" --median "${bar#*:}" $worst
        done
        ;;
    *) near "$g: reference and golden" "$T/ref" "$golden" --max 1e-4 ;;
    esac
done

# The comparer sees what it should, and the program complains as a program does.
L=tests/golden/llama-a
"$REF" --ids @$L/golden.safetensors >"$T/ids"
works "another model of the same shape" "$REF" tests/golden/llama-yarn --tokens "@$T/ids" --out "$T/other"
run "$REF" --compare "$T/other" $L/golden.safetensors --max 1e-4
[ "$rc" -eq 1 ]
report $? "is found to be another"
fails 2 "no command" "$REF"
fails 2 "unknown mode" "$REF" $L --tokens 1 --out "$T/x" --exact=f16
fails 1 "no such model" "$REF" "$T/none" --tokens 1 --out "$T/x"
fails 1 "id beyond the vocabulary" "$REF" $L --tokens 1,128 --out "$T/x"
fails 1 "ids that are none" "$REF" $L --tokens 1,b --out "$T/x"
fails 1 "official of a family that has none" "$REF" $L --tokens 1 --out "$T/x" --exact=official
fails 1 "shapes that differ" "$REF" --compare "$T/other" tests/golden/v3-a/golden.safetensors
head -c 200 $L/golden.safetensors >"$T/short.safetensors"
fails 1 "a truncated file" "$REF" --compare "$T/short.safetensors" $L/golden.safetensors
echo "1..$n"
