/**
 * Exported files in JavaScript, on onnxruntime-web in browsers or onnxruntime-node in Node 20.19 or later.
 *
 *   const model = await load(ort, decoderBytes);
 *   const noise = normal(7, model.spec.latent_dim);
 *   const images = await model.decode(noise, { label: "7" }); // Float32Array, (1, C, H, W) in [0, 1]
 *
 * N codes or images are one flat Float32Array in row-major order. Their conditions are one object for all of them, such
 * as { age: 40, smiling: true }, or an array of N objects. A condition that is left out or null is unknown. A value is
 *
 * - for a category, its name as a string or a number ("7" or 7), or its index as { index: 7 }. A bare number is an index
 *   only if no name is a number;
 * - for a number, a number from `low` to `high`, or any number with the option { extrapolate: true };
 * - for attributes, an object such as { glasses: true, hat: false } or the names of those that are true ("glasses,hat"
 *   or "none"); for a single attribute, also true or false.
 *
 * A label is short for an object with the category named "label", or with the only category. A batch of two may therefore
 * have the conditions ["7", "3"].
 */

const KEY = "cvae"; // key of the metadata entry that holds the spec
const FORMAT = 2; // version of the spec; this module also reads version 1, which had class names instead of conditions
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

/**
 * Return the spec of an exported file (Uint8Array): role, name, image_shape, latent_dim, conditions and more. `classes`
 * are the names of the classes if the only condition is a category, else null.
 */
export function readSpec(bytes) {
  const text = new TextDecoder("utf-8", { fatal: true });
  for (const [number, value] of fields(bytes)) {
    if (number !== METADATA_PROPS || typeof value === "number") continue;
    const entry = Object.fromEntries(fields(value));
    if (entry[1] === undefined || text.decode(entry[1]) !== KEY) continue;
    const spec = upgrade(JSON.parse(text.decode(entry[2])));
    return { ...spec, classes: singleCategory(spec.conditions)?.values ?? null };
  }
  throw new Error(`this file was not exported by cvae: its metadata has no "${KEY}" entry`);
}

/** Return the category whose value is the label: the one named "label", else the only category, else undefined. */
export function labelCategory(conditions) {
  const categories = conditions.filter(({ kind }) => kind === "category");
  return categories.find(({ name }) => name === "label") ?? (categories.length === 1 ? categories[0] : undefined);
}

/** Convert a spec of format 1, which had class names instead of conditions, to the current format. */
function upgrade(spec) {
  if (spec.format === FORMAT) return spec;
  if (spec.format !== 1) {
    throw new Error(`the spec has format ${spec.format}, but this version of cvae.js reads formats 1 to ${FORMAT}; use a newer one`);
  }
  const { classes, data_terms, ...rest } = spec;
  const conditions = classes ? [{ name: "label", kind: "category", values: classes }] : [];
  return { ...rest, format: FORMAT, conditions, data_license: data_terms };
}

/** Return the category of a model whose only condition is a category, else null. */
export const singleCategory = (conditions) =>
  conditions.length === 1 && conditions[0].kind === "category" ? conditions[0] : null;

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

const quote = (value) => JSON.stringify(typeof value === "object" ? value : String(value)).slice(0, 80);
const list = (names) => names.slice(0, 20).join(", ") + (names.length > 20 ? ", ..." : "");
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Return the index of the value of a category whose name equals a text or, failing that, equals it as a number. If no
 * name is a number, a number is the index itself. This corresponds to `Condition.index` in Python, but returns -1 or an
 * index out of range for an unknown name.
 */
function indexOf(label, { name, values }) {
  const text = String(label);
  if (values.includes(text)) return values.indexOf(text);
  const [number, numbers] = [canonicalNumber(text), values.map(canonicalNumber)];
  if (numbers.every((value) => value === null)) return /^\d{1,9}$/.test(text) ? Number(text) : -1;
  const index = number === null ? -1 : numbers.indexOf(number);
  if (index !== numbers.lastIndexOf(number) && index >= 0) {
    const names = list(values.filter((_, i) => numbers[i] === number));
    throw new Error(
      `${name} ${quote(label)} is ambiguous: the values ${names} are all equal to it as numbers; give the name exactly as it is written`,
    );
  }
  return index;
}

