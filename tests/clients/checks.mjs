// What checks.py is to the Python clients: the same questions, the same schema, the same notes.
import { appendFileSync } from "node:fs";

export const QUESTION = "Name three rivers in France.";
export const CITY_QUESTION = "What is the weather in Paris?";
export const WEATHER = "18 C and rain in Paris";
export const UNKNOWN_MODEL = "no-such-model";
export const MAX_TOKENS = 24;
export const CALL_TOKENS = 64;
export const CITIES = ["Paris", "Lyon", "Nice"];
export const UNITS = ["C", "F"];
export const [baseUrl, model, results] = process.argv.slice(2);
export const apiUrl = `${baseUrl}/v1`;

export function ensure(holds, what) {
  if (!holds) throw new Error(typeof what === "string" ? what : JSON.stringify(what));
}

export function ensureWeather(given) {
  const fits = Object.keys(given).length === 2 && CITIES.includes(given.city) && UNITS.includes(given.unit);
  ensure(fits, given);
}

export function ensurePieces(pieces) {
  ensure(pieces.length > 1 && pieces.join("").trim() !== "", pieces);
}

export async function check(column, what, run) {
  let failure = "";
  try {
    await run();
  } catch (error) {
    failure = `${error?.name}: ${error?.message}`;
  }
  appendFileSync(results, JSON.stringify({ column, what, failure: failure.slice(0, 2000) }) + "\n");
}

// The call, which names an unknown model, must be rejected with an error of which ``isOwn`` holds.
export async function checkRefusal(what, isOwn, call) {
  await check("error", what, async () => {
    let error;
    try {
      await call();
    } catch (raised) {
      error = raised;
    }
    ensure(error !== undefined, "no error");
    ensure(isOwn(error), `${error.name}: ${error.message}`);
    ensure(error.message.includes(UNKNOWN_MODEL), error.message);
  });
}
