#!/bin/sh
# run.sh BUILD: installs real client libraries and agents into build/clients, runs each against a scripted server, and prints one table. What
# `make check-clients` does. HD_CLIENTS="openai-python ..." runs these only; open-webui, which takes gigabytes, runs only when it is named. Versions are
# the registries' newest: the table names them. No lane takes longer than HD_LANE_S (900) seconds.
set -u
out=$1
dir=build/clients
mkdir -p $dir/js $dir/home
HADAL=$PWD/$out/hadal
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
total=0 bad=0

# A small tokenizer with the model's markers as tokens.
python3 -B -c "import sys, shutil; sys.path.insert(0, 'tests/wire'); import wire; shutil.copytree(wire.v4_model(), sys.argv[1]); shutil.rmtree(wire.TMP)" "$work/v4"

start() { # script, options: scripted answers; sets url
    script=$1
    shift
    serve "$work/v4" --script "$script" "$@"
}
serve() { # what hadal serve takes: sets url
    "$HADAL" serve "$@" --port 0 --quiet >"$work/out" 2>"$work/err" &
    server=$!
    for _ in $(seq 1 100); do
        grep -q listening "$work/out" && break
        sleep 0.1
    done
    url=$(sed -n 's/^listening on //p' "$work/out")
}
stop() {
    kill "$server" 2>/dev/null && wait "$server" 2>/dev/null
    server=
}
row() { printf '%-22s %-14s %6s %7s\n' "$@"; }
wanted() {
    case " ${HD_CLIENTS:-$1} " in *" $1 "*) return 0 ;; esac
    return 1
}
# lane NAME VERSION COMMAND...: the command prints "N passed, M failed"
lane() {
    name=$1 version=$2
    shift 2
    timeout -k 10 "${HD_LANE_S:-900}" "$@" >"$work/log" 2>&1 </dev/null
    rc=$?
    [ $rc -ne 124 ] || echo "stopped after ${HD_LANE_S:-900} s" >>"$work/log"
    set -- $(awk '/^[0-9]+ passed, [0-9]+ failed$/ { p += $1; f += $3 } /^ok [0-9]/ { p++ } /^not ok [0-9]/ { f++ } END { print p + 0, f + 0 }' "$work/log")
    p=$1 f=$2
    if [ $rc -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    if [ $((p + f)) -eq 0 ]; then f=1; fi
    total=$((total + p)) bad=$((bad + f))
    row "$name" "$version" $((p + f)) "$p"
    [ "$f" -eq 0 ] || tail -n 8 "$work/log" | sed 's/^/    /'
}
tool() { # name, key, value: a call as the model writes it, inside a JSON string
    printf '\\n\\n<｜DSML｜tool_calls>\\n<｜DSML｜invoke name=\\"%s\\">\\n<｜DSML｜parameter name=\\"%s\\" string=\\"true\\">%s</｜DSML｜parameter>\\n</｜DSML｜invoke>\\n</｜DSML｜tool_calls>' "$1" "$2" "$3"
}
agent_script() { # tool, key: a model that calls it once, then says what came back
    cat >"$work/agent.json" <<END
{"n_ctx": 1000000, "runs": [
 {"when": "<tool_result>", "text": "I see.</think>It said hi."},
 {"when": "run the echo", "text": "I will.</think>$(tool "$1" "$2" "echo hi")"},
 {"text": "</think>A title"}]}
END
}
cat >"$work/lib.json" <<END
{"n_ctx": 1000000, "runs": [
 {"when": "full house", "text": "", "refuse": "full", "retry_s": 1},
 {"when": "breaks", "text": "</think>some", "error": "the disk is gone"},
 {"when": "slowly", "text": "</think>one two three four five six seven eight", "repeat": 100, "delay_ms": 20},
 {"when": "<tool_result>", "text": "Done.</think>It said hi."},
 {"when": "use the tool", "text": "I should.</think>$(tool bash command "echo hi")"},
 {"text": "Let me think.</think>Hello there"}]}
END

if command -v python3 >/dev/null; then
    [ -x $dir/py/bin/pip ] || python3 -m venv $dir/py
    $dir/py/bin/pip install -q --disable-pip-version-check openai anthropic litellm langchain-openai >"$work/pip" 2>&1 || { tail -n 3 "$work/pip"; bad=$((bad + 1)); }
fi
pyv() { $dir/py/bin/pip list --format=freeze --disable-pip-version-check 2>/dev/null | sed -n "s/^$1==//p"; }
npm_install() { (cd $dir/js && { [ -f package.json ] || npm init -y >/dev/null; } && npm install --no-fund --no-audit --loglevel=error "$@" >"$work/npm" 2>&1) || tail -n 3 "$work/npm"; }
jsv() { node -p "require('./$dir/js/node_modules/$1/package.json').version" 2>/dev/null || echo '?'; }

row client version cases passed
start "$work/lib.json"
for l in openai anthropic litellm langchain; do
    wanted $l-python || continue
    pkg=$l
    [ $l = langchain ] && pkg=langchain-openai
    lane $l-python "$(pyv $pkg)" $dir/py/bin/python tests/clients/lane_$l.py "$url" v4
done
if command -v npm >/dev/null; then
    npm_install openai @anthropic-ai/sdk ai@6 @ai-sdk/deepseek@2 @ai-sdk/openai-compatible@2
    cp tests/clients/*.mjs $dir/js/
    if wanted openai-node; then lane openai-node "$(jsv openai)" node $dir/js/lane_openai.mjs "$url" v4; fi
    if wanted anthropic-node; then lane anthropic-node "$(jsv @anthropic-ai/sdk)" node $dir/js/lane_anthropic.mjs "$url" v4; fi
    if wanted ai-sdk; then lane ai-sdk "$(jsv ai)" node $dir/js/lane_ai_sdk.mjs "$url" v4; fi
fi
stop
if command -v python3 >/dev/null && wanted schemathesis; then
    [ -x $dir/schema/bin/pip ] || python3 -m venv $dir/schema
    $dir/schema/bin/pip install -q --disable-pip-version-check schemathesis >"$work/pip" 2>&1 || tail -n 3 "$work/pip"
    echo sekret >"$work/keys" && chmod 600 "$work/keys"
    start "$work/lib.json" --api-key-file "$work/keys"
    lane schemathesis "$($dir/schema/bin/pip list --format=freeze --disable-pip-version-check 2>/dev/null | sed -n 's/^schemathesis==//p')" \
        python3 -B tests/clients/lane_schemathesis.py "$url" $dir/schema/bin/schemathesis
    stop
fi
# The server's own page, and a proxy in front of it.
if command -v python3 >/dev/null && wanted page; then
    browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || echo none)
    lane page "$("$browser" --version 2>/dev/null | sed 's/[^0-9]*\([0-9][0-9.]*\).*/\1/')" env HADAL="$HADAL" HD_NEED_BROWSER=1 python3 -B tests/wire/wire_page.py
fi
if command -v python3 >/dev/null && wanted nginx; then
    nginx=$(PATH=$PATH:/usr/sbin command -v nginx || echo none)
    echo sekret >"$work/keys" && chmod 600 "$work/keys"
    start "$work/lib.json" --api-key-file "$work/keys"
    lane nginx "$("$nginx" -v 2>&1 | sed -n 's|.*nginx/||p')" python3 -B tests/clients/lane_nginx.py "$url" sekret
    stop
fi
case " ${HD_CLIENTS:-} " in *" open-webui "*)
    [ -x $dir/open_webui/bin/pip ] || python3 -m venv $dir/open_webui
    $dir/open_webui/bin/pip install -q --disable-pip-version-check open-webui >"$work/pip" 2>&1 || tail -n 3 "$work/pip"
    start "$work/lib.json"
    lane open-webui "$($dir/open_webui/bin/pip list --format=freeze --disable-pip-version-check 2>/dev/null | sed -n 's/^open-webui==//p')" python3 -B tests/clients/lane_open_webui.py "$url" "$PWD/$dir/open_webui/bin/open-webui"
    stop
    ;;
