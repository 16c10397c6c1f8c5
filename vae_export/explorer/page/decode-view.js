// The image that the decoder makes of the current latents, and its buttons.

import { paint } from "./images.js";
import { coalesce } from "./model.js";
import { showSpeed } from "./status.js";
import { sample } from "./vae-bundle.mjs";

/** Show the decoded image and keep it up to date. */
export function showDecodeView(shown) {
  const { latents, signal } = shown;
  const canvas = document.getElementById("picture");
  const on = (id, act) => document.getElementById(id).addEventListener("click", act, { signal });
  const draw = coalesce(async () => {
    const [image] = await shown.model.decode(latents.values.slice());
    paint(canvas, image, shown.model.contract);
    showSpeed(shown.model);
  });
  latents.addEventListener("change", draw, { signal });

  on("random", () => latents.replace(sample(1, shown.model.size, crypto.getRandomValues(new BigUint64Array(1))[0])));
  on("zero", () => latents.replace(new Float32Array(shown.model.size)));
  on("copy", async ({ target }) => {
    await navigator.clipboard.writeText(JSON.stringify(Array.from(latents.values)));
    target.textContent = "Copied";
    setTimeout(() => (target.textContent = "Copy latents"), 1200);
  });
  on("save", () => canvas.toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "image.png" });
    link.click();
    URL.revokeObjectURL(link.href);
  }));
}
