/** The page: controls on one side, one image on the other. */

import { makeTours, play } from "./animation.js";
import { connectAddress, copyLink } from "./address.js";
import { makeConditions } from "./conditions.js";
import { changeVariety, makeSliders, reset, showAll, surprise } from "./controls.js";
import { $, announce, dismissWarning, element, fail, safely } from "./dom.js";
import { download, enlarge, fit, model, waitForImage } from "./image.js";
import * as ort from "./ort.js";
import { makePad } from "./pad.js";
import { chooseRuntime, loadModel, readBytes } from "./runtime.js";

export { decoder, draw, model, show, state, waitForImage } from "./image.js";

async function start() {
  const { encoder, webgpu, dimensions, effects } = JSON.parse(new TextDecoder().decode(await readBytes("model.json")));
  const decoderBytes = await loadModel();
  describe(encoder);
  makeConditions();
  makeTours();
  makeSliders(dimensions, effects);
  connect();
  connectAddress();
  await waitForImage();
  performance.mark("first image"); // for measurements of the time to the first image
  document.body.classList.add("ready");
  $("main").hidden = false;
  fit();
  announce("Ready");
  await new Promise(requestAnimationFrame); // show the image before loading the encoder
  if (encoder) {
    await model.addEncoder(await readBytes("encoder.onnx"));
    await makePad();
  }
  await chooseRuntime(decoderBytes, webgpu);
}

function describe(encoder) {
  const { spec } = model;
  const [channels, height, width] = spec.image_shape;
  $("image").style.setProperty("--aspect", width / height);
  document.title = $("name").textContent = spec.name;
  const conditions = spec.conditions.filter(({ name }) => name !== "label").map(({ name }) => name);
  const choices = [...(spec.conditions.length > conditions.length ? ["choose a class"] : [])];
  if (conditions.length) choices.push(`set ${conditions.join(", ")}`);
  const actions = [...choices, "press “Surprise me”", "move the sliders"];
  if (encoder) actions.push("draw something that the model then redraws");
  const last = actions.pop();
  $("intro").textContent =
    "This model makes up new images that resemble those it was trained on. " +
    `${[actions.join(", "), last].join(" or ").replace(/^./, (letter) => letter.toUpperCase())}.`;
  const properties = {
    Images: `${width} × ${height} pixels, ${channels === 1 ? "grey" : "colour"}`,
    Classes: spec.classes?.length,
    Conditions: spec.classes ? "" : spec.conditions.map(describeCondition).join("; "),
    "Latent dimensions": spec.latent_dim,
    Architecture: spec.architecture,
    Likelihood: spec.likelihood,
    Prior: spec.prior,
    "Trained on": `${spec.data} (${spec.data_license})`,
    License: spec.license,
    Runtime: `ONNX Runtime Web ${ort.env.versions.web}, MIT license`,
  };
  for (const [term, value] of Object.entries(properties)) {
    if (!value) continue;
    $("facts").append(element("dt", { textContent: term }), element("dd", { textContent: value }));
  }
}

/** Return a condition as text, such as "age: 3 to 92 years". */
function describeCondition({ name, kind, values, low, high, unit }) {
  if (kind === "number") return `${name}: ${low} to ${high}${unit ? ` ${unit}` : ""}`;
  return kind === "category" ? `${name}: ${values.length} values` : `${name}: ${values.join(", ")}`;
}

function connect() {
  $("surprise").addEventListener("click", safely(surprise));
  $("play").addEventListener("click", safely(play));
  $("download").addEventListener("click", safely(download));
  $("link").addEventListener("click", safely(copyLink));
  $("link").hidden = !navigator.clipboard; // browsers offer it only to pages from HTTPS and from localhost
  $("sharp").addEventListener("change", () => enlarge($("image")));
  $("more").addEventListener("click", showAll);
  $("reset").addEventListener("click", safely(reset));
  $("variety").addEventListener("input", safely(changeVariety));
  addEventListener("keydown", (event) => event.key === "Escape" && dismissWarning());
  new ResizeObserver(fit).observe($("image"));
}

await start().catch(fail);
