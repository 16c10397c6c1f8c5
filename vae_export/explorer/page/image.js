// Images between the model's numbers (channels first, in the contract's range) and a canvas.

import { level } from "./judge.js";

/** Draw an image, Float32Array (C·H·W), on a canvas in the image's own pixels, or at a place of a larger one. */
export function paint(canvas, image, contract, left = null, top = 0) {
  const [, height, width] = contract.image_shape;
  if (left === null) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(pixels(image, contract), left ?? 0, top);
}

/** One channel is grey; of more than one, the first three are red, green and blue (a second alone repeats the first). */
function pixels(image, { image_shape: [channels, height, width], image_range: [low, high] }) {
  const shown = new ImageData(width, height);
  const plane = height * width;
  const planes = channels < 3 ? [0, 0, 0] : [0, plane, 2 * plane];
  for (let pixel = 0; pixel < plane; pixel += 1) {
    for (let colour = 0; colour < 3; colour += 1) {
      shown.data[4 * pixel + colour] = level(image[planes[colour] + pixel], low, high);
    }
    shown.data[4 * pixel + 3] = 255;
  }
  return shown;
}

/** What a canvas of the image's size shows → Float32Array (C·H·W). Grey is luminance (ITU-R BT.601). */
export function readCanvas(canvas, { image_shape: [channels, height, width], image_range: [low, high] }) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const plane = height * width;
  const image = new Float32Array(channels * plane);
  for (let pixel = 0; pixel < plane; pixel += 1) {
    const [red, green, blue] = data.subarray(4 * pixel, 4 * pixel + 3);
    for (let channel = 0; channel < channels; channel += 1) {
      const byte = channels < 3 ? 0.299 * red + 0.587 * green + 0.114 * blue : [red, green, blue, 255][channel] ?? 0;
      image[channel * plane + pixel] = low + (byte / 255) * (high - low);
    }
  }
  return image;
}

/** Give the file that was chosen to `use`. The input is emptied: a browser says nothing when the same file is chosen again. */
export function takeFile(input, use) {
  const [file] = input.files;
  input.value = "";
  if (file) use(file);
}

/** An image file on a canvas of its own: the middle of the picture, as large as it fits, in high quality. */
export async function readFile(file, { image_shape: [, height, width] }) {
  const picture = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name || "What was pasted"} is no picture that this browser can read.`);
  });
  const scale = Math.min(picture.width / width, picture.height / height);
  const [across, down] = [Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale))];
  const left = Math.floor((picture.width - across) / 2);
  const top = Math.floor((picture.height - down) / 2);
  const resized = await createImageBitmap(picture, left, top, across, down, {
    resizeWidth: width, resizeHeight: height, resizeQuality: "high",
  });
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const brush = canvas.getContext("2d");
  brush.fillStyle = "#fff"; // behind what is transparent
  brush.fillRect(0, 0, width, height);
  brush.drawImage(resized, 0, 0);
  return canvas;
}

/** "28 × 28 grey", "32 × 32 colour" */
export function describe({ image_shape: [channels, height, width] }) {
  const kind = { 1: "grey", 3: "colour" }[channels] ?? `of ${channels} channels, ${channels < 3 ? "the first" : "the first three"} shown`;
  return `${width} × ${height} ${kind}`;
}
