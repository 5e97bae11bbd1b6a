/** Choice of the class, and sliders for the dimensions of the code. */

import { isPlaying, stop } from "./animation.js";
import { toRGBA } from "./cvae.js";
import { $, element, fail } from "./dom.js";
import {
  change, labelsFromIndices, model, randomCode, randomSeed, show, state, subscribe, waitForImage,
} from "./image.js";

const SLIDERS = 8; // number of sliders shown at the start
const MAX_VALUE = 3; // largest value of a slider, in standard deviations of the noise
const THUMBNAILS = 64; // maximum number of thumbnails; more classes are shown as a list
const CHUNK = 16; // number of thumbnails decoded at once; small, so that the main image does not wait long
const COLUMNS = 8; // maximum number of thumbnail columns

// -- classes ----------------------------------------------------------------------------------------------------------

const radios = [];
const thumbnails = [];

export function makeClasses() {
  const { classes, image_shape } = model.spec;
  const [, height, width] = image_shape;
  $("classes").hidden = $("tour-row").hidden = !classes;
  if (!classes) return;
  const list = $("class-list");
  if (classes.length > THUMBNAILS) {
    const options = classes.map((textContent, value) => element("option", { textContent, value }));
    const select = element("select", { id: "class", ariaLabel: "Class" }, ...options);
    select.addEventListener("change", () => choose(Number(select.value)));
    list.append(select);
    subscribe(() => (select.value = state.label));
    return;
  }
  const longest = Math.max(...classes.flatMap((name) => name.split(/[\s_.-]/)).map((word) => word.length));
  list.style.setProperty("--columns", Math.ceil(classes.length / Math.ceil(classes.length / COLUMNS)));
  list.style.setProperty("--word", longest);
  for (const [value, name] of classes.entries()) {
    const canvas = element("canvas", { width, height, ariaHidden: "true" });
    const radio = element("input", { type: "radio", name: "class", value });
    radio.addEventListener("change", () => choose(value));
    list.append(element("label", { className: "choice" }, radio, canvas, caption(name)));
    radios.push(radio);
    thumbnails.push(canvas);
  }
  subscribe(() => (radios[state.label].checked = true));
  subscribe(scheduleThumbnails);
}

/** Return an element with a name that can wrap after "_" and ".", where browsers would not break the line. */
function caption(name) {
  const parts = name.split(/(?<=[_.])/);
  return element("span", {}, ...parts.flatMap((part, i) => (i ? [element("wbr"), part] : [part])));
}

function choose(label) {
  if ($("tour").value === "classes") stop();
  change({ label, next: label, mix: 0 });
}

let thumbnailTimer = 0;

/** Decode the code under the label of each class, once nothing has changed for a moment. */
function scheduleThumbnails() {
  clearTimeout(thumbnailTimer);
  const timer = setTimeout(() => drawThumbnails(() => timer === thumbnailTimer).catch(fail), 60);
  thumbnailTimer = timer;
}

async function drawThumbnails(isCurrent) {
  const { image_shape } = model.spec;
  const [channels, height, width] = image_shape;
  await waitForImage();
  for (let first = 0; first < thumbnails.length && isCurrent(); first += CHUNK) {
    const labels = thumbnails.slice(first, first + CHUNK).map((_, i) => first + i);
    const codes = Float32Array.from(labels.flatMap(() => [...state.code]));
    const images = await model.decode(codes, labelsFromIndices(labels));
    for (const [i, label] of labels.entries()) {
      const image = images.subarray(i * channels * height * width, (i + 1) * channels * height * width);
      thumbnails[label].getContext("2d").putImageData(new ImageData(toRGBA(image, image_shape), width, height), 0, 0);
    }
    await new Promise(requestAnimationFrame);
  }
}

// -- code -------------------------------------------------------------------------------------------------------------

const sliders = []; // {dimension, input, output, row}

/** Make a slider for each dimension, in the order of `dimensions`. `effects` are the RMS changes of the pixels. */
export function makeSliders(dimensions, effects) {
  for (const [rank, dimension] of dimensions.entries()) {
    const name = `Style ${rank + 1}`;
    const percent = Number((100 * effects[rank]).toPrecision(2));
    const title = `Latent dimension ${dimension}: from −1 to +1, the pixels change by ${percent} % (root mean square)`;
    const range = { type: "range", min: -MAX_VALUE, max: MAX_VALUE, step: 0.01 };
    const input = element("input", { ...range, ariaLabel: name, title });
    const output = element("output");
    const label = element("span", { textContent: name, ariaHidden: "true" });
    const row = element("label", { className: "slider", title, hidden: rank >= SLIDERS }, label, input, output);
    row.style.setProperty("--effect", effects[rank] / Math.max(effects[0], 1e-9));
    input.addEventListener("input", () => {
      stop();
      const code = state.code.slice();
      code[dimension] = input.valueAsNumber;
      change({ code, origin: state.origin.replace(/(, changed)?$/, ", changed") });
    });
    $("sliders").append(row);
    sliders.push({ dimension, input, output, row });
  }
  $("more").hidden = sliders.length <= SLIDERS;
  $("more").textContent = `All ${sliders.length} sliders`;
  subscribe(updateSliders);
}

function updateSliders() {
  $("variety").value = state.variety;
  for (const { dimension, input, output, row } of sliders) {
    if (row.hidden) continue;
    const value = state.code[dimension];
    input.value = value;
    output.textContent = `${value < -0.005 ? "−" : value < 0.005 ? "" : "+"}${Math.abs(value).toFixed(2)}`;
  }
}

export function showAll() {
  const all = $("more").getAttribute("aria-expanded") === "false";
  $("more").setAttribute("aria-expanded", all);
  $("more").textContent = all ? "Fewer sliders" : `All ${sliders.length} sliders`;
  for (const { row } of sliders.slice(SLIDERS)) row.hidden = !all;
  updateSliders();
}

export function surprise() {
  stop();
  const seed = randomSeed();
  change({ code: randomCode(seed, state.variety), seed, origin: `seed ${seed}` });
}

export function reset() {
  stop();
  show(new Float32Array(model.spec.latent_dim), state.label, "all sliders at 0");
}

/** Scale the code of a seed, except for the dimensions that the visitor has changed. */
export function changeVariety() {
  stop();
  const [{ seed, code }, variety] = [state, $("variety").valueAsNumber];
  if (seed === null) {
    change({ variety });
    return;
  }
  const [before, after] = [randomCode(seed, state.variety), randomCode(seed, variety)];
  change({ variety, code: code.map((value, i) => (value === before[i] ? after[i] : value)) });
}
