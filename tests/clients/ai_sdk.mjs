// Vercel's AI SDK through its two providers: openai-compatible (chat completions) and openai (responses).
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import * as ours from "./checks.mjs";

const { check, ensure } = ours;
const settings = { name: "powertrain", baseURL: ours.apiUrl, apiKey: "not-used" };
const providers = {
  chat: createOpenAICompatible({ ...settings, supportsStructuredOutputs: true }),
  responses: createOpenAI(settings),
};
const schema = z.strictObject({ city: z.enum(ours.CITIES), unit: z.enum(ours.UNITS) });
const limits = { maxOutputTokens: ours.CALL_TOKENS, temperature: 0, maxRetries: 0 };
const providerOptions = {
  // Without it the provider refers to earlier items by id, which a server without a store cannot know.
  openai: { store: false, parallelToolCalls: false },
  powertrain: { parallel_tool_calls: false },
};

async function callAndAnswer(model, toolChoice) {
  const calls = [];
  const getWeather = tool({
    description: "The weather of a city",
    inputSchema: schema,
    execute: async (input) => {
      calls.push(input);
      return ours.WEATHER;
    },
  });
  const answer = await generateText({
    ...limits, model, providerOptions, toolChoice, prompt: ours.CITY_QUESTION, tools: { getWeather },
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }) => (stepNumber === 0 ? {} : { toolChoice: "none" }),
  });
  ensure(calls.length > 0, answer.steps[0].content);
  calls.forEach(ours.ensureWeather);
  return answer;
}

for (const [kind, provider] of Object.entries(providers)) {
  const model = provider(ours.model);

  await check("plain", `generateText, ${kind}`, async () => {
    ensure((await generateText({ ...limits, model, prompt: ours.QUESTION })).text, "no text");
  });

  await check("stream", `streamText, ${kind}`, async () => {
    const pieces = [];
    for await (const piece of streamText({ ...limits, model, prompt: ours.QUESTION }).textStream) pieces.push(piece);
    ours.ensurePieces(pieces);
  });

  await check("structured", `generateObject, ${kind}`, async () => {
    ours.ensureWeather((await generateObject({ ...limits, model, schema, prompt: ours.CITY_QUESTION })).object);
  });

  await check("tool", `required, ${kind}`, () => callAndAnswer(model, "required"));
  await check("tool", `named, ${kind}`, () => callAndAnswer(model, { type: "tool", toolName: "getWeather" }));

  await check("result", kind, async () => {
    const answer = await callAndAnswer(model, "required");
    ensure(answer.steps.length === 2 && answer.text, answer.steps.map((step) => step.content));
  });

  await ours.checkRefusal(kind, (error) => APICallError.isInstance(error) && error.statusCode === 404, () =>
    generateText({ ...limits, model: provider(ours.UNKNOWN_MODEL), prompt: ours.QUESTION }));
}
