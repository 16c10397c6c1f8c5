// Random samples of a seed: every implementation draws the same latents.

import { describeConditions } from "./conditions.js";
import { Gallery } from "./images.js";
import { coalesce } from "./model.js";
import { checkSeed } from "./vae-bundle/index.js";

const COUNTS = [16, 32, 48, 96];
const BATCH = 16;
const LARGEST = 128; // images with a longer side, in pixels, are shown 16 at a time

/** Show the samples of a seed; choosing one of them sets the latents. */
export function showSamples(shown) {
  const { latents, signal, model: { size, contract, canDraw } } = shown;
  document.querySelector(".samples-card").hidden = !canDraw || !contract.isImage;
  if (!canDraw || !contract.isImage) return;
  const [form, seed, count, error] = ["samples-form", "seed", "count", "seed-error"].map((id) => document.getElementById(id));
  const large = Math.max(...contract.image_shape.slice(1)) > LARGEST;
  count.replaceChildren(...COUNTS.slice(0, large ? 1 : undefined).map((number) => new Option(number, number)));
  count.value = large ? COUNTS[0] : COUNTS[2];
  let drawn = new Float32Array(0);
  const choose = (index) => latents.replace(drawn.subarray(index * size, (index + 1) * size));
  const gallery = new Gallery("samples", contract, choose, signal);

  const draw = coalesce(async (isStale) => {
    const chosen = readSeed(seed.value);
    error.hidden = chosen !== null;
    seed.setAttribute("aria-invalid", chosen === null);
    if (chosen === null) {
      error.textContent = `A seed is a whole number from 0 to ${(1n << 64n) - 1n}.`;
      return;
    }
    const rows = Number(count.value);
    drawn = shown.model.draw(rows, chosen);
    const others = [...describeSizes(shown.model), ...describeConditions(shown.model, "decoder")];
    document.getElementById("python").textContent = `model.sample(${[rows, `seed=${chosen}`, ...others].join(", ")})`;
    gallery.resize(rows, "Sample");
    for (let first = 0; first < rows; first += BATCH) {
      const images = await shown.model.decode(drawn.slice(first * size, (first + BATCH) * size));
      if (isStale()) return;
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
  shown.engineChanged.addEventListener("change", draw, { signal });
  draw();
}

/** Return the sizes of the images as an argument of Python, or nothing if the contract has no open sizes. */
function describeSizes({ sizes }) {
  const values = Object.entries(sizes).map(([name, value]) => `"${name}": ${value}`);
  return values.length > 0 ? [`sizes={${values.join(", ")}}`] : [];
}

/** Return the typed seed as a BigInt, or null if it is not valid. */
function readSeed(text) {
  try {
    return checkSeed(BigInt(text.trim() || "missing"));
  } catch {
    return null;
  }
}