/** Return the index of the value of a category, given by its name or as { index }. */
function categoryIndex(condition, value, model) {
  const byIndex = isObject(value);
  const index = byIndex ? value.index : indexOf(value, condition);
  if (Number.isInteger(index) && index >= 0 && index < condition.values.length) return index; // -1 is the last one in onnxruntime
  const isLabel = condition.name === "label";
  const text = byIndex ? `${isLabel ? "class" : condition.name} with the index ${index}` : `${condition.name} ${quote(value)}`;
  const names = `${isLabel ? "classes" : "values"} are named ${list(condition.values)}`;
  throw new Error(`${model} has no ${text}; its ${names}; to choose by index, pass { index: 0 }`);
}

/** Functions that return the value of a condition as an array of numbers, one for each column, by kind. */
const PARSERS = {
  category: (condition, value, model) => [categoryIndex(condition, value, model)],

  number({ name, low, high }, value, model, extrapolate) {
    const isText = typeof value === "string" && canonicalNumber(value) !== null;
    const number = isText || typeof value === "number" ? Number(value) : NaN;
    if (!(Math.abs(number) <= 1e30)) throw new Error(`${name} of ${model} must be a finite number, not ${quote(value)}`);
    if (extrapolate || (number >= low && number <= high)) return [number];
    throw new Error(
      `${name} is ${number}, but the images of ${model} had values in ${low}..${high}; choose one of these, or set extrapolate`,
    );
  },

  attributes({ name, values }, value, model) {
    const check = (attribute) => {
      if (values.includes(attribute)) return attribute;
      throw new Error(`${name} of ${model} has no attribute ${quote(attribute)}; its attributes are ${list(values)}`);
    };
    const parse = (attribute, flag) => {
      const text = String(flag).toLowerCase();
      if (["yes", "true", "1"].includes(text)) return 1;
      if (["no", "false", "0"].includes(text)) return 0;
      throw new Error(`${attribute} of ${model} must be yes or no, not ${quote(flag)}`);
    };
    if (isObject(value)) {
      Object.keys(value).forEach(check);
      const missing = values.filter((attribute) => !Object.hasOwn(value, attribute));
      if (missing.length) throw new Error(`${name} of ${model} lacks ${list(missing)}; say yes or no for each attribute`);
      return values.map((attribute) => parse(attribute, value[attribute]));
    }
    if (values.length === 1) return [parse(name, value)];
    if (typeof value !== "string") {
      throw new Error(
        `${name} of ${model} must be an object such as { ${values[0]}: true, ... }, not ${quote(value)}; its attributes are ${list(values)}`,
      );
    }
    const isNone = value.toLowerCase() === "none" && !values.includes("none");
    const chosen = isNone ? [] : value.split(",").map((attribute) => check(attribute.trim()));
    return values.map((attribute) => Number(chosen.includes(attribute)));
  },
};

/** Return the value of a condition as an array of numbers, or null if it is unknown. */
function parseValue(condition, value, model, extrapolate) {
  const { kind, name, optional, values = [] } = condition;
  const isWord = ["any", "unknown"].includes(String(value).toLowerCase()) && !values.includes(value);
  if (value !== null && value !== undefined && !isWord) return PARSERS[kind](condition, value, model, extrapolate);
  if (optional) return null;
  throw new Error(`${name} of ${model} must be known, because it always was in training; choose one of ${list(values)}`);
}

