// What a person writes as JSON, and whether it is a schema, or fits one. Pure. Whether the server can hold an answer to
// a schema is the server's to say.

import { Validator } from './libraries.js';

const TYPES = ['array', 'boolean', 'integer', 'null', 'number', 'object', 'string'];
const SCHEMAS = ['items', 'additionalProperties', 'not', 'if', 'then', 'else', 'contains', 'propertyNames'];
const LISTS = ['allOf', 'anyOf', 'oneOf', 'prefixItems'];
const MAPS = ['properties', 'patternProperties', '$defs', 'definitions', 'dependentSchemas'];
const COUNTS = ['minLength', 'maxLength', 'minItems', 'maxItems', 'minProperties', 'maxProperties'];
const BOUNDS = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'];
const MAX_SHOWN = 5;
const MAX_DEPTH = 200; // of objects and lists in each other: what goes through them, and writes them, does so by calls
const STRINGS = /"(?:[^"\\]|\\.)*"/g;

const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

const isDeep = (text) => {
  let depth = 0;
  for (const [mark] of text.replace(STRINGS, '').matchAll(/[[\]{}]/g)) {
    depth += mark === '[' || mark === '{' ? 1 : -1;
    if (depth > MAX_DEPTH) return true;
  }
  return false;
};

// { value } or { problem }, which names the line where the text stops being JSON.
export const parseJson = (text) => {
  if (isDeep(text)) return { problem: `This is nested too deeply, in more than ${MAX_DEPTH} levels.`, isDeep: true };
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    const place = /position (\d+)/.exec(error.message);
    const line = place === null ? '' : `Line ${text.slice(0, Number(place[1])).split('\n').length}: `;
    return { problem: `${line}${error.message.replace(/ in JSON at position.*/, '')}.` };
  }
};

// The value of a text. Throws SyntaxError where there is none.
export const readJson = (text) => {
  const { value, problem } = parseJson(text);
  if (problem) throw new SyntaxError(problem);
  return value;
};

// What is wrong with a schema's own words, each with its place; an empty list where nothing is.
export const schemaProblems = (schema, place = '#') => {
  if (typeof schema === 'boolean') return [];
  if (!isObject(schema)) return [`${place}: a schema is an object, true or false`];
  const found = keywordProblems(schema, place);
  for (const name of SCHEMAS) if (name in schema) found.push(...schemaProblems(schema[name], `${place}/${name}`));
  for (const name of LISTS.filter((one) => one in schema)) {
    if (!Array.isArray(schema[name])) found.push(`${place}/${name}: a list of schemas is expected`);
    else schema[name].forEach((one, index) => found.push(...schemaProblems(one, `${place}/${name}/${index}`)));
  }
  for (const name of MAPS.filter((one) => one in schema)) {
    if (!isObject(schema[name])) found.push(`${place}/${name}: an object of schemas is expected`);
    else {
      Object.entries(schema[name]).forEach(([key, one]) => {
        found.push(...schemaProblems(one, `${place}/${name}/${key}`));
      });
    }
  }
  return found;
};

const keywordProblems = (schema, place) => {
  const found = [];
  const expect = (name, isRight, what) => {
    if (name in schema && !isRight(schema[name])) found.push(`${place}/${name}: ${what}`);
  };
  const isText = (value) => typeof value === 'string';
  const isType = (type) => [type].flat().length > 0 && [type].flat().every((one) => TYPES.includes(one));
  expect('type', isType, `one of ${TYPES.join(', ')}, or a list of them`);
  expect('enum', (values) => Array.isArray(values) && values.length > 0, 'a list of at least one value');
  expect('required', (names) => Array.isArray(names) && names.every(isText), 'a list of names');
  expect('pattern', isText, 'a text');
  expect('$ref', isText, 'a text');
  for (const name of COUNTS) expect(name, (count) => Number.isInteger(count) && count >= 0, 'a whole number from 0');
  for (const name of BOUNDS) expect(name, (bound) => typeof bound === 'number', 'a number');
  return found;
};

// Whether a text is JSON that fits a schema: { isWhole, value, problems }. A schema that cannot be read holds nothing
// against it.
export const fit = (text, schema) => {
  const parsed = parseJson(text);
  if (parsed.problem) return { isWhole: false, isDeep: parsed.isDeep, problems: [] };
  try {
    const { errors } = new Validator(schema, '2020-12', false).validate(parsed.value);
    const inner = errors.slice(-MAX_SHOWN).reverse(); // the validator names the outermost first
    const problems = inner.map(({ instanceLocation, error }) => `${instanceLocation}: ${error}`);
    return { isWhole: true, value: parsed.value, problems };
  } catch {
    return { isWhole: true, value: parsed.value, problems: [] };
  }
};
