/** Sliders for the dimensions of the code. */

import { stop } from "./animation.js";
import { $, element } from "./dom.js";
import { change, model, randomCode, randomSeed, show, state, subscribe } from "./image.js";

const SLIDERS = 8; // number of sliders shown at the start
const MAX_VALUE = 3; // largest value of a slider, in standard deviations of the noise

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
  show(new Float32Array(model.spec.latent_dim), state.conditions, "all sliders at 0");
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
