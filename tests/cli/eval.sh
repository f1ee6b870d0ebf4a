# eval.sh: hadal eval: needles in ids and in text, the recall task that a run learns in stages; what bad questions get.
. tests/cli/common.sh

cat >"$T/r.json" <<EOT
{"model": {"architectures": ["DeepseekV41ForCausalLM"], "model_type": "deepseek_v41", "text_config": {"hidden_size": 32, "moe_intermediate_size": 32, "num_hidden_layers": 3,
  "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "qk_rope_head_dim": 4, "q_lora_rank": 16, "o_lora_rank": 16, "o_groups": 1, "rms_norm_eps": 1e-6,
  "max_position_embeddings": 65536, "n_routed_experts": 2, "n_shared_experts": 1, "num_experts_per_tok": 1, "sliding_window": 8, "compress_ratios": [0, 0, 1],
  "compress_rope_theta": 10, "kv_source_layer_ids": [2], "index_source_layer_ids": [2], "index_n_heads": 2, "index_head_dim": 16, "index_topk": 4, "hc_mult": 2,
  "hc_sinkhorn_iters": 4, "num_nextn_predict_layers": 0}},
 "out": "$T/r", "task": {"symbols": 8, "fillers": 8, "stages": [{"length": 16, "records": 2, "symbols": 4, "accuracy": 0}, {"length": 32, "records": 4, "key_symbols": 3, "sparse": true}]},
 "context": 32, "batch_tokens": 256, "steps": 30, "eval_every": 0, "save_every": 10, "indexer": {"dense": true}}
EOT
works "the recall task is learned" "$HADAL" train "$T/r.json" -t 1
complains "in stages" "stage 1 (32 tokens)"
[ -s "$T/r/recall.json" ]
report $? "has recall.json"
sed "s#\"out\": \"$T/r\"#\"out\": \"$T/s\"#" "$T/r.json" >"$T/s.json"
works "the same, cut" "$HADAL" train "$T/s.json" -q --steps 11 -t 2
works "and resumed" "$HADAL" train --resume "$T/s" -q -t 1
cmp -s "$T/r/state.safetensors" "$T/s/state.safetensors"
report $? "the same bits"

works "needle, in ids" "$HADAL" eval needle "$T/r" --ctx 4096 --records 40 --queries 20 --json
says "says how many" '"queries": 20'
says "and where" '"by_depth"'
works "needle, as text" "$HADAL" eval needle "$T/r" --ctx 512
fails 2 "more questions than records" "$HADAL" eval needle "$T/r" --ctx 4096 --records 4 --queries 5
fails 2 "more records than room" "$HADAL" eval needle "$T/r" --ctx 64 --records 60
fails 1 "more context than the model's" "$HADAL" eval needle "$T/r" --ctx 70000
fails 2 "another measure" "$HADAL" eval thimble "$T/r"
complains "names those there are" "needle"
sed 's/"records": 4/"records": 40/' "$T/r.json" >"$T/bad.json"
fails 1 "a stage without room" "$HADAL" train "$T/bad.json" -q
complains "says which" "stage 1"
sed 's/"key_symbols": 3/"key_symbols": 1/' "$T/r.json" >"$T/bad.json"
fails 1 "too few symbols for the keys" "$HADAL" train "$T/bad.json" -q
complains "says how many" "key_symbols"
sed 's/"context": 32/"context": 32, "data": {"train": "x"}/' "$T/r.json" >"$T/bad.json"
fails 1 "a task beside data" "$HADAL" train "$T/bad.json" -q

# the shipped model: eight times its longest training sequence
works "the recall model" "$HADAL" eval needle models/recall --ctx 4096 --records 64 --queries 64 --shortcut --json
[ "$(sed -n 's/.*"right": \([0-9]*\), "tokens.*/\1/p' "$T/out")" -ge 58 ]
report $? "finds nine of ten"
