// Images on canvases. The model's images are Float32Array, channels first, in the contract's range.

import { toLevel } from "./vae-bundle/index.js";

/** Draw an image, Float32Array (C·H·W): on a canvas that takes its size, or at (left, top) of a larger canvas. */
export function paint(canvas, image, contract, left = null, top = 0) {
  const [, height, width] = contract.image_shape;
  if (left === null) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(toImageData(image, contract), left ?? 0, top);
}

/** Return an image as ImageData. One or two channels: the first is grey. More: red, green and blue. The last of 2 or 4: opacity. */
function toImageData(image, { image_shape: [channels, height, width], image_range: range }) {
  const shown = new ImageData(width, height);
  const plane = height * width;
  const planes = channels < 3 ? [0, 0, 0] : [0, plane, 2 * plane];
  for (let pixel = 0; pixel < plane; pixel += 1) {
    for (let colour = 0; colour < 3; colour += 1) {
      shown.data[4 * pixel + colour] = toLevel(image[planes[colour] + pixel], range);
    }
    shown.data[4 * pixel + 3] = channels % 2 === 0 ? toLevel(image[(channels - 1) * plane + pixel], range) : 255;
  }
  return shown;
}

/** Read a canvas of the image's size as Float32Array (C·H·W). Grey is the luminance of ITU-R BT.601. */
export function readCanvas(canvas, { image_shape: [channels, height, width], image_range: [low, high] }) {
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const plane = height * width;
  const image = new Float32Array(channels * plane);
  for (let pixel = 0; pixel < plane; pixel += 1) {
    const [red, green, blue, opacity] = data.subarray(4 * pixel, 4 * pixel + 4);
    for (let channel = 0; channel < channels; channel += 1) {
      const grey = 0.299 * red + 0.587 * green + 0.114 * blue;
      const byte = (channels < 3 ? [grey, opacity] : [red, green, blue, opacity])[channel];
      image[channel * plane + pixel] = low + (byte / 255) * (high - low);
    }
  }
  return image;
}

/** Pass the chosen file to `use`, and empty the input: otherwise choosing the same file again would fire no event. */
export function takeFile(input, use) {
  const [file] = input.files;
  input.value = "";
  if (file) use(file);
}

/** Read an image file onto a new canvas of the model's size: cropped to the centre, scaled in high quality. */
export async function readImageFile(file, { image_shape: [, height, width] }) {
  const picture = await createImageBitmap(file).catch(() => {
    throw new Error(`This browser cannot read ${file.name || "the pasted file"} as an image.`);
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
  brush.fillStyle = "#fff"; // the background of transparent pixels
  brush.fillRect(0, 0, width, height);
  brush.drawImage(resized, 0, 0);
  return canvas;
}

/** Describe the size of an image, for example "28 × 28 grey" or "32 × 32 colour". */
export function describeImage({ image_shape: [channels, height, width] }) {
  const kinds = { 1: "grey", 2: "grey with opacity", 3: "colour", 4: "colour with opacity" };
  return `${width} × ${height} ${kinds[channels]}`;
}

const LISTED = 256; // numbers of data that is no image

/** Show the numbers of data that is no image in a box. */
export function showNumbers(box, data) {
  const texts = Array.from(data.subarray(0, LISTED), (value) => value.toPrecision(4).replace("-", "−"));
  const rest = data.length - texts.length;
  if (rest > 0) texts.push(`… and ${rest.toLocaleString("en")} more`);
  box.replaceChildren(...texts.map((textContent) => Object.assign(document.createElement("span"), { textContent })));
}

/** Small images to choose from. One of them is in the tab order; arrow keys move to the others. */
export class Gallery {
  #box;
  #contract;

  /** @param {(index: number) => void} choose is called with the index of the image that was clicked */
  constructor(id, contract, choose, signal) {
    this.#box = document.getElementById(id);
    this.#contract = contract;
    this.#box.replaceChildren();
    this.#box.addEventListener("click", ({ target }) => {
      const cell = target.closest("button");
      if (cell) choose(this.#cells.indexOf(cell));
    }, { signal });
    this.#box.addEventListener("focusin", ({ target }) => this.#focus(target), { signal });
    this.#box.addEventListener("keydown", (event) => this.#moveFocus(event), { signal });
  }

  get #cells() {
    return [...this.#box.children];
  }

  /** Show `count` cells. Existing cells keep their image until `show` replaces it. */
  resize(count, name) {
    const cells = this.#cells.slice(0, count);
    while (cells.length < count) {
      const cell = Object.assign(document.createElement("button"), { type: "button", className: "cell", tabIndex: -1 });
      const canvas = Object.assign(document.createElement("canvas"), { className: "pixels" });
      const [, height, width] = this.#contract.image_shape;
      Object.assign(canvas, { width, height });
      cell.append(canvas);
      cells.push(cell);
    }
    cells.forEach((cell, index) => cell.setAttribute("aria-label", `${name} ${index + 1} of ${count}`));
    this.#box.replaceChildren(...cells);
    if (count > 0 && !cells.some((cell) => cell.tabIndex === 0)) cells[0].tabIndex = 0;
  }

  show(index, image) {
    paint(this.#box.children[index].firstChild, image, this.#contract);
  }

  #focus(cell) {
    for (const other of this.#cells) other.tabIndex = other === cell ? 0 : -1;
  }

  #moveFocus(event) {
    const cells = this.#cells;
    const columns = cells.filter((cell) => cell.offsetTop === cells[0].offsetTop).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const next = cells[cells.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }
}
