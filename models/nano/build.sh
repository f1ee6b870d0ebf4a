#!/bin/sh
# build.sh: hadal-nano from nothing: fetches and writes its corpus, trains in three pieces, puts the model into models/nano. From the repository's root;
# about 80 minutes on two cores (the minutes stand in train-N.json). A piece that was cut goes on where it was saved: call it again.
set -eu
out=build/nano
hadal=$(make -s print-bin)
make -s all
[ -f $out/corpus/report.json ] || python3 tools/corpus/build.py $out/corpus --seed 3 --stories 18000 --talks 75000 --words 12000
[ -f $out/last/report.json ] || python3 tools/corpus/build.py $out/last --cache $out/corpus/cache --seed 4 --stories 4000 --talks 40000 --words 12000 --natural 0.2
for i in 1 2 3; do
    [ ! -f $out/$i/done ] || continue
    if [ -f $out/$i/state.safetensors ]; then "$hadal" train --resume $out/$i; else "$hadal" train models/nano/train-$i.json; fi
    touch $out/$i/done
done
cp $out/3/native/config.json $out/3/native/generation_config.json $out/3/native/tokenizer.json $out/3/native/model.safetensors models/nano/
sed -i 's/"do_sample": true/&,\n  "thinking": false/' models/nano/generation_config.json     # it answers better at once
python3 tools/corpus/curve.py models/nano/loss.svg $out/1 $out/2 $out/3