/** Return the values of the conditions of one image, in the order of the spec, from an object or a label. */
function parseConditions(spec, item, extrapolate) {
  const [model, names] = [quote(spec.name), spec.conditions.map(({ name }) => name)];
  const isLabel = !isObject(item) || ("index" in item && !names.includes("index"));
  const category = labelCategory(spec.conditions);
  if (isLabel && !category) {
    const fix = names.length ? `its conditions are ${list(names)}` : "it was trained without labels";
    throw new Error(`${model} does not accept the label ${quote(item)}; ${fix}`);
  }
  const values = isLabel ? { [category.name]: item } : item;
  for (const name of Object.keys(values)) {
    if (names.includes(name)) continue;
    const fix = names.length ? `its conditions are ${list(names)}` : "it was trained without conditions";
    throw new Error(`${model} has no condition ${quote(name)}; ${fix}`);
  }
  return spec.conditions.map((condition) => parseValue(condition, values[condition.name], model, extrapolate));
}

/** Return the inputs of a graph for the conditions of N images by name: the type, the data and the shape of a tensor. */
function conditionInputs(spec, conditions, count, extrapolate) {
  const items = Array.isArray(conditions) ? conditions : Array(count).fill(conditions);
  if (items.length !== count && (items.length || spec.conditions.length)) {
    throw new Error(`there are conditions or labels of ${items.length} images for a batch of ${count}: give one for each`);
  }
  const rows = items.map((item) => parseConditions(spec, item, extrapolate)); // null for an unknown value
  const inputs = {};
  for (const [i, { name, kind, values }] of spec.conditions.entries()) {
    const column = rows.map((row) => row[i]);
    if (kind === "category") {
      const indices = BigInt64Array.from(column, (value) => BigInt(value ? value[0] : values.length));
      inputs[name] = ["int64", indices, [count]];
    } else {
      const shape = kind === "attributes" ? [count, values.length] : [count];
      const zeros = Array(shape[1] ?? 1).fill(0);
      inputs[name] = ["float32", Float32Array.from(column.flatMap((value) => value ?? zeros)), shape];
    }
  }
  if (spec.conditions.length && !singleCategory(spec.conditions)) {
    const known = Uint8Array.from(rows.flat(), (value) => Number(value !== null));
    inputs.known = ["bool", known, [count, spec.conditions.length]];
  }
  return inputs;
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

  /** Decode noise or codes (N, Z) to images (N, C, H, W) in [0, 1]. */
  async decode(noise, conditions = {}, { extrapolate = false } = {}) {
    const inputs = this.#inputs("noise", noise, [this.spec.latent_dim], conditions, extrapolate);
    return (await this.#decoder.run(inputs)).image.data;
  }

  /** Encode images (N, C, H, W) in [0, 1] to mean and std (N, Z), in the noise space. */
  async encode(images, conditions = {}, { extrapolate = false } = {}) {
    if (!this.#encoder) throw new Error(`"${this.spec.name}" has no encoder; load one with addEncoder`);
    const inputs = this.#inputs("image", images, this.spec.image_shape, conditions, extrapolate);
    const { mean, std } = await this.#encoder.run(inputs);
    return { mean: mean.data, std: std.data };
  }

  /** Return the index of the class that a label names, or { index }. */
  labelIndex(label) {
    const category = labelCategory(this.spec.conditions);
    if (!category) throw new Error(`"${this.spec.name}" was trained without labels, so it does not accept ${quote(label)}`);
    return categoryIndex(category, label, `"${this.spec.name}"`);
  }

  #inputs(name, values, shape, conditions, extrapolate) {
    const count = values.length / shape.reduce((a, b) => a * b);
    if (!Number.isInteger(count) || count < 1) {
      throw new Error(`${values.length} values of ${name} are not a multiple of (${shape.join(", ")})`);
    }
    const inputs = { [name]: ["float32", values, [count, ...shape]] };
    Object.assign(inputs, conditionInputs(this.spec, conditions, count, extrapolate));
    return Object.fromEntries(Object.entries(inputs).map(([key, tensor]) => [key, new this.#ort.Tensor(...tensor)]));
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
