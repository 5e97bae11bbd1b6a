/** The page: controls on one side, one image on the other. Every change decodes the image again. */

import * as ort from "./ort.js";
import { load, normal, slerp, toRGBA, unpacked } from "./cvae.js";

const SLIDERS = 8; // number of sliders shown at the start
const REACH = 3; // largest value of a slider, in standard deviations of the noise
const LEG = 2200; // ms of an animation from one shape or class to the next
const REST = 350; // ms that an animation pauses at each shape or class
const STEP = 700; // ms between the images of an animation, for people who prefer reduced motion
const THUMBNAILS = 64; // maximum number; more classes are shown as a list
const CHUNK = 16; // number of thumbnails decoded at once; small, so that the main image does not wait long
const COLUMNS = 8; // maximum number of thumbnail columns
const DOWNLOAD = 560; // minimum length of the longer side of a downloaded image, in pixels

const $ = (id) => document.getElementById(id);
const reduced = matchMedia("(prefers-reduced-motion: reduce)");

export let model;
/** State of the page. `mix` is the fraction of the way from class index `label` to class index `next`. */
export const state = { code: null, label: 0, next: 0, mix: 0, origin: "", image: null };

// -- start ------------------------------------------------------------------------------------------------------------

async function bytes(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} could not be read (${answer.status} ${answer.statusText})`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function start() {
  const { encoder, dimensions } = JSON.parse(new TextDecoder().decode(await bytes("model.json")));
  const [wasm, decoder] = await Promise.all(["ort.wasm.gz", "decoder.onnx"].map(bytes));
  ort.env.wasm.numThreads = 1; // more threads would need a server that sends COOP and COEP headers
  ort.env.wasm.wasmBinary = await unpacked(wasm);
  model = await load(ort, decoder);
  describe();
  makeClasses();
  makeSliders(dimensions);
  connect();
  surprise(0);
  await waitForImage();
  performance.mark("first image"); // for measurements of the time to the first image
  document.body.classList.add("ready");
  $("main").hidden = false;
  fit();
  say("Ready");
  await new Promise(requestAnimationFrame); // show the image before loading the encoder
  if (!encoder) return;
  await model.addEncoder(await bytes("encoder.onnx"));
  await makePad();
}

/** Announce a text to screen readers. */
function say(text) {
  $("status").textContent = text;
}

function fail(error) {
  $("status").setAttribute("role", "alert");
  say(`Error: ${error.message ?? error}`);
  throw error;
}

/** Run an event listener, and show its errors on the page. */
const safely = (listener) => async (event) => {
  try {
    await listener(event);
  } catch (error) {
    fail(error);
  }
};

function describe() {
  const { spec } = model;
  const [channels, height, width] = spec.image_shape;
  [small.width, small.height] = [width, height];
  $("picture").style.setProperty("--aspect", width / height);
  document.title = $("name").textContent = spec.name;
  const classes = spec.classes ? `, ${spec.classes.length} classes` : "";
  const kind = channels === 1 ? "grey" : "colour";
  $("what").textContent = `${width} × ${height} pixels in ${kind}, ${spec.latent_dim} latent dimensions${classes}`;
  const facts = {
    Architecture: spec.architecture,
    Likelihood: spec.likelihood,
    Prior: spec.prior,
    "Trained on": `${spec.data} (${spec.data_terms})`,
    License: spec.license,
    Runtime: `ONNX Runtime Web ${ort.env.versions.web}, MIT license`,
  };
  for (const [term, fact] of Object.entries(facts)) {
    if (!fact) continue;
    $("facts").append(element("dt", { textContent: term }), element("dd", { textContent: fact }));
  }
}

/** Return class indices as objects, which the model accepts in place of names. */
const indexed = (indices) => indices.map((index) => ({ index }));

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// -- the image --------------------------------------------------------------------------------------------------------

const small = document.createElement("canvas"); // the image, pixel for pixel

let changed = false; // whether the state has changed since it was last decoded
let pending = null; // the promise of a decoding that is not finished

/** Decode and paint the state as soon as possible. Intermediate changes are skipped. */
export function draw() {
  changed = true;
  pending ??= (async () => {
    try {
      while (changed) {
        changed = false;
        await decode();
        paint();
        await new Promise(requestAnimationFrame);
      }
      thumbnailsSoon();
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

function enlarge(canvas) {
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = !$("sharp").checked;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

/** Match the resolution of the canvas to the screen pixels that it covers. */
function fit() {
  const [, height, width] = model.spec.image_shape;
  const picture = $("picture");
  const scale = Math.max(1, (picture.clientWidth * devicePixelRatio) / width);
  [picture.width, picture.height] = [Math.round(width * scale), Math.round(height * scale)];
  enlarge(picture);
}

/** Show the image of a code and a label. */
export function show(code, label, origin) {
  Object.assign(state, { code, label, next: label, mix: 0, origin });
  followCode();
  followLabel();
  draw();
}

function surprise(seed = crypto.getRandomValues(new Uint32Array(1))[0]) {
  stop();
  show(newCode(seed), state.label, `seed ${seed}`);
}

function newCode(seed) {
  return normal(seed, model.spec.latent_dim).map((value) => value * $("variety").value);
}

function download() {
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

// -- classes ----------------------------------------------------------------------------------------------------------

const thumbnails = [];

function makeClasses() {
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
    return;
  }
  list.style.setProperty("--columns", Math.ceil(classes.length / Math.ceil(classes.length / COLUMNS)));
  for (const [value, name] of classes.entries()) {
    const canvas = element("canvas", { width, height, ariaHidden: "true" });
    const radio = element("input", { type: "radio", name: "class", value });
    radio.addEventListener("change", () => {
      if ($("tour").value === "classes") stop();
      choose(value);
    });
    const caption = element("span", { textContent: name });
    list.append(element("label", { className: "choice", title: name }, radio, canvas, caption));
    thumbnails.push(canvas);
  }
}

function choose(label) {
  Object.assign(state, { label, next: label, mix: 0 });
  draw();
}

function followLabel() {
  const { classes } = model.spec;
  if (!classes) return;
  if (thumbnails.length) $("class-list").querySelectorAll("input")[state.label].checked = true;
  else $("class").value = state.label;
}

let later = 0;

/** Show the code under each class, once nothing has changed for a moment. */
function thumbnailsSoon() {
  clearTimeout(later);
  later = setTimeout(() => drawThumbnails().catch(fail), 60);
}

async function drawThumbnails() {
  const { image_shape } = model.spec;
  const [channels, height, width] = image_shape;
  const { code } = state;
  for (let first = 0; first < thumbnails.length; first += CHUNK) {
    if (state.code !== code || pending) return; // the state is changing, and another call will follow
    const labels = thumbnails.slice(first, first + CHUNK).map((_, i) => first + i);
    const images = await model.decode(Float32Array.from(labels.flatMap(() => [...code])), indexed(labels));
    for (const [i, label] of labels.entries()) {
      const image = images.subarray(i * channels * height * width, (i + 1) * channels * height * width);
      thumbnails[label].getContext("2d").putImageData(new ImageData(toRGBA(image, image_shape), width, height), 0, 0);
    }
    await new Promise(requestAnimationFrame);
  }
}

// -- dimensions -------------------------------------------------------------------------------------------------------

const sliders = []; // {dimension, input, output}

function makeSliders(dimensions) {
  for (const dimension of dimensions) {
    const input = element("input", { type: "range", min: -REACH, max: REACH, step: 0.01 });
    input.setAttribute("aria-label", `Dimension ${dimension}`);
    const output = element("output", {});
    const name = element("span", { textContent: `z${dimension}`, ariaHidden: "true" });
    const row = element("label", { className: "slider", hidden: sliders.length >= SLIDERS }, name, input, output);
    input.addEventListener("input", () => {
      stop();
      const code = state.code.slice();
      code[dimension] = input.valueAsNumber;
      show(code, state.label, state.origin.replace(/(, changed)?$/, ", changed"));
    });
    $("sliders").append(row);
    sliders.push({ dimension, input, output, row });
  }
  $("more").hidden = sliders.length <= SLIDERS;
}

function followCode() {
  for (const { dimension, input, output, row } of sliders) {
    if (row.hidden) continue;
    const value = state.code[dimension];
    input.value = value;
    output.textContent = `${value < -0.005 ? "−" : value < 0.005 ? "" : "+"}${Math.abs(value).toFixed(2)}`;
  }
}

function showAll() {
  const all = $("more").getAttribute("aria-expanded") === "false";
  $("more").setAttribute("aria-expanded", all);
  $("more").textContent = all ? "Fewer dimensions" : "All dimensions";
  for (const { row } of sliders.slice(SLIDERS)) row.hidden = !all;
  followCode();
}

// -- animation --------------------------------------------------------------------------------------------------------

let playing = null; // an object that identifies the running animation

function stop() {
  playing = null;
  if (state.mix) choose(state.mix < 0.5 ? state.label : state.next);
  followLabel();
  $("play").textContent = "Play";
  $("play").setAttribute("aria-pressed", "false");
}

async function play() {
  if (playing) {
    stop();
    return;
  }
  const mine = (playing = {});
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-pressed", "true");
  while (playing === mine) {
    if ($("tour").value === "classes" && model.spec.classes) {
      const [label, next] = [state.label, (state.label + 1) % model.spec.classes.length];
      await travel(mine, (mix) => Object.assign(state, mix < 1 ? { label, next, mix } : { label: next, next, mix: 0 }));
    } else {
      const [from, to] = [state.code, newCode(crypto.getRandomValues(new Uint32Array(1))[0])];
      await travel(mine, (way) => Object.assign(state, { code: slerp(from, to, way), origin: "interpolated" }));
    }
    await wait(REST);
  }
}

/** Call `move` with the progress from 0 to 1, slow at both ends, for as long as the animation is `mine`. */
async function travel(mine, move) {
  const began = performance.now();
  for (let gone = 0; gone < 1; ) {
    await (reduced.matches ? wait(STEP) : new Promise(requestAnimationFrame));
    if (playing !== mine) return;
    gone = Math.min(1, (performance.now() - began) / LEG);
    move(gone * gone * (3 - 2 * gone));
    followCode();
    draw();
    await waitForImage();
  }
  followLabel();
}

const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));

// -- drawing pad -----------------------------------------------------------------------------------------------------

let paper, pen, scale; // colours as [r, g, b] in [0, 1]; pixels of the pad per pixel of the model
let touched = false; // whether there is anything on the pad
let opened = false; // whether an image file is on it
let place; // position [x, y] of the keyboard pen
let down = false; // whether the keyboard pen draws

async function makePad() {
  const [channels, height, width] = model.spec.image_shape;
  const pad = $("pad");
  scale = Math.max(1, Math.round(320 / Math.max(height, width)));
  [pad.width, pad.height] = [width * scale, height * scale];
  paper = await usualBorder();
  pen = paper.map((value) => (value < 0.5 ? 1 : 0));
  $("pen-row").hidden = channels === 1;
  $("pen").value = `#${pen.map((value) => (value ? "ff" : "00")).join("")}`;
  $("drawn-as-row").hidden = $("restyle").hidden = !model.spec.classes;
  for (const [value, textContent] of (model.spec.classes ?? []).entries()) {
    $("drawn-as").append(element("option", { value, textContent }));
  }
  clear();
  connectPad(pad);
  $("own").hidden = false;
}

