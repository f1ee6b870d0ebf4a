// lane_anthropic.mjs URL MODEL: @anthropic-ai/sdk against a scripted server (run.sh): create, stream helper, a tool loop with thinking, errors.
import Anthropic from "@anthropic-ai/sdk";
const [url, model] = process.argv.slice(2);
const c = new Anthropic({ baseURL: url, apiKey: "x", maxRetries: 0 });
let n = 0;
const ok = (what, got) => { if (!got) { console.error("@anthropic-ai/sdk: " + what); process.exit(1); } n++; };
const base = { model, max_tokens: 2000, thinking: { type: "enabled", budget_tokens: 1024 }, tools: [{ name: "bash", input_schema: { type: "object" } }] };
let r = await c.messages.create({ ...base, messages: [{ role: "user", content: "hi" }] });
ok("create", r.content.at(-1).text === "Hello there");
const m = await c.messages.stream({ ...base, messages: [{ role: "user", content: "use the tool" }] }).finalMessage();
ok("stream", m.stop_reason === "tool_use" && m.content.at(-1).input.command === "echo hi");
r = await c.messages.create({ ...base, messages: [{ role: "user", content: "use the tool" }, { role: "assistant", content: m.content }, { role: "user", content: [{ type: "tool_result", tool_use_id: m.content.at(-1).id, content: "hi" }] }] });
const first = m.usage.input_tokens + m.usage.cache_read_input_tokens + m.usage.output_tokens;
ok("tool loop", r.content.at(-1).text === "It said hi." && r.usage.cache_read_input_tokens >= 0.95 * first);
ok("countTokens", (await c.messages.countTokens({ model, messages: [{ role: "user", content: "hi" }] })).input_tokens > 3);
try { await c.messages.create({ ...base, messages: [] }); ok("error", false); } catch (e) { ok("error", e instanceof Anthropic.BadRequestError); }
console.log(n + " passed, 0 failed");