esac
# A real model from here on: the harness scores what it says.
if command -v python3 >/dev/null && wanted lm-eval; then
    [ -x $dir/lm_eval/bin/pip ] || python3 -m venv $dir/lm_eval
    $dir/lm_eval/bin/pip install -q --disable-pip-version-check "lm-eval[api]" >"$work/pip" 2>&1 || tail -n 3 "$work/pip"
    sh tools/fetch_model.sh
    serve models/cache/SmolLM2-135M-Instruct.Q4_1.gguf --model-id smol
    lane lm-eval "$($dir/lm_eval/bin/pip list --format=freeze --disable-pip-version-check 2>/dev/null | sed -n 's/^lm_eval==//p')" $dir/lm_eval/bin/python tests/clients/lane_lm_eval.py "$url" smol
    stop
fi

# Agents: a home and a project of their own, nothing but loopback, one tool call that says hi.
agent() { # NAME VERSION COMMAND...: must end with what the model said behind the tool's result
    name=$1 version=$2
    shift 2
    mkdir -p "$work/project"
    cat >"$work/agent.sh" <<'END'
(cd "$PROJECT" && timeout -k 5 300 "$@") >"$LOG" 2>&1 </dev/null
rc=$?
if [ $rc -eq 0 ] && grep -q "It said hi" "$LOG"; then echo "1 passed, 0 failed"; else tail -n 6 "$LOG"; echo "0 passed, 1 failed"; fi
END
    export PROJECT="$work/project" LOG="$work/agent.log"
    lane "$name" "$version" sh "$work/agent.sh" "$@"
    total_hits=$(curl -s "$url/metrics" 2>/dev/null | awk '/^ds_replay_total\{result="exact"\}/ { print $2 }')
    [ -z "$total_hits" ] || echo "    turns known to the token: $total_hits"
}
clean_env="env -i PATH=$PATH HOME=$work/home LANG=C.UTF-8"
mkdir -p "$work/home"
bin=$PWD/$dir/js/node_modules/.bin
if command -v npm >/dev/null && wanted claude-code; then
    npm_install @anthropic-ai/claude-code
    agent_script Bash command
    start "$work/agent.json"
    agent claude-code "$(jsv @anthropic-ai/claude-code)" $clean_env ANTHROPIC_BASE_URL="$url" ANTHROPIC_AUTH_TOKEN=k ANTHROPIC_MODEL=v4 ANTHROPIC_DEFAULT_HAIKU_MODEL=v4 CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 \
        DISABLE_AUTOUPDATER=1 IS_SANDBOX=1 "$bin/claude" -p "run the echo" --dangerously-skip-permissions
    stop
