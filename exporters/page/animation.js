/** Animations through random codes or through the classes. */

import { slerp } from "./cvae.js";
import { $ } from "./dom.js";
import { change, model, randomCode, randomSeed, state, waitForImage } from "./image.js";

const TRANSITION = 2200; // duration of a transition from one code or class to the next, in ms
const PAUSE = 350; // duration of the pause at each code or class, in ms
const REDUCED_INTERVAL = 700; // time between images for people who prefer reduced motion, in ms

const prefersReducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

let current = null; // an object that identifies the running animation

export const isPlaying = () => current !== null;

export function stop() {
  if (!current) return;
  current = null;
  const label = state.mix < 0.5 ? state.label : state.next;
  change({ label, next: label, mix: 0 });
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
    if ($("tour").value === "classes" && model.spec.classes) {
      const [label, next] = [state.label, (state.label + 1) % model.spec.classes.length];
      await transition(animation, (mix) => (mix < 1 ? { label, next, mix } : { label: next, next, mix: 0 }));
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
