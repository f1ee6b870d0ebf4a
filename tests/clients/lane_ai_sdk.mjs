// lane_ai_sdk.mjs URL MODEL: the AI SDK with its deepseek and openai-compatible providers against a scripted server (run.sh).
import { generateText, streamText, jsonSchema, stepCountIs, tool } from "ai";
import { createDeepSeek } from "@ai-sdk/deepseek";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
const [url, model] = process.argv.slice(2);
let n = 0;
const ok = (what, got) => { if (!got) { console.error("ai-sdk: " + what); process.exit(1); } n++; };
const tools = { bash: tool({ inputSchema: jsonSchema({ type: "object", properties: { command: { type: "string" } } }), execute: async () => "hi" }) };
for (const [name, p] of [["deepseek", createDeepSeek({ baseURL: url + "/v1", apiKey: "x" })], ["openai-compatible", createOpenAICompatible({ name: "hadal", baseURL: url + "/v1", apiKey: "x", includeUsage: true })]]) {
  let r = await generateText({ model: p(model), prompt: "hi", maxRetries: 0 });
  ok(name + " generateText", r.text === "Hello there" && r.reasoningText === "Let me think.");
  const s = streamText({ model: p(model), prompt: "hi", maxRetries: 0 });
  ok(name + " streamText", (await s.text) === "Hello there" && (await s.usage).outputTokens > 0);
  const t = streamText({ model: p(model), prompt: "use the tool", tools, stopWhen: stepCountIs(3), maxRetries: 0 });
  ok(name + " tools", (await t.text) === "It said hi.");
  const [a, b] = (await t.steps).map((x) => x.usage);
  ok(name + " second step hits the cache", b.cachedInputTokens >= 0.95 * (a.inputTokens + a.outputTokens));
}
console.log(n + " passed, 0 failed");