fi
if command -v npm >/dev/null && wanted codex; then
    npm_install @openai/codex
    agent_script exec_command cmd
    start "$work/agent.json"
    mkdir -p "$work/home/.codex"
    cat >"$work/home/.codex/config.toml" <<END
model = "v4"
model_provider = "local"
[model_providers.local]
name = "local"
base_url = "$url/v1"
wire_api = "responses"
[analytics]
enabled = false
END
    agent codex "$(jsv @openai/codex)" $clean_env "$bin/codex" exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox "run the echo"
    stop
fi
if command -v npm >/dev/null && wanted opencode; then
    npm_install opencode-ai
    agent_script bash command
    start "$work/agent.json"
    mkdir -p "$work/project"
    cat >"$work/project/opencode.json" <<END
{"provider": {"local": {"npm": "@ai-sdk/openai-compatible", "name": "local", "options": {"baseURL": "$url/v1", "apiKey": "k"},
 "models": {"v4": {"name": "v4", "reasoning": true, "interleaved": {"field": "reasoning_content"}, "limit": {"context": 1000000, "output": 8192}}}}}, "permission": "allow"}
END
    agent opencode "$(jsv opencode-ai)" $clean_env OPENCODE_DISABLE_AUTOUPDATE=1 OPENCODE_DISABLE_MODELS_FETCH=1 "$bin/opencode" run -m local/v4 "run the echo"
    stop
fi
echo "$total passed, $bad failed"
[ "$bad" -eq 0 ]
