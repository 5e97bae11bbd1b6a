/** node generate.js decoder.onnx --label 7 --out seven.png: draw one image with a decoder exported by cvae. */

import { readFile, writeFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { load, normal, toRGBA } from "./cvae.js";
import { png } from "./png.js";

// onnxruntime may send telemetry unless this is set first. A static import would run before this line.
process.env.ORT_DISABLE_TELEMETRY ??= "1";
const ort = await import("onnxruntime-node");

function seed(text) {
  if (!/^\d{1,9}$/.test(text)) throw new Error(`seed "${text}" is no number of at most 9 digits`);
  return Number(text);
}

try {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: {
      label: { type: "string" },
      seed: { type: "string", default: "0" },
      noise: { type: "string" }, // a file of float32 numbers to draw from, in place of a seed
      out: { type: "string", default: "generated.png" },
    },
  });
  if (positionals.length !== 1) throw new Error("which file? node generate.js decoder.onnx --label 7 --out seven.png");
  const model = await load(ort, await readFile(positionals[0]));
  const { name, classes, latent_dim, image_shape } = model.spec;
  const noise = values.noise
    ? new Float32Array(new Uint8Array(await readFile(values.noise)).buffer)
    : normal(seed(values.seed), latent_dim);
  const labels = classes || values.label !== undefined ? [values.label ?? classes[0]] : [];
  const image = await model.decode(noise, labels);
  const [, height, width] = image_shape;
  await writeFile(values.out, png(toRGBA(image, image_shape), width, height));
  console.log(`${values.out}: ${width}x${height}, drawn by ${name}`);
} catch (error) {
  console.error(`generate: error: ${error.message.split("\n")[0]}`);
  process.exitCode = 1;
}
