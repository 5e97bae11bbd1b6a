/** The state of the page, and the image that it shows. Every change decodes the image again. */

import { normal, toRGBA } from "./cvae.js";
import { $, dismissWarning, element, fail } from "./dom.js";

const DOWNLOAD = 560; // minimum length of the longer side of a downloaded image, in pixels

export let model;
/**
 * State of the page. `mix` is the fraction of the way from class index `label` to class index `next`. Unless `seed` is
 * null, the code is `randomCode(seed, variety)`, except for the dimensions that the visitor has changed.
 */
export const state = { code: null, seed: null, variety: 0.8, label: 0, next: 0, mix: 0, origin: "", image: null };

const followers = [];
const small = document.createElement("canvas"); // the image, pixel for pixel

export function setModel(value) {
  model = value;
  const [, height, width] = model.spec.image_shape;
  [small.width, small.height] = [width, height];
}

/** Call a function after every change of the state. */
export const follow = (follower) => followers.push(follower);

/** Change the state, and show its image. */
export function change(values) {
  Object.assign(state, values);
  dismissWarning();
  for (const follower of followers) follower();
  draw();
}

/** Show the image of a code and a label. */
export const show = (code, label, origin) => change({ code, seed: null, label, next: label, mix: 0, origin });

export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

export const randomCode = (seed, variety) => normal(seed, model.spec.latent_dim).map((value) => value * variety);

/** Return class indices as objects, which the model accepts in place of names. */
export const indexed = (indices) => indices.map((index) => ({ index }));

let isChanged = false; // whether the state has changed since it was last decoded
let pending = null; // the promise of a decoding that is not finished

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
  const { code, label, next, mix } = state;
  const labels = (count) => (model.spec.classes ? indexed([label, next].slice(0, count)) : []);
  if (mix === 0) {
    state.image = await model.decode(code, labels(1));
    return;
  }
  // Between two classes, take the weighted mean of both decodings, as Python does.
  const both = await model.decode(Float32Array.from([...code, ...code]), labels(2));
  const size = both.length / 2;
  state.image = both.slice(0, size).map((value, i) => (1 - mix) * value + mix * both[size + i]);
}

function paint() {
  const [, height, width] = model.spec.image_shape;
  small.getContext("2d").putImageData(new ImageData(toRGBA(state.image, model.spec.image_shape), width, height), 0, 0);
  enlarge($("picture"));
  const name = model.spec.classes?.[state.mix < 0.5 ? state.label : state.next];
  $("class-name").textContent = name ?? "";
  $("origin").textContent = state.origin;
  $("picture").setAttribute("aria-label", `Generated image${name ? `: ${name}` : ""}`);
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
  const picture = $("picture");
  const scale = Math.max(1, (picture.clientWidth * devicePixelRatio) / width);
  [picture.width, picture.height] = [Math.round(width * scale), Math.round(height * scale)];
  enlarge(picture);
}

export function download() {
  const canvas = document.createElement("canvas");
  const factor = Math.ceil(DOWNLOAD / Math.max(small.width, small.height));
  [canvas.width, canvas.height] = [small.width * factor, small.height * factor];
  enlarge(canvas);
  canvas.toBlob((blob) => {
    const address = URL.createObjectURL(blob);
    const name = [model.spec.name, model.spec.classes?.[state.label]].filter((part) => part !== undefined).join("-");
    element("a", { href: address, download: `${name.replace(/[^\p{L}\p{N}.-]+/gu, "_")}.png` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }, "image/png");
}
