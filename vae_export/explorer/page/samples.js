// Random samples of a seed: the same latents as every other implementation draws.

import { Gallery } from "./gallery.js";
import { latest } from "./latest.js";
import { checkSeed, sample } from "./noise.js";

const COUNTS = [16, 32, 48, 96];
const AT_A_TIME = 16;
const LARGEST = 128; // pixels a side of an image of which many are shown at once

export function showSamples(shown) {
  const { latent, signal, model: { size, contract } } = shown;
  const [form, seed, count, error] = ["samples-form", "seed", "count", "seed-error"].map((id) => document.getElementById(id));
  const large = Math.max(...contract.image_shape.slice(1)) > LARGEST;
  count.replaceChildren(...COUNTS.slice(0, large ? 1 : undefined).map((number) => new Option(number, number)));
  count.value = large ? COUNTS[0] : COUNTS[2];
  let latents = new Float32Array(0);
  const gallery = new Gallery("samples", contract, (index) => latent.replace(latents.subarray(index * size, (index + 1) * size)), signal);

  const draw = latest(async (stale) => {
    const wanted = readSeed(seed.value);
    error.hidden = wanted !== null;
    seed.setAttribute("aria-invalid", wanted === null);
    if (wanted === null) {
      error.textContent = `A seed is a whole number from 0 to ${(1n << 64n) - 1n}.`;
      return;
    }
    const rows = Number(count.value);
    latents = sample(rows, size, wanted);
    document.getElementById("python").textContent = `model.sample(${rows}, seed=${wanted})`;
    gallery.resize(rows, "Sample");
    for (let first = 0; first < rows; first += AT_A_TIME) {
      const images = await shown.model.decode(latents.slice(first * size, (first + AT_A_TIME) * size));
      if (stale()) return;
      images.forEach((image, index) => gallery.show(first + index, image));
    }
  });

  form.addEventListener("submit", (event) => (event.preventDefault(), draw()), { signal });
  count.addEventListener("change", draw, { signal });
  document.getElementById("next-seed").addEventListener("click", () => {
    const now = readSeed(seed.value);
    seed.value = now === null ? 0 : BigInt.asUintN(64, now + 1n);
    draw();
  }, { signal });
  shown.renewed.addEventListener("renewed", draw, { signal });
  draw();
}

/** A seed as it was typed → BigInt, or null where it is none. */
function readSeed(text) {
  try {
    const seed = BigInt(text.trim() || "no number");
    checkSeed(seed);
    return seed;
  } catch {
    return null;
  }
}