/** Return the background colour: the mean border colour of generated images, or black or white for grey models. */
async function usualBorder() {
  const [channels, height, width] = model.spec.image_shape;
  const count = 8;
  const labels = model.spec.classes ? Array.from({ length: count }, (_, i) => i % model.spec.classes.length) : [];
  const images = await model.decode(normal(1, count * model.spec.latent_dim), indexed(labels));
  const sums = [0, 0, 0];
  let pixels = 0;
  for (let i = 0; i < images.length; i++) {
    const [x, y] = [i % width, Math.floor(i / width) % height];
    if (x > 0 && y > 0 && x < width - 1 && y < height - 1) continue;
    sums[Math.floor(i / (width * height)) % channels] += images[i];
    pixels++;
  }
  const means = sums.slice(0, channels).map((sum) => (sum * channels) / pixels);
  return channels === 3 ? means : Array(3).fill(Math.round(means[0]));
}

const css = (colour) => `rgb(${colour.map((value) => Math.round(255 * value)).join(" ")})`;

function clear() {
  const context = $("pad").getContext("2d", { willReadFrequently: true });
  context.fillStyle = css(paper);
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  touched = opened = false;
  movePen([context.canvas.width / 2, context.canvas.height / 2], false);
}

function movePen(to, isDown) {
  [place, down] = [to, isDown];
  const mark = $("pen-at");
  mark.style.left = `${(100 * place[0]) / $("pad").width}%`;
  mark.style.top = `${(100 * place[1]) / $("pad").height}%`;
  mark.classList.toggle("down", down);
}

