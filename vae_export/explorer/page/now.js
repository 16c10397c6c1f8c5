// The image of the latents, and what can be done with it.

import { paint } from "./image.js";
import { latest } from "./latest.js";
import { sample } from "./noise.js";
import { showSpeed } from "./status.js";

export function showNow(shown) {
  const { latent, signal } = shown;
  const canvas = document.getElementById("picture");
  const on = (id, act) => document.getElementById(id).addEventListener("click", act, { signal });
  const draw = latest(async () => {
    const [image] = await shown.model.decode(latent.values.slice());
    paint(canvas, image, shown.model.contract);
    showSpeed(shown.model);
  });
  latent.addEventListener("change", draw, { signal });

  on("random", () => latent.replace(sample(1, shown.model.size, crypto.getRandomValues(new BigUint64Array(1))[0])));
  on("zero", () => latent.replace(new Float32Array(shown.model.size)));
  on("copy", async ({ target }) => {
    await navigator.clipboard.writeText(JSON.stringify(Array.from(latent.values)));
    target.textContent = "Copied";
    setTimeout(() => (target.textContent = "Copy latents"), 1200);
  });
  on("save", () => canvas.toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "image.png" });
    link.click();
    URL.revokeObjectURL(link.href);
  }));
}
