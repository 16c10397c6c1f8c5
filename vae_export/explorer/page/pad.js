// Two latents at once: a pad whose background shows the decoded image at each position (the manifold of those two).
//
// A position is a pair of probabilities, and its latents are the normal quantiles of them: equal areas have equal probability
// under the prior, as in the figure of Kingma & Welling, "Auto-Encoding Variational Bayes", 2013.

import { paint } from "./images.js";
import { strongestTwo } from "./latents.js";
import { coalesce } from "./model.js";
import { normalQuantile } from "./vae-bundle/index.js";

const EDGE = 0.001; // the outermost probability: latents of ±3.09
const SIDES = [15, 11, 9, 7, 5, 3]; // images on one side of the manifold
const BUDGET = { milliseconds: 1500, numbers: 4e6 };
const TICKS = [-2, -1, 0, 1, 2];
const [STEP, LARGE_STEP] = [0.1, 0.5]; // of an arrow key, without and with Shift

/** Show the pad for the two latents that change the image most. */
export function showPad(shown) {
  const { latents: current, signal, effects } = shown;
  const [pad, canvas, dot] = ["pad", "manifold", "dot"].map((id) => document.getElementById(id));
  const selects = ["across", "up"].map((id) => document.getElementById(id));
  strongestTwo(effects).forEach((strong, axis) => {
    selects[axis].replaceChildren(...Array.from(effects, (_, index) => new Option(`z${index}`, index)));
    selects[axis].value = strong;
  });
  const { image_shape: [, height, width] } = shown.model.contract;
  pad.style.setProperty("aspect-ratio", `${width} / ${height}`);
  for (const [id, side] of [["ticks-across", "left"], ["ticks-up", "bottom"]]) {
    document.getElementById(id).replaceChildren(...TICKS.map((z) => makeTick(z, side)));
  }

  const axes = () => selects.map((select) => Number(select.value));
  const move = (zs) => {
    const [across, up] = axes();
    current.set({ [up]: zs[1], [across]: zs[0] });
  };
  const showPosition = () => {
    const zs = axes().map((index) => current.values[index]);
    dot.style.setProperty("left", `${100 * probability(zs[0])}%`);
    dot.style.setProperty("bottom", `${100 * probability(zs[1])}%`);
    pad.setAttribute("aria-valuenow", zs[0].toFixed(2));
    pad.setAttribute("aria-valuetext", axes().map((index, axis) => `z${index} ${zs[axis].toFixed(2)}`).join(", "));
  };

  let painted = "";
  const paintManifold = coalesce(async (isStale) => {
    const { model } = shown;
    const [across, up] = axes();
    const rest = current.values.slice();
    rest[across] = rest[up] = 0;
    const key = [model.backend, across, up, ...rest].join();
    if (key === painted) return;
    const side = manifoldSide(model);
    showNote(side, across, up);
    if (side === 0) return;
    if (canvas.width !== side * width) Object.assign(canvas, { width: side * width, height: side * height });
    for (let row = 0; row < side; row += 1) {
      const latents = new Float32Array(side * model.size);
      for (let column = 0; column < side; column += 1) {
        latents.set(rest, column * model.size);
        latents[column * model.size + up] = normalQuantile(1 - (row + 0.5) / side);
        latents[column * model.size + across] = normalQuantile((column + 0.5) / side);
      }
      const images = await model.decode(latents);
      if (isStale()) return;
      images.forEach((image, column) => paint(canvas, image, model.contract, column * width, row * height));
    }
    painted = key;
  });

  const point = (event) => {
    const box = pad.getBoundingClientRect();
    const position = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
    move(position.map((p) => normalQuantile(Math.min(1 - EDGE, Math.max(EDGE, p)))));
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    point(event);
  }, { signal });
  pad.addEventListener("pointermove", (event) => pad.hasPointerCapture(event.pointerId) && point(event), { signal });
  pad.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? LARGE_STEP : STEP;
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1], Home: [0, 0] }[event.key];
    if (!direction || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const zs = axes().map((index) => current.values[index]);
    move(event.key === "Home" ? [0, 0] : zs.map((z, axis) => z + step * direction[axis]));
  }, { signal });
  for (const select of selects) select.addEventListener("change", () => (showPosition(), paintManifold()), { signal });
  current.addEventListener("change", () => (showPosition(), paintManifold()), { signal });
  canvas.width = 0;
}

/** Return how many images a side can be decoded within the budget; 0 if not even the smallest number can. */
function manifoldSide({ milliseconds, contract: { image_shape } }) {
  const numbers = image_shape.reduce((a, b) => a * b);
  return SIDES.find((side) => side * side * milliseconds < BUDGET.milliseconds && side * side * numbers < BUDGET.numbers) ?? 0;
}

function showNote(side, across, up) {
  document.getElementById("manifold-note").textContent = side === 0
    ? "This model is too slow to show an image at every position."
    : "Every position shows its image; the other latents keep their values. Equal areas have equal probability." +
      (across === up ? " Choose two different latents." : "");
}

/** The standard normal distribution function of z, limited to the pad; by bisection of its inverse. */
function probability(z) {
  let [low, high] = [EDGE, 1 - EDGE];
  for (let step = 0; step < 24; step += 1) {
    const middle = (low + high) / 2;
    if (normalQuantile(middle) < z) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

function makeTick(z, side) {
  const mark = Object.assign(document.createElement("span"), { textContent: String(z).replace("-", "−") });
  mark.style.setProperty(side, `${100 * probability(z)}%`);
  return mark;
}
