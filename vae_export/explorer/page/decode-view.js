// The image that the decoder makes of the current latents, and its buttons.

import { paint, showNumbers } from "./images.js";
import { coalesce } from "./model.js";
import { showSpeed } from "./status.js";

/** Show the decoded image and keep it up to date. */
export function showDecodeView(shown) {
  const { latents, signal, model: { canDraw, contract, hasCodes } } = shown;
  const canvas = document.getElementById("picture");
  const numbers = document.getElementById("numbers");
  [canvas.hidden, numbers.hidden] = [!contract.isImage, contract.isImage];
  for (const [id, isUseful] of [["random", canDraw], ["save", contract.isImage]]) document.getElementById(id).hidden = !isUseful;
  document.getElementById("zero").textContent = hasCodes ? "All code 0" : "All zero";
  const on = (id, act) => document.getElementById(id).addEventListener("click", act, { signal });
  const draw = coalesce(async () => {
    const [image] = await shown.model.decode(latents.values.slice());
    if (contract.isImage) paint(canvas, image, shown.model.contract);
    else showNumbers(numbers, image);
    showSpeed(shown.model);
  });
  latents.addEventListener("change", draw, { signal });

  on("random", () => latents.replace(shown.model.draw(1, crypto.getRandomValues(new BigUint64Array(1))[0])));
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
