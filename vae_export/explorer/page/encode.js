// An image drawn, dropped, pasted or opened: encoded and reconstructed.

import { Drawing } from "./drawing.js";
import { Gallery } from "./gallery.js";
import { paint, readFile, takeFile } from "./image.js";
import { latest } from "./latest.js";

/** @returns {Drawing | null} what goes into the encoder; null where the bundle has none */
export function showEncode(shown) {
  const { latent, signal, model: { canEncode, contract, examples } } = shown;
  for (const element of document.querySelectorAll("[data-with-encoder]")) element.hidden = !canEncode;
  document.body.classList.toggle("no-encoder", !canEncode);
  if (!canEncode) return null;
  const find = (id) => document.getElementById(id);
  const on = (id, event, act) => find(id).addEventListener(event, act, { signal });
  let posterior = null;

  const encode = latest(async () => {
    const image = drawing.image;
    const { mean, logvar } = await shown.model.encode(image);
    const [reconstruction] = await shown.model.decode(mean.slice());
    posterior = mean;
    paint(find("reconstruction"), reconstruction, contract);
    find("posterior").textContent = describe(image, reconstruction, mean, logvar, contract.image_range);
  });
  const drawing = new Drawing(contract, background(examples, contract), encode, signal);

  const open = async (file) => drawing.put(await readFile(file, contract));
  const picture = (files) => [...(files ?? [])].find((file) => file.type.startsWith("image/"));
  on("clear", "click", () => drawing.clear());
  on("invert", "click", () => drawing.invert());
  on("to-latents", "click", () => posterior && latent.replace(posterior));
  on("file", "change", ({ target }) => takeFile(target, open));
  document.addEventListener("paste", ({ clipboardData }) => {
    const file = picture(clipboardData?.files);
    if (file) open(file);
  }, { signal });
  document.addEventListener("drop", (event) => {
    const file = picture(event.dataTransfer.files);
    if (file && !event.target.closest(".ends figure")) open(file);
  }, { signal });
  shown.renewed.addEventListener("renewed", encode, { signal });

  const gallery = new Gallery("examples", contract, (index) => drawing.show(examples[index]), signal);
  gallery.resize(examples.length, "Example");
  examples.forEach((image, index) => gallery.show(index, image));
  drawing.show(examples[Math.min(1, examples.length - 1)]);
  return drawing;
}

/** Dark or light, as the border of most examples is: [byte, byte, byte]. */
function background(examples, { image_shape: [channels, height, width], image_range: [low, high] }) {
  let [sum, count] = [0, 0];
  for (const image of examples) {
    for (let column = 0; column < channels * height * width; column += 1) {
      const [row, place] = [Math.floor(column / width) % height, column % width];
      if (row > 0 && row < height - 1 && place > 0 && place < width - 1) continue;
      sum += image[column];
      count += 1;
    }
  }
  return sum / count < (low + high) / 2 ? 0 : 255;
}

/** How far off the reconstruction is, and how much the posterior knows: KL(N(mean, exp(logvar)) || N(0, 1)). */
function describe(image, reconstruction, mean, logvar, [low, high]) {
  const squares = image.reduce((sum, value, index) => sum + (value - reconstruction[index]) ** 2, 0);
  const off = Math.sqrt(squares / image.length) / (high - low);
  const kl = mean.reduce((sum, value, index) => sum + (Math.exp(logvar[index]) + value ** 2 - 1 - logvar[index]) / 2, 0);
  return `Off by ${(100 * off).toFixed(1)} % of the range (RMS) · KL to the prior ${kl.toFixed(1)} nats`;
}
