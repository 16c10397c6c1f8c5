// Two latents at once: a pad whose background shows the image at each place (the manifold of those two).
//
// A place is a pair of probabilities, and its latents are where the normal distribution function has them: equal areas hold
// equal shares of the prior, as in the figure of Kingma & Welling, "Auto-Encoding Variational Bayes", 2013.

import { strongest } from "./effects.js";
import { paint } from "./image.js";
import { latest } from "./latest.js";
import { quantile } from "./noise.js";

const EDGE = 0.001; // of the probability: latents of ±3.09
const SIDES = [15, 11, 9, 7, 5, 3];
const BUDGET = { milliseconds: 1500, numbers: 4e6 };
const TICKS = [-2, -1, 0, 1, 2];
const [STEP, LEAP] = [0.1, 0.5];

export function showPad(shown) {
  const { latent, signal, effects } = shown;
  const [pad, canvas, dot] = ["pad", "manifold", "dot"].map((id) => document.getElementById(id));
  const selects = ["across", "up"].map((id) => document.getElementById(id));
  strongest(effects).forEach((strong, axis) => {
    selects[axis].replaceChildren(...Array.from(effects, (_, index) => new Option(`z${index}`, index)));
    selects[axis].value = strong;
  });
  const { image_shape: [, height, width] } = shown.model.contract;
  pad.style.setProperty("aspect-ratio", `${width} / ${height}`);
  for (const [id, side] of [["ticks-across", "left"], ["ticks-up", "bottom"]]) {
    document.getElementById(id).replaceChildren(...TICKS.map((z) => tick(z, side)));
  }

  const axes = () => selects.map((select) => Number(select.value));
  const move = (zs) => {
    const [across, up] = axes();
    latent.set({ [up]: zs[1], [across]: zs[0] });
  };
  const follow = () => {
    const zs = axes().map((index) => latent.values[index]);
    dot.style.setProperty("left", `${100 * probability(zs[0])}%`);
    dot.style.setProperty("bottom", `${100 * probability(zs[1])}%`);
    pad.setAttribute("aria-valuenow", zs[0].toFixed(2));
    pad.setAttribute("aria-valuetext", axes().map((index, axis) => `z${index} ${zs[axis].toFixed(2)}`).join(", "));
  };

  let painted = "";
  const paintManifold = latest(async (stale) => {
    const { model } = shown;
    const [across, up] = axes();
    const rest = latent.values.slice();
    rest[across] = rest[up] = 0;
    const key = [model.backend, across, up, ...rest].join();
    if (key === painted) return;
    const side = fitting(model);
    note(side, across, up);
    if (side === 0) return;
    if (canvas.width !== side * width) Object.assign(canvas, { width: side * width, height: side * height });
    for (let row = 0; row < side; row += 1) {
      const latents = new Float32Array(side * model.size);
      for (let column = 0; column < side; column += 1) {
        latents.set(rest, column * model.size);
        latents[column * model.size + up] = quantile(1 - (row + 0.5) / side);
        latents[column * model.size + across] = quantile((column + 0.5) / side);
      }
      const images = await model.decode(latents);
      if (stale()) return;
      images.forEach((image, column) => paint(canvas, image, model.contract, column * width, row * height));
    }
    painted = key;
  });

  const point = (event) => {
    const box = pad.getBoundingClientRect();
    const place = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
    move(place.map((p) => quantile(Math.min(1 - EDGE, Math.max(EDGE, p)))));
  };
  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    point(event);
  }, { signal });
  pad.addEventListener("pointermove", (event) => pad.hasPointerCapture(event.pointerId) && point(event), { signal });
  pad.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? LEAP : STEP;
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1], Home: [0, 0] }[event.key];
    if (!direction || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const zs = axes().map((index) => latent.values[index]);
    move(event.key === "Home" ? [0, 0] : zs.map((z, axis) => z + step * direction[axis]));
  }, { signal });
  for (const select of selects) select.addEventListener("change", () => (follow(), paintManifold()), { signal });
  latent.addEventListener("change", () => (follow(), paintManifold()), { signal });
  canvas.width = 0;
}

/** How many images a side the manifold has room and time for; 0 for none. */
function fitting({ milliseconds, contract: { image_shape } }) {
  const numbers = image_shape.reduce((a, b) => a * b);
  return SIDES.find((side) => side * side * milliseconds < BUDGET.milliseconds && side * side * numbers < BUDGET.numbers) ?? 0;
}

function note(side, across, up) {
  document.getElementById("manifold-note").textContent = side === 0
    ? "This model takes too long for a picture at every place."
    : `Each place shows its image, the other latents as they are. Equal areas are equally likely${across === up ? "; choose two latents" : ""}.`;
}

/** Where the normal distribution function has z, kept within the pad; by bisection of its inverse. */
function probability(z) {
  let [low, high] = [EDGE, 1 - EDGE];
  for (let step = 0; step < 24; step += 1) {
    const middle = (low + high) / 2;
    if (quantile(middle) < z) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

function tick(z, side) {
  const mark = Object.assign(document.createElement("span"), { textContent: String(z).replace("-", "−") });
  mark.style.setProperty(side, `${100 * probability(z)}%`);
  return mark;
}
