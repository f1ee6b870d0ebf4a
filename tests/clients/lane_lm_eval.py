"""lane_lm_eval.py URL MODEL: EleutherAI's lm-evaluation-harness on a real model: choices (echo with logprobs), generation, perplexity (run.sh).

Three tasks on data written here; nothing is fetched. URL serves a language model that knows the simplest facts.
"""
import glob
import json
import os
import subprocess
import sys
import tempfile

url, model = sys.argv[1:3]
FACTS = [("The capital of France is", [" Paris", " banana", " seven"]), ("The opposite of hot is", [" purple", " cold", " sixteen"]),
         ("Two plus two is", [" horse", " green", " four"]), ("The sun rises in the", [" east", " spoon", " shoe"]),
         ("Water freezes into", [" ice", " gold", " music"]), ("Dogs like to chase", [" algebra", " cats", " Tuesday"])]
GOLD = [0, 1, 2, 0, 0, 1]
work = tempfile.mkdtemp()


def write(name, rows, yaml):
    with open(os.path.join(work, name + ".jsonl"), "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in rows)
    with open(os.path.join(work, name + ".yaml"), "w") as f:
        f.write("task: %s\ndataset_path: json\ndataset_kwargs: {data_files: {test: %s/%s.jsonl}}\ntest_split: test\n%s" % (name, work, name, yaml))


write("facts", [{"q": q, "c": c, "gold": g} for (q, c), g in zip(FACTS, GOLD)],
      "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ntarget_delimiter: ''\ndoc_to_choice: '{{c}}'\ndoc_to_target: gold\nmetric_list: [{metric: acc}]\n")
write("copy", [{"q": "Say it again: one two three one two three one two", "a": "three"}, {"q": "Say it again: A B C D A B C D A B C", "a": "D"}],
      "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\ngeneration_kwargs: {until: [\"\\n\", \" one\", \" A\"], max_gen_toks: 4, do_sample: false}\n"
      "filter_list: [{name: first, filter: [{function: regex, regex_pattern: '(\\w+)'}, {function: take_first}]}]\nmetric_list: [{metric: exact_match}]\n")
write("prose", [{"text": "The cat sat on the mat. It was a warm day and the sun was shining."}],
      "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\nmetric_list: [{metric: bits_per_byte}]\n")
args = "model=%s,base_url=%s/v1/completions,tokenizer_backend=remote,add_bos_token=True,num_concurrent=2,max_retries=1" % (model, url)
env = dict(os.environ, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=work, OPENAI_API_KEY="k")
run = subprocess.run([sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", args, "--tasks", "facts,copy,prose", "--include_path", work,
                      "--output_path", work + "/out"], env=env, capture_output=True, text=True)
found = glob.glob(work + "/out/**/results*.json", recursive=True)
if not found:
    sys.exit(run.stdout[-1500:] + run.stderr[-1500:])
with open(found[0]) as f:
    r = json.load(f)["results"]
acc, exact, bits = r["facts"]["acc,none"], r["copy"]["exact_match,first"], r["prose"]["bits_per_byte,none"]
print("choices right %.2f, copies right %.2f, %.3f bits a byte" % (acc, exact, bits))
good = [acc >= 0.8, exact == 1, 0.2 < bits < 2]
print("%d passed, %d failed" % (sum(good), 3 - sum(good)))
