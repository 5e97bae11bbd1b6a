/** Animations through random codes or through the values of a condition. */

import { slerp } from "./cvae.js";
import { $, element } from "./dom.js";
import { change, model, randomCode, randomSeed, state, waitForImage } from "./image.js";

const TRANSITION = 2200; // duration of a transition from one code or value to the next, in ms
const PAUSE = 350; // duration of the pause at each code or value, in ms
const REDUCED_INTERVAL = 700; // time between images for people who prefer reduced motion, in ms

const prefersReducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

let current = null; // an object that identifies the running animation

/** Offer an animation for each category and each number. */
export function makeTours() {
  const conditions = model.spec.conditions.filter(({ kind }) => kind !== "attributes");
  for (const { name } of conditions) {
    const textContent = name === "label" ? "the classes" : name;
    $("tour").append(element("option", { value: name, textContent }));
  }
  $("tour-row").hidden = !conditions.length;
}

export const isPlaying = () => current !== null;

export function stop() {
  if (!current) return;
  current = null;
  change({ conditions: state.mix < 0.5 ? state.conditions : state.next, next: null, mix: 0 });
  $("play").textContent = "Play";
  $("play").setAttribute("aria-pressed", "false");
}

export async function play() {
  if (current) {
    stop();
    return;
  }
  const animation = (current = {});
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-pressed", "true");
  while (current === animation) {
    const condition = model.spec.conditions.find(({ name }) => name === $("tour").value);
    if (condition?.kind === "category") {
      const { conditions } = state;
      const { name, values } = condition;
      const next = { ...conditions, [name]: values[(values.indexOf(conditions[name]) + 1) % values.length] };
      await transition(animation, (mix) =>
        mix < 1 ? { conditions, next, mix } : { conditions: next, next: null, mix: 0 },
      );
    } else if (condition) {
      const { name, low, high } = condition;
      const from = state.conditions[name] ?? low;
      const to = from < (low + high) / 2 ? high : low;
      await transition(animation, (position) => ({
        conditions: { ...state.conditions, [name]: from + position * (to - from) },
      }));
    } else {
      const [from, seed] = [state.code, randomSeed()];
      const to = randomCode(seed, state.variety);
      await transition(animation, (position) =>
        position < 1
          ? { code: slerp(from, to, position), seed: null, origin: "interpolated" }
          : { code: to, seed, origin: `seed ${seed}` },
      );
    }
    await wait(PAUSE);
  }
}

/** Change the state as a function of the progress from 0 to 1, slowly at both ends, until `animation` is stopped. */
async function transition(animation, stateAt) {
  const start = performance.now();
  for (let progress = 0; progress < 1; ) {
    await (prefersReducedMotion.matches ? wait(REDUCED_INTERVAL) : new Promise(requestAnimationFrame));
    if (current !== animation) return;
    progress = Math.min(1, (performance.now() - start) / TRANSITION);
    change(stateAt(progress * progress * (3 - 2 * progress)));
    await waitForImage();
  }
}

const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));
