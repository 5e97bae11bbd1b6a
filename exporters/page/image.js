/** The state of the page, and the image that it shows. Every change decodes the image again. */

import { normal, toRGBA } from "./cvae.js";
import { $, dismissWarning, element, fail } from "./dom.js";

const MIN_DOWNLOAD_SIDE = 560; // minimum length of the longer side of a downloaded image, in pixels

export let model;
export let decoder; // object with the function `decode`: `model`, or the same model on another runtime
/**
 * State of the page. `conditions` are values by name: the name of the value of a category, a number, or an object with
 * true or false for each attribute; null is unknown. `mix` is the position between `conditions` (0) and the conditions
 * `next` (1). Unless `seed` is null, the code is `randomCode(seed, variety)`, except for the dimensions that the visitor
 * has changed.
 */
export const state = {
  code: null, seed: null, variety: 0.8, conditions: {}, next: null, mix: 0, origin: "", image: null,
};

const subscribers = [];
const small = document.createElement("canvas"); // canvas with the image at its original size

let runtime; // name of the runtime of the decoder

export function setModel(value) {
  model = value;
  setDecoder("WebAssembly", model);
  const [, height, width] = model.spec.image_shape;
  [small.width, small.height] = [width, height];
}

export const setDecoder = (name, value) => ([runtime, decoder] = [name, value]);

/** Call a function after every change of the state. */
export const subscribe = (subscriber) => subscribers.push(subscriber);

/** Change the state, and show its image. */
export function change(values) {
  Object.assign(state, values);
  dismissWarning();
  for (const subscriber of subscribers) subscriber();
  draw();
}

/** Show the image of a code under conditions. */
export const show = (code, conditions, origin) => change({ code, seed: null, conditions, next: null, mix: 0, origin });

export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

export const randomCode = (seed, variety) => normal(seed, model.spec.latent_dim).map((value) => value * variety);

/** Return conditions in which each value is unknown or, if it must be known, the one with an index modulo their number. */
export const defaultConditions = (index = 0) =>
  Object.fromEntries(
    model.spec.conditions.map(({ name, optional, values }) => [name, optional ? null : values[index % values.length]]),
  );

/** Round a number for display, but not beyond its range. */
export const formatNumber = (value, low, high) => Math.min(high, Math.max(low, Number(value.toPrecision(4))));

/** Format a time in milliseconds. */
export const formatTime = (time) => `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;

/** Return the known conditions of an image as text, such as "pug, age 40 years, smiling". */
export function describeConditions(conditions) {
  return model.spec.conditions
    .filter(({ name }) => conditions[name] !== null)
    .map(({ name, kind, values, low, high, unit }) => {
      const value = conditions[name];
      if (kind === "category") return value;
      if (kind === "number") return `${name} ${formatNumber(value, low, high)}${unit ? ` ${unit}` : ""}`;
      return values.filter((attribute) => value[attribute]).join(", ") || `no ${name}`;
    })
    .join(", ");
}

let isChanged = false; // whether the state has changed since it was last decoded
let pending = null; // promise of the decoding in progress

/** Decode and paint the state as soon as possible. Intermediate changes are skipped. */
export function draw() {
  isChanged = true;
  pending ??= (async () => {
    try {
      while (isChanged) {
        isChanged = false;
        await decode();
        paint();
        await new Promise(requestAnimationFrame);
      }
    } finally {
      pending = null;
    }
  })().catch(fail);
}

/** Wait until the canvas shows the state. */
export async function waitForImage() {
  while (pending) await pending;
}

async function decode() {
  const { code, conditions, next, mix } = state;
  const [codes, values] = mix === 0 ? [code, conditions] : [Float32Array.from([...code, ...code]), [conditions, next]];
  const start = performance.now();
  const images = await decoder.decode(codes, values);
  const time = ((performance.now() - start) * code.length) / codes.length;
  $("speed").textContent = `Decoding takes ${formatTime(time)} per image with ${runtime}.`;
  // Between two classes, take the weighted mean of both decodings, as Python does.
  const size = images.length / 2;
  state.image = mix === 0 ? images : images.slice(0, size).map((value, i) => (1 - mix) * value + mix * images[size + i]);
}

function paint() {
  const [, height, width] = model.spec.image_shape;
  small.getContext("2d").putImageData(new ImageData(toRGBA(state.image, model.spec.image_shape), width, height), 0, 0);
  enlarge($("image"));
  const name = describeConditions(state.mix < 0.5 ? state.conditions : state.next);
  $("class-name").textContent = name;
  $("origin").textContent = state.origin;
  $("image").setAttribute("aria-label", `Generated image${name ? `: ${name}` : ""}`);
}

export function enlarge(canvas) {
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = !$("sharp").checked;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

/** Match the resolution of the canvas to the screen pixels that it covers. */
export function fit() {
  const [, height, width] = model.spec.image_shape;
  const canvas = $("image");
  const scale = Math.max(1, (canvas.clientWidth * devicePixelRatio) / width);
  [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
  enlarge(canvas);
}

export function download() {
  const canvas = document.createElement("canvas");
  const factor = Math.ceil(MIN_DOWNLOAD_SIDE / Math.max(small.width, small.height));
  [canvas.width, canvas.height] = [small.width * factor, small.height * factor];
  enlarge(canvas);
  canvas.toBlob((blob) => {
    const address = URL.createObjectURL(blob);
    const name = [model.spec.name, describeConditions(state.conditions)].filter(Boolean).join("-");
    element("a", { href: address, download: `${name.replace(/[^\p{L}\p{N}.-]+/gu, "_")}.png` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }, "image/png");
}
