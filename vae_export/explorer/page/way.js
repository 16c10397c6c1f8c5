// From one image to another: both are encoded, and what lies on the straight line between their means is decoded.

import { Gallery } from "./gallery.js";
import { paint, readCanvas, readFile } from "./image.js";
import { latest } from "./latest.js";

const STEPS = 9;

export function showWay(shown, drawing) {
  if (drawing === null) return;
  const { latent, signal, model: { contract, examples } } = shown;
  const slider = document.getElementById("way");
  const canvases = { a: document.getElementById("image-a"), b: document.getElementById("image-b") };
  const ends = {};
  let [first, last] = [null, null];

  const gallery = new Gallery("steps", contract, (index) => go(index / (STEPS - 1)), signal);
  gallery.resize(STEPS, "Step");
  const at = (t) => first.map((value, index) => value + t * (last[index] - value));
  const go = (t) => {
    slider.value = t;
    fill(t);
    if (first) latent.replace(at(t));
  };
  const fill = (t) => slider.style.setProperty("--at", `${100 * t}%`);
  slider.style.setProperty("--from", "0%");

  const walk = latest(async (stale) => {
    const { model } = shown;
    const means = [];
    for (const image of [ends.a, ends.b]) means.push((await model.encode(image.slice())).mean);
    [first, last] = means;
    for (let step = 0; step < STEPS; step += 1) {
      const [image] = await model.decode(at(step / (STEPS - 1)));
      if (stale()) return;
      gallery.show(step, image);
    }
  });
  const take = (end, image) => {
    ends[end] = image;
    paint(canvases[end], image, contract);
    if (ends.a && ends.b) walk();
  };

  for (const button of document.querySelectorAll("[data-end]")) {
    const { end } = button.dataset;
    button.addEventListener("click", () => take(end, drawing.image), { signal });
    button.closest("figure").addEventListener("drop", async (event) => {
      const file = [...event.dataTransfer.files].find(({ type }) => type.startsWith("image/"));
      if (file) take(end, readCanvas(await readFile(file, contract), contract));
    }, { signal });
  }
  slider.addEventListener("input", () => go(Number(slider.value)), { signal });
  shown.renewed.addEventListener("renewed", walk, { signal });
  slider.value = 0;
  fill(0);
  const [a, b] = [1, 5].map((index) => examples[Math.min(index, examples.length - 1)]);
  take("a", a);
  take("b", b);
}