function stroke(from, to) {
  const context = $("pad").getContext("2d");
  const [channels, height, width] = model.spec.image_shape;
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = scale * Math.max(1, 0.085 * Math.min(height, width));
  context.strokeStyle = channels === 1 ? css(pen) : $("pen").value;
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
  touched = true;
}

function connectPad(pad) {
  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.x) / box.width) * pad.width, ((event.clientY - box.y) / box.height) * pad.height];
  };
  let last = null; // position of the finger or mouse while it draws
  pad.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    last = at(event);
    stroke(last, last);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!last) return;
    for (const part of event.getCoalescedEvents?.() ?? [event]) {
      stroke(last, at(part));
      last = at(part);
    }
    readSoon();
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    pad.addEventListener(kind, () => {
      last = null;
      readSoon();
    });
  }
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pad.addEventListener("keydown", (event) => {
    if (event.key === " ") {
      movePen(place, !down);
      if (down) stroke(place, place);
      say(down ? "Pen down" : "Pen up");
    } else if (event.key in moves) {
      const [dx, dy] = moves[event.key].map((way) => way * scale);
      const next = [Math.min(pad.width, Math.max(0, place[0] + dx)), Math.min(pad.height, Math.max(0, place[1] + dy))];
      if (down) stroke(place, next);
      movePen(next, down);
      if (!down) return event.preventDefault();
    } else return;
    event.preventDefault();
    if (touched) readSoon();
  });
}

