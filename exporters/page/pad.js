/** Drawing pad. The model reconstructs the drawing or image file on it. */

import { stop } from "./animation.js";
import { normal } from "./cvae.js";
import { $, announce, element, fail, safely, warn } from "./dom.js";
import { decoder, defaultConditions, describeConditions, model, show, state } from "./image.js";

const CHUNK = 16; // number of values compared with a drawing at once

let background, pen; // colours [r, g, b] in [0, 1]
let scale; // side of an image pixel on the pad, in pixels
let contents = null; // what is on the pad: null, "drawing" or "image"
let penPosition; // position [x, y] of the keyboard pen
let isPenDown = false; // whether the keyboard pen draws

export async function makePad() {
  const [channels, height, width] = model.spec.image_shape;
  const pad = $("pad");
  scale = Math.max(1, Math.round(320 / Math.max(height, width)));
  [pad.width, pad.height] = [width * scale, height * scale];
  background = await backgroundColour();
  pen = background.map((value) => (value < 0.5 ? 1 : 0));
  $("pen-row").hidden = channels === 1;
  $("pen").value = `#${pen.map((value) => (value ? "ff" : "00")).join("")}`;
  $("pad-hint").style.color = css(pen);
  $("restyle").hidden = !model.spec.conditions.length;
  $("drawn-as-row").hidden = !model.spec.classes;
  for (const [value, textContent] of (model.spec.classes ?? []).entries()) {
    $("drawn-as").append(element("option", { value, textContent }));
  }
  clear();
  connectPad(pad);
  $("drawn-as").addEventListener("change", safely(read));
  $("clear").addEventListener("click", clear);
  $("open").addEventListener("change", safely(openFile));
  $("own").hidden = false;
}

/** Return the background colour: the mean border colour of generated images, or black or white for grey models. */
async function backgroundColour() {
  const [channels, height, width] = model.spec.image_shape;
  const count = 8;
  const conditions = Array.from({ length: count }, (_, i) => defaultConditions(i));
  const images = await decoder.decode(normal(1, count * model.spec.latent_dim), conditions);
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
  context.fillStyle = css(background);
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  setContents(null);
  movePen([context.canvas.width / 2, context.canvas.height / 2], false);
}

function setContents(value) {
  contents = value;
  $("pad-hint").hidden = contents !== null;
}

