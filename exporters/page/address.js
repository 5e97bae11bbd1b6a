/**
 * The state of the page in the fragment of its address, so that a link, the history and a reload restore the image:
 *
 *   #class=7&seed=5&z12=0.5       class, seed, and the value of each latent dimension that the visitor has changed
 *   #class=7&code=0.31,-1.2       class and code of an image without a seed, such as a drawing; missing values are 0
 *   #age=40&traits=hat,beard      other conditions by name; "none" if no attribute is true; those left out are unknown
 *
 * `variety` is left out if it has the default value.
 */

import { isPlaying, stop } from "./animation.js";
import { $, announce, warn } from "./dom.js";
import { change, defaultConditions, formatNumber, model, randomCode, state, subscribe } from "./image.js";

const DELAY = 400; // ms; the state must stay the same for that long, because browsers limit the rate of new addresses
const LIMIT = 100; // largest absolute value in a code
const SEEDS = 2 ** 32;
const DEFAULT_VARIETY = state.variety;

let timer = 0; // timer that writes the next address

/** Restore the state from the address, and keep both in agreement from then on. */
export function connectAddress() {
  restore();
  addEventListener("hashchange", restore);
  subscribe(() => {
    clearTimeout(timer);
    if (!isPlaying()) timer = setTimeout(write, DELAY);
  });
}

function write() {
  clearTimeout(timer);
  const fragment = `#${format()}`;
  if (fragment !== location.hash) history.pushState(null, "", fragment);
}

/** Return the key of a condition in the address. An underscore is added to names that the address uses itself. */
function keyOf({ name }) {
  if (name === "label") return "class";
  return /^(variety|code|z\d+)$/.test(name) ? `${name}_` : name;
}

function format() {
  const { code, conditions, seed, variety } = state;
  const round = (value) => Number(value.toFixed(3));
  const values = {};
  for (const condition of model.spec.conditions) {
    const value = conditions[condition.name];
    if (value !== null) values[keyOf(condition)] = FORMATS[condition.kind](value, condition);
  }
  if (seed === null) {
    values.code = [...code].map(round).join(",").replace(/(,-?0)+$/, "");
  } else {
    values.seed = seed;
    const random = randomCode(seed, variety);
    for (const [i, value] of code.entries()) if (value !== random[i]) values[`z${i}`] = round(value);
  }
  if (variety !== DEFAULT_VARIETY) values.variety = round(variety);
  const encode = (value) => encodeURIComponent(value).replaceAll("%2C", ",");
  return Object.entries(values).map(([key, value]) => `${key}=${encode(value)}`).join("&");
}

const FORMATS = {
  category: (value) => value,
  number: (value, { low, high }) => formatNumber(value, low, high),
  attributes: (value, { values }) => values.filter((name) => value[name]).join(",") || "none",
};

function parseAttributes(text, { name, values }) {
  const chosen = text === "none" ? [] : text.split(",");
  const unknown = chosen.find((attribute) => !values.includes(attribute));
  if (unknown !== undefined) throw new Error(`${name} has no "${unknown}"; choose among ${list(values)}, or "none"`);
  return Object.fromEntries(values.map((attribute) => [attribute, chosen.includes(attribute)]));
}

const list = (names) => names.slice(0, 10).join(", ") + (names.length > 10 ? ", ..." : "");

/** Show the image that the address describes. If the address is not valid, keep the image and show the reason. */
function restore() {
  try {
    apply(parse(location.hash.slice(1)));
  } catch (error) {
    if (!state.code) apply(parse(""));
    warn(`The address does not fit this model: ${error.message}`);
  }
  clearTimeout(timer); // the address already describes the image
}

function parse(fragment) {
  const { latent_dim } = model.spec;
  const conditionsByKey = new Map(model.spec.conditions.map((condition) => [keyOf(condition), condition]));
  const conditions = defaultConditions();
  const values = { conditions, seed: 0, variety: DEFAULT_VARIETY, code: null, changes: new Map() };
  for (const [key, text] of new URLSearchParams(fragment)) {
    const number = (min, max) => {
      if (text.trim() && Number(text) >= min && Number(text) <= max) return Number(text);
      throw new Error(`${key} is "${text}", but must be a number from ${min} to ${max}`);
    };
    const dimension = /^z\d+$/.test(key) ? Number(key.slice(1)) : -1;
    const condition = conditionsByKey.get(key);
    if (condition?.kind === "category") {
      const [one, many] = key === "class" ? ["class", "classes"] : [key, "values"];
      if (!condition.values.includes(text)) {
        throw new Error(`it has no ${one} "${text}"; its ${many} are ${list(condition.values)}`);
      }
      conditions[condition.name] = text;
    } else if (condition?.kind === "number") {
      conditions[condition.name] = number(condition.low, condition.high);
    } else if (condition) {
      conditions[condition.name] = parseAttributes(text, condition);
    } else if (key === "seed") {
      values.seed = Math.floor(number(0, SEEDS - 1));
    } else if (key === "variety") {
      values.variety = number(Number($("variety").min), Number($("variety").max));
    } else if (key === "code") {
      values.code = text.split(",").map(Number);
      if (!(values.code.length <= latent_dim && values.code.every((value) => Math.abs(value) <= LIMIT))) {
        throw new Error(`code must be at most ${latent_dim} numbers from ${-LIMIT} to ${LIMIT}`);
      }
    } else if (dimension >= 0 && dimension < latent_dim) {
      values.changes.set(dimension, number(-LIMIT, LIMIT));
    } else {
      const keys = [...conditionsByKey.keys(), "seed", "variety", "code", `z0 to z${latent_dim - 1}`].join(", ");
      throw new Error(`"${key}" is unknown; the address can contain ${keys}`);
    }
  }
  return values;
}

function apply({ conditions, seed, variety, code, changes }) {
  stop();
  const next = randomCode(seed, variety);
  if (code) next.forEach((_, i) => (next[i] = code[i] ?? 0));
  for (const [dimension, value] of changes) next[dimension] = value;
  const base = !code ? `seed ${seed}` : code.some(Boolean) ? "code of the address" : "all sliders at 0";
  const origin = changes.size ? `${base}, changed` : base;
  change({ code: next, seed: code ? null : seed, variety, conditions, next: null, mix: 0, origin });
}

export async function copyLink() {
  stop();
  write();
  try {
    await navigator.clipboard.writeText(location.href);
  } catch {
    warn("The browser did not allow the page to copy the link; copy it from the address bar");
    return;
  }
  announce("Link copied");
  $("link").textContent = "Link copied";
  setTimeout(() => ($("link").textContent = "Copy link"), 2000);
}
