#!/bin/sh
# needle.sh: the shipped recall model at 65,536 tokens, 128 times what it was trained on: of 2,048 records 97 % found by the indexer alone (510 of 512 when it was made).
HADAL=${HADAL:-build/release/hadal}
out=$($HADAL eval needle models/recall --ctx 65536 --records 2048 --queries 512 --kv f16 --shortcut --json -q)
right=$(printf %s "$out" | sed -n 's/.*"right": \([0-9]*\), "tokens.*/\1/p')
echo "# ${right:-0} of 512"
if [ "${right:-0}" -ge 497 ]; then echo "1 passed, 0 failed"; else echo "0 passed, 1 failed"; fi
