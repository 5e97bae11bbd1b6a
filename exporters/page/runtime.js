/** The runtime that decodes images: WebAssembly or, where it is faster, WebGPU. */

import { load, normal, unpacked } from "./cvae.js";
import { $, warn } from "./dom.js";
import { defaultConditions, formatTime, model, setDecoder, setModel } from "./image.js";
import * as ort from "./ort.js";

const FRAME = 1000 / 60; // ms; if WebAssembly decodes an image in that time, nothing would look faster on WebGPU
const MAX_DIFFERENCE = 0.5 / 255; // half a step of a pixel in 8 bits
const REPEATS = 3; // number of timed decodings

export async function readBytes(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} could not be read (${response.status} ${response.statusText})`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Load the model on WebAssembly, which all browsers have. Return the bytes of its decoder. */
export async function loadModel() {
  const [wasm, decoder] = await Promise.all(["ort.wasm.gz", "decoder.onnx"].map(readBytes));
  ort.env.wasm.numThreads = 1; // more threads would need a server that sends COOP and COEP headers
  ort.env.wasm.wasmBinary = await unpacked(wasm);
  setModel(await load(ort, decoder));
  return decoder;
}

/**
 * Decode with WebGPU from now on if it gives the same images in less time. The address can choose the runtime:
 * `?runtime=webgpu` takes WebGPU even if it is slower, and `?runtime=wasm` does not try it.
 *
 * @param {Uint8Array} bytes of the decoder
 * @param {boolean} hasWebGPU whether the page has the files for WebGPU
 */
export async function chooseRuntime(bytes, hasWebGPU) {
  const choice = new URLSearchParams(location.search).get("runtime");
  if (choice === "wasm") return;
  try {
    if (!hasWebGPU) throw new Error("the page was exported without it");
    await tryWebGPU(bytes, choice === "webgpu");
  } catch (error) {
    if (choice === "webgpu") warn(`Images are decoded with WebAssembly, because WebGPU failed: ${error.message}`);
  }
}

async function tryWebGPU(bytes, isForced) {
  const adapter = await navigator.gpu?.requestAdapter(); // browsers offer it only to pages from HTTPS and from localhost
  if (!adapter || !("Suspending" in WebAssembly)) throw new Error("this browser does not offer it with JSPI");
  if (adapter.info.isFallbackAdapter && !isForced) return; // a GPU that the processor imitates
  const own = await measure(model);
  if (own.time < FRAME && !isForced) return;
  const gpu = await loadOnWebGPU(bytes);
  const result = await measure(gpu);
  const isEqual = result.image.every((value, i) => Math.abs(value - own.image[i]) <= MAX_DIFFERENCE); // false for NaN
  if (!isEqual) throw new Error("its images differ");
  if (result.time < own.time || isForced) setDecoder("WebGPU", protect(gpu));
  $("comparison").textContent = `(WebAssembly: ${formatTime(own.time)}; WebGPU: ${formatTime(result.time)})`;
}

/** Load the decoder on WebGPU. Its runtime is downloaded only now. */
async function loadOnWebGPU(bytes) {
  const ort = await import("./ort.webgpu.js");
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await unpacked(await readBytes("ort.webgpu.wasm.gz"));
  const logSeverityLevel = 3; // errors; a warning says that shapes are computed on the CPU, as they should be
  return load(ort, bytes, { executionProviders: ["webgpu"], logSeverityLevel });
}

/** Return the image of a fixed code, and the least time in ms to decode it, after a first decoding that prepares it. */
async function measure(decoder) {
  const [code, conditions] = [normal(0, model.spec.latent_dim), defaultConditions()];
  const image = await decoder.decode(code, conditions);
  let time = Infinity;
  for (let i = 0; i < REPEATS; i++) {
    await new Promise(requestAnimationFrame); // keep the page responsive
    const start = performance.now();
    await decoder.decode(code, conditions);
    time = Math.min(time, performance.now() - start);
  }
  return { image, time };
}

/**
 * Return a decoder on WebGPU that decodes one batch after the other, because two at a time block the page, and that
 * returns to WebAssembly if it fails, for example because the system has reset the GPU.
 */
function protect(gpu) {
  let last = Promise.resolve();
  return {
    decode(...inputs) {
      last = last
        .catch(() => {})
        .then(() => gpu.decode(...inputs))
        .catch(() => {
          setDecoder("WebAssembly", model);
          return model.decode(...inputs);
        });
      return last;
    },
  };
}