function movePen(position, isDown) {
  [penPosition, isPenDown] = [position, isDown];
  const mark = $("pen-at");
  mark.style.left = `${(100 * penPosition[0]) / $("pad").width}%`;
  mark.style.top = `${(100 * penPosition[1]) / $("pad").height}%`;
  mark.classList.toggle("down", isPenDown);
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
  setContents(contents ?? "drawing");
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
    for (const move of event.getCoalescedEvents?.() ?? [event]) {
      stroke(last, at(move));
      last = at(move);
    }
    scheduleReading();
  });
  for (const type of ["pointerup", "pointercancel"]) {
    pad.addEventListener(type, () => {
      last = null;
      scheduleReading();
    });
  }
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pad.addEventListener("keydown", (event) => {
    if (event.key === " ") {
      movePen(penPosition, !isPenDown);
      if (isPenDown) stroke(penPosition, penPosition);
      announce(isPenDown ? "Pen down" : "Pen up");
    } else if (event.key in moves) {
      const [dx, dy] = moves[event.key].map((step) => step * scale);
      const [x, y] = [penPosition[0] + dx, penPosition[1] + dy];
      const next = [Math.min(pad.width, Math.max(0, x)), Math.min(pad.height, Math.max(0, y))];
      if (isPenDown) stroke(penPosition, next);
      movePen(next, isPenDown);
      if (!isPenDown) return event.preventDefault();
    } else return;
    event.preventDefault();
    scheduleReading();
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
function centre(image) {
  const [, height, width] = model.spec.image_shape;
  let [mass, sumX, sumY] = [0, 0, 0];
  for (const [i, value] of image.entries()) {
    const weight = Math.abs(value - background[0]);
    mass += weight;
    sumX += weight * (i % width);
    sumY += weight * Math.floor(i / width);
  }
  const [dx, dy] = [Math.round(sumX / mass - (width - 1) / 2), Math.round(sumY / mass - (height - 1) / 2)];
  return image.map((_, i) => {
    const [x, y] = [(i % width) + dx, Math.floor(i / width) + dy];
    return x >= 0 && x < width && y >= 0 && y < height ? image[y * width + x] : background[0];
  });
}

let readTimer = 0;

function scheduleReading() {
  clearTimeout(readTimer);
  readTimer = setTimeout(() => read().catch(fail), 80);
}

/**
 * Encode the pad, and show its reconstruction. If the only condition is a category, its value is the one of "Redraw as":
 * the best match or the visitor's choice. Several conditions would take many trials to match, so a drawing is encoded
 * under the values that the page shows, in which unknown conditions stay unknown.
 */
async function read() {
  if (!contents) return;
  stop();
  const { classes, image_shape } = model.spec;
  const image = image_shape[0] === 1 && contents === "drawing" ? centre(padImage()) : padImage();
  let { conditions } = state;
  if (classes) {
    const choice = $("drawn-as").value;
    const [{ name }] = model.spec.conditions;
    conditions = { [name]: choice === "" ? await findBestValue(image) : classes[choice] };
  }
  const { mean } = await model.encode(image, conditions);
  show(mean, conditions, `your ${contents}`);
  const description = describeConditions(conditions);
  announce(description ? `Redrawn as ${description}` : "Redrawn");
}

/** Return the distortion of a pixel x with the reconstruction r, in nats: Gaussian or cross-entropy. */
function distortion(x, r) {
  if (model.spec.sigma) return (x - r) ** 2 / (2 * model.spec.sigma ** 2);
  const probability = Math.min(1 - 1e-6, Math.max(1e-6, r));
  return -x * Math.log(probability) - (1 - x) * Math.log(1 - probability);
}

/** Return the value of the category with the best evidence bound for an image, computed at the posterior mean. */
async function findBestValue(image) {
  const [{ name, values }] = model.spec.conditions;
  let [best, lowest] = [values[0], Infinity];
  const size = model.spec.latent_dim;
  for (let first = 0; first < values.length; first += CHUNK) {
    const chunk = values.slice(first, first + CHUNK);
    const conditions = chunk.map((value) => ({ [name]: value }));
    const images = new Float32Array(chunk.length * image.length);
    for (const i of chunk.keys()) images.set(image, i * image.length);
    const { mean, std } = await model.encode(images, conditions);
    const reconstructions = await decoder.decode(mean, conditions);
    for (const [i, value] of chunk.entries()) {
      let bound = image.reduce((sum, pixel, j) => sum + distortion(pixel, reconstructions[i * image.length + j]), 0);
      for (let j = i * size; j < (i + 1) * size; j++) bound += (mean[j] ** 2 + std[j] ** 2 - 1) / 2 - Math.log(std[j]);
      if (bound < lowest) [best, lowest] = [value, bound];
    }
  }
  return best;
}

/** Draw an image file on the pad, scaled to cover it. */
async function openFile() {
  const [file] = $("open").files;
  if (!file) return;
  $("open").value = ""; // so that the same file can be chosen again
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    warn(`${file.name} is not an image that this browser can read; open a PNG, JPEG or WebP file`);
    return;
  }
  const pad = $("pad");
  const factor = Math.max(pad.width / bitmap.width, pad.height / bitmap.height);
  const [width, height] = [bitmap.width * factor, bitmap.height * factor];
  clear();
  const context = pad.getContext("2d");
  context.imageSmoothingEnabled = factor < 1; // an enlarged pixel stays a square, so that its mean is exact
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (pad.width - width) / 2, (pad.height - height) / 2, width, height);
  bitmap.close();
  setContents("image");
  await read();
}
