// page.js: chat with the server that gave out this page. No library, no request to anybody else; what the model says is only ever
// set as text, never as HTML.
"use strict";
const $ = (id) => document.getElementById(id);
let messages = [], running = null, model = "", known = false;

function element(parent, name, cls, text) {
  const e = document.createElement(name);
  if (cls) e.className = cls;
  if (text !== undefined) e.textContent = text;
  parent.appendChild(e);
  return e;
}

function headers() {
  const h = { "Content-Type": "application/json" }, key = $("key").value;
  if (key) h.Authorization = "Bearer " + key;
  return h;
}

// Text with fenced code and `code` shown as such.
function show(box, text) {
  box.replaceChildren();
  text.split(/```[^\n]*\n?/).forEach((part, i) => {
    if (i % 2) {
      element(box, "pre", "", part);
    } else {
      part.split(/`([^`\n]+)`/).forEach((piece, k) => element(box, k % 2 ? "code" : "span", "", piece));
    }
  });
}

function article(role) {
  return element($("talk"), "article", role);
}

function toEnd(force) {
  const t = $("talk");
  if (force || t.scrollHeight - t.scrollTop - t.clientHeight < 120) t.scrollTop = t.scrollHeight;
}

// The data of server-sent events, one by one. Events of other kinds than data are none of ours.
async function* events(response) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    for (let at; (at = text.indexOf("\n\n")) >= 0; text = text.slice(at + 2)) {
      for (const line of text.slice(0, at).split("\n")) {
        if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
      }
    }
  }
}

function request() {
  const system = $("system").value.trim(), max = parseInt($("max").value, 10);
  const body = { model, stream: true, messages: system ? [{ role: "system", content: system }, ...messages] : messages, reasoning_effort: $("effort").value };
  if ($("temperature").value !== "") body.temperature = parseFloat($("temperature").value);
  if (max > 0) body.max_tokens = max;
  return body;
}

function speedOf(last) {
  const u = last.usage, t = last.timings;
  if (!u || !t) return "";
  return `${u.prompt_tokens} tokens read (${u.prompt_cache_hit_tokens} from the cache) at ${t.prompt_per_second.toFixed(0)}/s, ` +
    `${u.completion_tokens} written at ${t.predicted_per_second.toFixed(1)}/s`;
}

async function answer() {
  const box = article("assistant"), think = element(box, "details", "think"), content = element(box, "div", "content"), speed = element(box, "div", "speed", "…");
  const summary = element(think, "summary", "", "Thinking"), thought = element(think, "div", "thought");
  let text = "", reasoning = "", last = {};
  think.hidden = true;
  running = new AbortController();
  $("send").textContent = "Stop";
  try {
    const r = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(request()), signal: running.signal });
    if (!r.ok) throw new Error((await r.json()).error.message);
    for await (const chunk of events(r)) {
      if (chunk.error) throw new Error(chunk.error.message);
      last = chunk;
      const delta = chunk.choices.length ? chunk.choices[0].delta : {};
      if (delta.reasoning_content) {
        reasoning += delta.reasoning_content;
        think.hidden = false;
        thought.textContent = reasoning;
        summary.textContent = "Thinking (" + reasoning.length + " characters)";
      }
      if (delta.content) {
        text += delta.content;
        show(content, text);
      }
      toEnd(false);
    }
    speed.textContent = speedOf(last) + (last.choices && last.choices.length && last.choices[0].finish_reason === "length" ? "; cut off" : "");
  } catch (e) {
    speed.textContent = e.name === "AbortError" ? "stopped" : e.message;
    if (e.name !== "AbortError") speed.classList.add("error");
  }
  if (text) messages.push({ role: "assistant", content: text });
  else messages.pop();
  running = null;
  $("send").textContent = "Send";
  state();
}

function send() {
  const text = $("text").value;
  if (running) {
    running.abort();
    return;
  }
  if (!text.trim()) return;
  $("text").value = "";
  messages.push({ role: "user", content: text });
  element(article("user"), "div", "content", text);
  toEnd(true);
  answer();
}

function startOver() {
  if (running) running.abort();
  messages = [];
  $("talk").replaceChildren();
  $("text").focus();
}

async function state() {
  if (document.hidden) return;
  try {
    const r = await fetch("/props", { headers: headers() });
    if (r.status === 401) {
      $("facts").textContent = "This server wants an API key (Settings).";
      return;
    }
    const p = await r.json(), s = p.state;
    model = p.model;
    if (!known) $("effort").value = p.reasoning_effort;          // as the model does it, until somebody chooses
    known = true;
    $("facts").textContent = `${p.model}, ${p.n_ctx} tokens of context`;
    const cached = s.prompt_tokens ? Math.round(100 * s.cached_tokens / s.prompt_tokens) : 0;
    $("state").textContent = `${s.running} running, ${s.waiting} waiting; cache ${s.ctx_used} of ${s.ctx_tokens} tokens, ${cached} % of all prompt tokens came from it; ` +
      `${s.generated_tokens} tokens written so far`;
  } catch (e) {
    $("facts").textContent = "The server does not answer.";
  }
}

$("ask").addEventListener("submit", (e) => { e.preventDefault(); send(); });
$("new").addEventListener("click", startOver);
$("text").addEventListener("keydown", (e) => {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
});
document.addEventListener("keydown", (e) => {
  if (e.key === "Escape" && running) running.abort();
  if (e.altKey && e.key === "n") { e.preventDefault(); startOver(); }
});
$("key").value = sessionStorage.getItem("key") || "";
$("key").addEventListener("change", () => { sessionStorage.setItem("key", $("key").value); state(); });
$("text").focus();
state();
setInterval(state, 3000);
