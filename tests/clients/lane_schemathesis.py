"""lane_schemathesis.py URL PROGRAM: requests made from the server's own description, right and wrong, against a scripted server with a key (run.sh).

One check is left out, positive_data_acceptance: a schema does not say that a tool's result answers a call, that tool_choice needs tools, or that a
prompt fits; what the server then says is 400, as the protocols have it.
"""
import os
import re
import subprocess
import sys
import urllib.request

url, program = sys.argv[1:3]
spec = "build/clients/openapi.yaml"
with open(spec, "wb") as f:
    f.write(urllib.request.urlopen(url + "/openapi.yaml").read())
env = dict(os.environ, SCHEMATHESIS_HOOKS="tests.clients.schema_hooks", PYTHONPATH=os.getcwd())
HEAVY = ["--%s-path", "/v1/messages", "--%s-path", "/v1/messages/count_tokens", "--%s-path", "/tokenize", "--%s-path", "/apply-template"]


def run(*args):
    """Tests made and those that found something."""
    r = subprocess.run([program, "run", spec, "--url", url, "-H", "Authorization: Bearer sekret", "--exclude-checks", "positive_data_acceptance", "--generation-allow-x00", "false",
                        "--max-examples", "15", "--seed", "1", "--no-color", *args], env=env, capture_output=True, text=True)
    m = re.search(r"(\d+) generated(?:, (\d+) found)?", r.stdout)
    if r.returncode or not m:
        print(r.stdout[-3000:] + r.stderr[-1000:])
    bad = int(m.group(2) or 0) if m else 1
    return int(m.group(1)) if m else 1, max(bad, 1) if r.returncode else bad


# Of histories' schemas the coverage phase makes wrong requests without end: those operations are asked at random only.
made, bad = map(sum, zip(run(*[x % "exclude" if "%" in x else x for x in HEAVY]), run(*[x % "include" if "%" in x else x for x in HEAVY], "--phases", "examples,fuzzing")))
print("%d passed, %d failed" % (made - bad, bad))
