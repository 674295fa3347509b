// OpenAI's library for Node.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import * as ours from "./checks.mjs";

const { model, check, ensure } = ours;
const client = new OpenAI({ baseURL: ours.apiUrl, apiKey: "not-used", maxRetries: 0 });
const Weather = z.strictObject({ city: z.enum(ours.CITIES), unit: z.enum(ours.UNITS) });
const format = zodResponseFormat(Weather, "weather");
const parameters = format.json_schema.schema;
const tools = [{ type: "function", function: { name: "get_weather", description: "The weather of a city", parameters } }];
const question = [{ role: "user", content: ours.QUESTION }];
const asked = [{ role: "user", content: ours.CITY_QUESTION }];
const limits = { model, max_tokens: ours.CALL_TOKENS, temperature: 0 };

await check("plain", "chat", async () => {
  const answer = await client.chat.completions.create({ ...limits, messages: question });
  ensure(answer.choices[0].message.content, answer);
});

await check("plain", "responses", async () => {
  const answer = await client.responses.create({ model, input: ours.QUESTION, max_output_tokens: ours.MAX_TOKENS });
  ensure(answer.output_text, answer);
});

await check("stream", "chat", async () => {
  const pieces = [];
  for await (const chunk of await client.chat.completions.create({ ...limits, messages: question, stream: true })) {
    if (chunk.choices[0]?.delta.content) pieces.push(chunk.choices[0].delta.content);
  }
  ours.ensurePieces(pieces);
});

await check("structured", "chat.completions.parse", async () => {
  const answer = await client.chat.completions.parse({ ...limits, messages: asked, response_format: format });
  ours.ensureWeather(answer.choices[0].message.parsed);
});

async function called(choice) {
  const fields = { tools, tool_choice: choice, parallel_tool_calls: false };
  const answer = await client.chat.completions.create({ ...limits, messages: asked, ...fields });
  const { message } = answer.choices[0];
  ensure(message.tool_calls?.length, answer);
  for (const call of message.tool_calls) ours.ensureWeather(JSON.parse(call.function.arguments));
  return message;
}

await check("tool", "required", () => called("required"));
await check("tool", "named", () => called({ type: "function", function: { name: "get_weather" } }));

await check("result", "", async () => {
  const message = await called("required");
  const told = message.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: ours.WEATHER }));
  const messages = [...asked, message, ...told];
  const answer = await client.chat.completions.create({ ...limits, messages, tools, tool_choice: "none" });
  ensure(answer.choices[0].message.content, answer);
});

await ours.checkRefusal("", (error) => error instanceof OpenAI.NotFoundError, () =>
  client.chat.completions.create({ ...limits, model: ours.UNKNOWN_MODEL, messages: question }));
