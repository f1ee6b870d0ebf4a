#!/bin/sh
# build.sh: hadal-nano from nothing: fetches and writes its corpus, trains in five pieces, puts the model into models/nano. From the repository's root;
# about two and a half hours on two cores (the minutes stand in train-N.json). A piece that was cut goes on where it was saved: call it again.
set -eu
out=build/nano
hadal=$(make -s print-bin)
make -s all
[ -f $out/corpus/report.json ] || python3 tools/corpus/build.py $out/corpus --seed 3 --stories 18000 --talks 75000 --words 12000
[ -f $out/last/report.json ] || python3 tools/corpus/build.py $out/last --cache $out/corpus/cache --seed 4 --stories 4000 --talks 40000 --words 12000 --natural 0.2
[ -f $out/told/report.json ] || python3 tools/corpus/build.py $out/told --cache $out/corpus/cache --seed 6 --stories 3000 --talks 50000 --lookups 24000 --lookup-words 520 --words 12000 --natural 0.15 --val 0.004
[ -f $out/long/report.json ] || python3 tools/corpus/build.py $out/long --cache $out/corpus/cache --seed 7 --stories 1500 --talks 26000 --lookups 10000 --lookup-words 1000 --words 12000 --natural 0.1
for i in 1 2 3 4 5; do
    [ ! -f $out/$i/done ] || continue
    if [ -f $out/$i/state.safetensors ]; then "$hadal" train --resume $out/$i; else "$hadal" train models/nano/train-$i.json; fi
    touch $out/$i/done
done
for f in config.json generation_config.json tokenizer.json model.safetensors; do cp $out/5/native/$f models/nano/; done
sed -i 's/"do_sample": true/&,\n  "thinking": false/' models/nano/generation_config.json     # it answers better at once
python3 tools/corpus/curve.py models/nano/loss.svg $out/1 $out/2 $out/3 $out/4 $out/5
