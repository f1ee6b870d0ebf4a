// lane_openai.mjs URL MODEL: openai-node against a scripted server (run.sh): create, stream helper, runTools, responses, errors, abort.
import OpenAI from "openai";
const [url, model] = process.argv.slice(2);
const c = new OpenAI({ baseURL: url + "/v1", apiKey: "x", maxRetries: 0 });
let n = 0;
const ok = (what, got) => { if (!got) { console.error("openai-node: " + what); process.exit(1); } n++; };
const user = (content) => [{ role: "user", content }];
let r = await c.chat.completions.create({ model, messages: user("hi") });
ok("create", r.choices[0].message.content === "Hello there");
r = await c.chat.completions.stream({ model, messages: user("hi"), stream_options: { include_usage: true } }).finalChatCompletion();
ok("stream", r.choices[0].message.content === "Hello there" && r.usage.total_tokens > 0);
const tools = [{ type: "function", function: { name: "bash", parse: JSON.parse, parameters: { type: "object", properties: { command: { type: "string" } } }, function: () => "hi" } }];
for (const stream of [false, true]) {
  const runner = c.chat.completions.runTools({ model, messages: user("use the tool"), tools, stream });
  ok("runTools", (await runner.finalContent()) === "It said hi.");
}
r = await c.responses.create({ model, input: "hi" });
ok("responses", r.output_text === "Hello there");
r = await c.responses.stream({ model, input: "use the tool", tools: [{ type: "function", name: "bash", parameters: { type: "object" }, strict: false }] }).finalResponse();
ok("responses stream", r.output.at(-1).type === "function_call" && r.output.at(-1).arguments === '{"command": "echo hi"}');
for (const [what, kind, body] of [["unknown model", OpenAI.BadRequestError, { model: "nope" }], ["range", OpenAI.UnprocessableEntityError, { n: 99 }], ["full", OpenAI.RateLimitError, { messages: user("full house") }]]) {
  try { await c.chat.completions.create({ model, messages: user("hi"), ...body }); ok(what, false); } catch (e) { ok(what, e instanceof kind); }
}
const abort = new AbortController();
const s = await c.chat.completions.create({ model, messages: user("slowly"), stream: true }, { signal: abort.signal });
for await (const _ of s) { abort.abort(); break; }
let idle = false;
for (let i = 0; i < 50 && !idle; i++) {
  idle = (await (await fetch(url + "/props")).json()).state.running === 0;
  await new Promise((f) => setTimeout(f, 20));
}
ok("abort", idle);
console.log(n + " passed, 0 failed");
