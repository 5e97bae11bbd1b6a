/**
 * Exported files in JavaScript, on onnxruntime-web in browsers or onnxruntime-node in Node 20.19 or later.
 *
 *   const model = await load(ort, decoderBytes);
 *   const images = await model.decode(normal(7, model.spec.latent_dim), ["7"]); // Float32Array, (1, C, H, W) in [0, 1]
 *
 * N codes or images are one flat Float32Array in row-major order. Labels are an array of N: the name of each class, as
 * a string or a number ("7" or 7), or its index in `spec.classes`, as { index: 7 }. A bare number is an index only if
 * no class name is a number.
 */

const KEY = "cvae"; // key of the metadata entry that holds the spec
const FORMAT = 1; // version of the spec that this module reads
const METADATA_PROPS = 14; // field of ModelProto; its entries are StringStringEntryProto: key = 1, value = 2
const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5];

/** Yield the fields of a protobuf message: [number, value as a number or as bytes]. Throw if the message is invalid. */
function* fields(bytes) {
  let position = 0;
  const varint = () => {
    for (let value = 0, factor = 1; position < bytes.length && factor < 2 ** 70; factor *= 128) {
      const byte = bytes[position++];
      value += (byte & 0x7f) * factor;
      if (byte < 0x80) return value;
    }
    throw new Error("the file is damaged or not an ONNX file: a number is truncated or too long");
  };
  while (position < bytes.length) {
    const key = varint();
    const [number, wireType] = [Math.floor(key / 8), key % 8];
    if (wireType === VARINT) {
      yield [number, varint()];
      continue;
    }
    const length = { [FIXED64]: () => 8, [BYTES]: varint, [FIXED32]: () => 4 }[wireType]?.();
    if (length === undefined || number === 0 || length > bytes.length - position) {
      const problem = `field ${number} is truncated or has an invalid wire type`;
      throw new Error(`the file is damaged or not an ONNX file: ${problem}`);
    }
    yield [number, bytes.subarray(position, position + length)];
    position += length;
  }
}

/** Return the spec of an exported file (Uint8Array): role, name, image_shape, latent_dim, classes and more. */
export function readSpec(bytes) {
  const text = new TextDecoder("utf-8", { fatal: true });
  for (const [number, value] of fields(bytes)) {
    if (number !== METADATA_PROPS || typeof value === "number") continue;
    const entry = Object.fromEntries(fields(value));
    if (entry[1] === undefined || text.decode(entry[1]) !== KEY) continue;
    const spec = JSON.parse(text.decode(entry[2]));
    if (spec.format !== FORMAT) throw new Error(`the spec has format ${spec.format}, but this version of cvae.js reads format ${FORMAT}; use a newer one`);
    return spec;
  }
  throw new Error(`this file was not exported by cvae: its metadata has no "${KEY}" entry`);
}

/**
 * Load a decoder.
 *
 * @param ort the onnxruntime-web or onnxruntime-node module
 * @param {Uint8Array} bytes of decoder.onnx
 * @param {object} options of ort.InferenceSession.create
 */
export async function load(ort, bytes, options = {}) {
  const spec = readSpec(bytes);
  if (spec.role !== "decoder") throw new Error(`the file contains the ${spec.role}, but the decoder is needed`);
  return new Model(ort, spec, await ort.InferenceSession.create(bytes, options), options);
}

/**
 * Return the canonical form of the number that a string spells ("01" and "1.0" give "1e0"), or null if it is not a
 * number. The form is a string, because different long numbers could round to the same Number.
 */
function canonicalNumber(text) {
  const parts = /^([+-]?)(\p{Nd}*)\.?(\p{Nd}*)(?:e([+-]?\d{1,3}))?$/iu.exec(text);
  if (!parts || !(parts[2] || parts[3])) return null;
  const [, sign, integer, fraction, exponent = 0] = parts;
  const digits = (integer + fraction).replace(/^0+/, "");
  const significant = digits.replace(/0+$/, "");
  if (!significant) return "0";
  const shift = Number(exponent) - fraction.length + digits.length - significant.length;
  return `${sign === "-" ? "-" : ""}${significant}e${shift}`;
}

/**
 * Return the index of the class whose name equals a label as a string or, failing that, as a number. If no class name
 * is a number, a number is the index itself. This corresponds to `Spec.label_index` in Python, but returns -1 or an
 * index out of range for an unknown label.
 */
function indexOf(label, classes) {
  const text = String(label);
  if (classes.includes(text)) return classes.indexOf(text);
  const [number, numbers] = [canonicalNumber(text), classes.map(canonicalNumber)];
  if (numbers.every((value) => value === null)) return /^\d{1,9}$/.test(text) ? Number(text) : -1;
  const index = number === null ? -1 : numbers.indexOf(number);
  if (index !== numbers.lastIndexOf(number) && index >= 0) {
    const names = classes.filter((_, i) => numbers[i] === number).slice(0, 20).join(", ");
    throw new Error(
      `label "${label}" is ambiguous: the classes ${names} are all equal to it as numbers; give the name exactly as it is written`,
    );
  }
  return index;
}

/** An exported model, which turns noise into images and, with an encoder, images into codes. */
class Model {
  #ort;
  #decoder;
  #encoder = null;
  #options;