/** Return the pad as an image (C, H, W) in [0, 1]. Each pixel is the mean over its square on the pad. */
function padImage() {
  const [channels, height, width] = model.spec.image_shape;
  const { data } = $("pad").getContext("2d").getImageData(0, 0, width * scale, height * scale);
  const image = new Float32Array(channels * height * width);
  for (let i = 0; i < data.length; i += 4) {
    const [x, y] = [(i / 4) % (width * scale), Math.floor(i / 4 / (width * scale))];
    const pixel = Math.floor(y / scale) * width + Math.floor(x / scale);
    const [red, green, blue] = data.subarray(i, i + 3);
    const values = channels === 3 ? [red, green, blue] : [0.299 * red + 0.587 * green + 0.114 * blue];
    for (const [channel, value] of values.entries()) {
      image[channel * height * width + pixel] += value / (255 * scale * scale);
    }
  }
  return image.map((value) => Math.min(1, value));
}

/** Move a grey drawing (H, W) by whole pixels so that its centre of mass is in the middle, as in MNIST. */
function centred(image) {
  const [, height, width] = model.spec.image_shape;
  let [mass, sumX, sumY] = [0, 0, 0];
  for (const [i, value] of image.entries()) {
    const weight = Math.abs(value - paper[0]);
    mass += weight;
    sumX += weight * (i % width);
    sumY += weight * Math.floor(i / width);
  }
  const [dx, dy] = [Math.round(sumX / mass - (width - 1) / 2), Math.round(sumY / mass - (height - 1) / 2)];
  return image.map((_, i) => {
    const [x, y] = [(i % width) + dx, Math.floor(i / width) + dy];
    return x >= 0 && x < width && y >= 0 && y < height ? image[y * width + x] : paper[0];
  });
}

