/** Controls for the conditions of a model: its classes and other categories, numbers and attributes. */

import { stop } from "./animation.js";
import { toRGBA } from "./cvae.js";
import { $, element, fail } from "./dom.js";
import { change, decoder, formatNumber, model, state, subscribe, waitForImage } from "./image.js";

const THUMBNAILS = 64; // maximum number of thumbnails; more values are shown as a list
const CHUNK = 16; // number of thumbnails decoded at once; small, so that the main image does not wait long
const COLUMNS = 8; // maximum number of thumbnail columns

export function makeConditions() {
  for (const condition of model.spec.conditions.filter(({ kind }) => kind === "category")) makeCategory(condition);
  const others = model.spec.conditions.filter(({ kind }) => kind !== "category");
  if (!others.length) return;
  const rows = others.map((condition) => (condition.kind === "number" ? makeNumber(condition) : makeAttributes(condition)));
  $("conditions").append(card("Conditions", element("div", { className: "values" }, ...rows)));
}

const card = (title, content) =>
  element("fieldset", { className: "card" }, element("legend", { textContent: title }), content);

/** Show the image with another value of a condition; null is unknown. */
function choose(name, value) {
  if ($("tour").value !== "codes") stop();
  change({ conditions: { ...state.conditions, [name]: value }, next: null, mix: 0 });
}

// -- categories -------------------------------------------------------------------------------------------------------

function makeCategory({ name, values, optional }) {
  const title = name === "label" ? "Class" : name;
  const choices = optional ? [...values, null] : values; // null is "any"
  const texts = choices.map((value) => value ?? "any");
  if (choices.length > THUMBNAILS) {
    const options = texts.map((textContent, value) => element("option", { textContent, value }));
    const select = element("select", { ariaLabel: title }, ...options);
    select.addEventListener("change", () => choose(name, choices[select.value]));
    $("conditions").append(card(title, element("div", {}, select)));
    subscribe(() => (select.value = choices.indexOf(state.conditions[name])));
    return;
  }
  const [, height, width] = model.spec.image_shape;
  const list = element("div", { className: "choices" });
  const longest = Math.max(...texts.flatMap((text) => text.split(/[\s_.-]/)).map((word) => word.length));
  list.style.setProperty("--columns", Math.ceil(choices.length / Math.ceil(choices.length / COLUMNS)));
  list.style.setProperty("--word", longest);
  const [radios, thumbnails] = [[], []];
  for (const [i, value] of choices.entries()) {
    const canvas = element("canvas", { width, height, ariaHidden: "true" });
    const radio = element("input", { type: "radio", name: name === "label" ? "class" : name, value: i });
    radio.addEventListener("change", () => choose(name, value));
    list.append(element("label", { className: "choice" }, radio, canvas, caption(texts[i])));
    radios.push(radio);
    thumbnails.push(canvas);
  }
  $("conditions").append(card(title, list));
  subscribe(() => (radios[choices.indexOf(state.conditions[name])].checked = true));
  subscribe(thumbnailScheduler(name, choices, thumbnails));
}

/** Return an element with a name that can wrap after "_" and ".", where browsers would not break the line. */
function caption(name) {
  const parts = name.split(/(?<=[_.])/);
  return element("span", {}, ...parts.flatMap((part, i) => (i ? [element("wbr"), part] : [part])));
}

/** Return a function that decodes the code under each value of a category, once nothing has changed for a moment. */
function thumbnailScheduler(name, choices, thumbnails) {
  let latest = 0;
  return () => {
    clearTimeout(latest);
    const timer = setTimeout(() => drawThumbnails(name, choices, thumbnails, () => timer === latest).catch(fail), 60);
    latest = timer;
  };
}

async function drawThumbnails(name, choices, thumbnails, isCurrent) {
  const { image_shape } = model.spec;
  const [channels, height, width] = image_shape;
  await waitForImage();
  for (let first = 0; first < choices.length && isCurrent(); first += CHUNK) {
    const conditions = choices.slice(first, first + CHUNK).map((value) => ({ ...state.conditions, [name]: value }));
    const codes = Float32Array.from(conditions.flatMap(() => [...state.code]));
    const images = await decoder.decode(codes, conditions);
    for (const i of conditions.keys()) {
      const image = images.subarray(i * channels * height * width, (i + 1) * channels * height * width);
      const pixels = new ImageData(toRGBA(image, image_shape), width, height);
      thumbnails[first + i].getContext("2d").putImageData(pixels, 0, 0);
    }
    await new Promise(requestAnimationFrame);
  }
}

// -- numbers and attributes -------------------------------------------------------------------------------------------

/** Return a row with a slider, its value, and a checkbox for an unknown value. */
function makeNumber({ name, low, high, unit, optional }) {
  const slider = element("input", { type: "range", min: low, max: high, step: "any", ariaLabel: name });
  slider.value = (low + high) / 2;
  const output = element("output");
  const any = makeAny(name, optional, () => slider.valueAsNumber);
  slider.addEventListener("input", () => choose(name, slider.valueAsNumber));
  subscribe(() => {
    const value = state.conditions[name];
    if (value !== null && value !== slider.valueAsNumber) slider.value = value;
    output.textContent = value === null ? "any" : `${formatNumber(value, low, high)}${unit ? ` ${unit}` : ""}`;
    slider.ariaValueText = output.textContent;
  });
  const range = `${formatNumber(low, low, high)} to ${formatNumber(high, low, high)}${unit ? ` ${unit}` : ""}`;
  return makeRow(name, range, [slider, output], any);
}

/** Return a row with a switch for each attribute, and a checkbox for unknown values. */
function makeAttributes({ name, values, optional }) {
  const switches = values.map(() => element("input", { type: "checkbox", role: "switch" }));
  const read = () => Object.fromEntries(values.map((value, i) => [value, switches[i].checked]));
  for (const input of switches) input.addEventListener("change", () => choose(name, read()));
  const any = makeAny(name, optional, read);
  subscribe(() => {
    const flags = state.conditions[name];
    for (const [i, value] of values.entries()) {
      if (flags) switches[i].checked = flags[value];
    }
  });
  const labels = values.map((value, i) => element("label", { className: "switch" }, switches[i], caption(value)));
  return makeRow(name, "", [element("div", { className: "switches" }, ...labels)], any);
}

/** Return a checkbox that makes a value unknown, or restores the value that its controls show. */
function makeAny(name, optional, read) {
  const input = element("input", { type: "checkbox", ariaLabel: `any ${name}` });
  input.addEventListener("change", () => choose(name, input.checked ? null : read()));
  subscribe(() => (input.checked = state.conditions[name] === null));
  return element("label", { className: "any", hidden: !optional }, input, "any");
}

function makeRow(name, title, controls, any) {
  const row = element("div", { className: "value", title, role: "group", ariaLabel: name });
  row.append(element("span", { textContent: name, ariaHidden: "true" }), ...controls, any);
  subscribe(() => row.classList.toggle("unknown", state.conditions[name] === null));
  return row;
}
