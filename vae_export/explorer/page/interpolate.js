// Interpolation: the page encodes two images and decodes points on the straight line between their means.

import { Gallery, paint, readCanvas, readImageFile } from "./images.js";
import { coalesce } from "./model.js";

const STEPS = 9;

/** Show the interpolation between two images. There is none without a drawing, and none between codes. */
export function showInterpolation(shown, drawing) {
  const isPossible = drawing !== null && !shown.model.hasCodes;
  document.querySelector(".interpolate").hidden = !isPossible;
  if (!isPossible) return;
  const { latents, signal, model: { contract, examples } } = shown;
  const slider = document.getElementById("position");
  const canvases = { a: document.getElementById("image-a"), b: document.getElementById("image-b") };
  const ends = {};
  let [first, last] = [null, null];

  const gallery = new Gallery("steps", contract, (index) => moveTo(index / (STEPS - 1)), signal);
  gallery.resize(STEPS, "Step");
  const latentsAt = (t) => first.map((value, index) => value + t * (last[index] - value));
  const moveTo = (t) => {
    slider.value = t;
    fill(t);
    if (first) latents.replace(latentsAt(t));
  };
  const fill = (t) => slider.style.setProperty("--at", `${100 * t}%`);
  slider.style.setProperty("--from", "0%");

  const decodeSteps = coalesce(async (isStale) => {
    const { model } = shown;
    const means = [];
    for (const image of [ends.a, ends.b]) means.push((await model.encode(image.slice())).mean);
    [first, last] = means;
    for (let step = 0; step < STEPS; step += 1) {
      const [image] = await model.decode(latentsAt(step / (STEPS - 1)));
      if (isStale()) return;
      gallery.show(step, image);
    }
  });
  const take = (end, image) => {
    ends[end] = image;
    paint(canvases[end], image, contract);
    if (ends.a && ends.b) decodeSteps();
  };

  for (const button of document.querySelectorAll("[data-end]")) {
    const { end } = button.dataset;
    button.addEventListener("click", () => take(end, drawing.image), { signal });
    button.closest("figure").addEventListener("drop", async (event) => {
      const file = [...event.dataTransfer.files].find(({ type }) => type.startsWith("image/"));
      if (file) take(end, readCanvas(await readImageFile(file, contract), contract));
    }, { signal });
  }
  slider.addEventListener("input", () => moveTo(Number(slider.value)), { signal });
  shown.engineChanged.addEventListener("change", decodeSteps, { signal });
  slider.value = 0;
  fill(0);
  const [a, b] = [1, 5].map((index) => examples[Math.min(index, examples.length - 1)]);
  take("a", a);
  take("b", b);
}
