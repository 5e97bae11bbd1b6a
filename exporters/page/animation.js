/** Animations through random codes or through the classes. */

import { slerp } from "./cvae.js";
import { $ } from "./dom.js";
import { change, model, randomCode, randomSeed, state, waitForImage } from "./image.js";

const LEG = 2200; // ms of an animation from one shape or class to the next
const REST = 350; // ms that an animation pauses at each shape or class
const STEP = 700; // ms between the images of an animation, for people who prefer reduced motion

const reduced = matchMedia("(prefers-reduced-motion: reduce)");

let playing = null; // an object that identifies the running animation

export const isPlaying = () => playing !== null;

export function stop() {
  if (!playing) return;
  playing = null;
  const label = state.mix < 0.5 ? state.label : state.next;
  change({ label, next: label, mix: 0 });
  $("play").textContent = "Play";
  $("play").setAttribute("aria-pressed", "false");
}

export async function play() {
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
      await travel(mine, (mix) => (mix < 1 ? { label, next, mix } : { label: next, next, mix: 0 }));
    } else {
      const [from, seed] = [state.code, randomSeed()];
      const to = randomCode(seed, state.variety);
      await travel(mine, (way) =>
        way < 1
          ? { code: slerp(from, to, way), seed: null, origin: "interpolated" }
          : { code: to, seed, origin: `seed ${seed}` },
      );
    }
    await wait(REST);
  }
}

/** Change the state as a function of the progress from 0 to 1, slow at both ends, while the animation is `mine`. */
async function travel(mine, stateAt) {
  const start = performance.now();
  for (let progress = 0; progress < 1; ) {
    await (reduced.matches ? wait(STEP) : new Promise(requestAnimationFrame));
    if (playing !== mine) return;
    progress = Math.min(1, (performance.now() - start) / LEG);
    change(stateAt(progress * progress * (3 - 2 * progress)));
    await waitForImage();
  }
}

const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));