  constructor(ort, spec, decoder, options) {
    this.spec = spec;
    this.#ort = ort;
    this.#decoder = decoder;
    this.#options = options;
  }

  /** Load the encoder that was exported with the decoder, for `encode`. */
  async addEncoder(bytes) {
    const { role, weights } = readSpec(bytes);
    if (role !== "encoder") throw new Error(`the file contains the ${role}, but the encoder is needed`);
    if (weights !== this.spec.weights) {
      throw new Error("decoder and encoder were exported from different weights; export both again");
    }
    this.#encoder = await this.#ort.InferenceSession.create(bytes, this.#options);
  }

  /** Decode noise or codes (N, Z) under N labels to images (N, C, H, W) in [0, 1]. */
  async decode(noise, labels = []) {
    const inputs = this.#inputs("noise", noise, [this.spec.latent_dim], labels);
    return (await this.#decoder.run(inputs)).image.data;
  }

  /** Encode images (N, C, H, W) in [0, 1] under N labels to mean and std (N, Z), in the noise space. */
  async encode(images, labels = []) {
    if (!this.#encoder) throw new Error(`"${this.spec.name}" has no encoder; load one with addEncoder`);
    const { mean, std } = await this.#encoder.run(this.#inputs("image", images, this.spec.image_shape, labels));
    return { mean: mean.data, std: std.data };
  }

  /** Return the class index of a label or { index }. onnxruntime itself would accept -1 as the last class. */
  labelIndex(label) {
    const { name, classes } = this.spec;
    const byIndex = typeof label === "object";
    const text = byIndex ? `class with the index ${label?.index}` : `label "${label}"`;
    if (!classes) throw new Error(`"${name}" was trained without labels, so it does not accept ${text}`);
    const index = byIndex ? label?.index : indexOf(label, classes);
    if (!Number.isInteger(index) || index < 0 || index >= classes.length) {
      const names = classes.slice(0, 20).join(", ");
      throw new Error(`"${name}" has no ${text}; its classes are named ${names}; to choose by index, pass { index: 0 }`);
    }
    return index;
  }

  #inputs(name, values, shape, labels) {
    const count = values.length / shape.reduce((a, b) => a * b);
    if (!Number.isInteger(count) || count < 1) {
      throw new Error(`${values.length} values of ${name} are not a multiple of (${shape.join(", ")})`);
    }
    const inputs = { [name]: new this.#ort.Tensor("float32", values, [count, ...shape]) };
    const { classes } = this.spec;
    if (labels.length !== (classes ? count : 0)) {
      throw new Error(`there are ${labels.length} labels for a batch of ${count}: give ${classes ? "one for each" : "none"}`);
    }
    if (classes) {
      const numbers = BigInt64Array.from(labels, (label) => BigInt(this.labelIndex(label)));
      inputs.label = new this.#ort.Tensor("int64", numbers, [count]);
    }
    return inputs;
  }
}

/**
 * Return `count` samples of the standard normal distribution. A seed (0..2**32 - 1) gives the same samples everywhere:
 * sfc32 (Chris Doty-Humphrey, as in PractRand), started at (0, 0, seed, 1) and run 15 times, then the transform of Box
 * and Muller 1958, which gives two samples at a time. Python draws different samples for a seed: pass those as noise to
 * get the same image.
 */
export function normal(seed, count) {
  let [a, b, c, counter] = [0, 0, seed | 0, 1];
  const next = () => {
    const sum = (a + b + counter++) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return (sum >>> 0) / 2 ** 32; // in [0, 1)
  };
  for (let i = 0; i < 15; i++) next();
  const samples = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const [radius, angle] = [Math.sqrt(-2 * Math.log(1 - next())), 2 * Math.PI * next()];
    samples[i] = radius * Math.cos(angle);
    if (i + 1 < count) samples[i + 1] = radius * Math.sin(angle);
  }
  return samples;
}

/** Interpolate along the great circle between codes a and b (Z), at `position` in [0, 1]. Shoemake 1985, section 3.3. */
export function slerp(a, b, position) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const cosine = dot(a, b) / Math.max(Math.sqrt(dot(a, a) * dot(b, b)), 1e-12);
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const isLinear = Math.sin(angle) < 1e-4; // for parallel or opposite codes, there is no single shortest arc
  const [from, to] = isLinear
    ? [1 - position, position]
    : [Math.sin((1 - position) * angle) / Math.sin(angle), Math.sin(position * angle) / Math.sin(angle)];
  return a.map((value, i) => from * value + to * b[i]);
}

/** Return the pixels (H, W, 4), 0..255, of an image (C, H, W) in [0, 1] with C = 1 or 3. */
export function toRGBA(image, [channels, height, width]) {
  const pixels = new Uint8ClampedArray(4 * height * width); // rounds and clamps
  const plane = channels === 3 ? height * width : 0;
  for (let i = 0; i < height * width; i++) {
    for (let channel = 0; channel < 3; channel++) pixels[4 * i + channel] = 255 * image[channel * plane + i];
    pixels[4 * i + 3] = 255;
  }
  return pixels;
}

/** Decompress a .gz file (Uint8Array). With Content-Encoding: gzip, the browser has already decompressed it. */
export async function unpacked(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