let reading = 0;

function readSoon() {
  clearTimeout(reading);
  reading = setTimeout(() => read().catch(fail), 80);
}

/** Encode the pad, and show its reconstruction. */
async function read() {
  if (!touched) return;
  stop();
  const { image_shape, classes } = model.spec;
  const image = image_shape[0] === 1 && !opened ? centred(padImage()) : padImage();
  const label = $("drawn-as").value === "" && classes ? await nearest(image) : Number($("drawn-as").value);
  const { mean } = await model.encode(image, classes ? indexed([label]) : []);
  show(mean, label, opened ? "your image" : "your drawing");
  if (classes) say(`Redrawn as ${classes[label]}`);
}

/** Return the distortion of a pixel x with the reconstruction r, in nats: Gaussian or cross-entropy. */
function distortion(x, r) {
  if (model.spec.sigma) return (x - r) ** 2 / (2 * model.spec.sigma ** 2);
  const odds = Math.min(1 - 1e-6, Math.max(1e-6, r));
  return -x * Math.log(odds) - (1 - x) * Math.log(1 - odds);
}

/** Return the class with the best evidence bound of an image, computed at its mean code. */
async function nearest(image) {
  let [best, least] = [0, Infinity];
  const all = model.spec.classes.map((_, label) => label);
  const size = model.spec.latent_dim;
  for (let first = 0; first < all.length; first += CHUNK) {
    const labels = all.slice(first, first + CHUNK);
    const images = new Float32Array(labels.length * image.length);
    for (const i of labels.keys()) images.set(image, i * image.length);
    const { mean, std } = await model.encode(images, indexed(labels));
    const again = await model.decode(mean, indexed(labels));
    for (const [i, label] of labels.entries()) {
      let bound = image.reduce((sum, value, j) => sum + distortion(value, again[i * image.length + j]), 0);
      for (let j = i * size; j < (i + 1) * size; j++) bound += (mean[j] ** 2 + std[j] ** 2 - 1) / 2 - Math.log(std[j]);
      if (bound < least) [best, least] = [label, bound];
    }
  }
  return best;
}

/** Draw an image file on the pad, scaled to cover it. */
async function openPicture() {
  const [file] = $("open").files;
  if (!file) return;
  $("open").value = ""; // so that the same file can be chosen again
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    say(`${file.name} is not an image that this browser can read`);
    return;
  }
  const pad = $("pad");
  const factor = Math.max(pad.width / picture.width, pad.height / picture.height);
  const [width, height] = [picture.width * factor, picture.height * factor];
  clear();
  const context = pad.getContext("2d");
  context.imageSmoothingEnabled = factor < 1; // an enlarged pixel stays a square, so that its mean is exact
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, (pad.width - width) / 2, (pad.height - height) / 2, width, height);
  picture.close();
  touched = opened = true;
  await read();
}

// -- controls ---------------------------------------------------------------------------------------------------------

function connect() {
  $("surprise").addEventListener("click", safely(() => surprise()));
  $("play").addEventListener("click", safely(play));
  $("download").addEventListener("click", safely(download));
  $("sharp").addEventListener("change", () => enlarge($("picture")));
  $("more").addEventListener("click", showAll);
  $("centre").addEventListener("click", () => {
    stop();
    show(new Float32Array(model.spec.latent_dim), state.label, "zero code");
  });
  $("drawn-as").addEventListener("change", safely(read));
  $("clear").addEventListener("click", clear);
  $("open").addEventListener("change", safely(openPicture));
  new ResizeObserver(fit).observe($("picture"));
}

await start().catch(fail);
