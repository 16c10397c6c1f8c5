// An image that is drawn, dropped, pasted or opened: the page encodes it and shows its reconstruction.

import { Gallery, paint, readCanvas, readImageFile, takeFile } from "./images.js";
import { coalesce } from "./model.js";

const PEN_WIDTH = 0.075; // as a share of the canvas, as in MNIST
const PEN_STEPS = 28; // arrow keys from one side to the other

/** @returns {Drawing | null} the drawing that is encoded; null if the bundle has no encoder */
export function showEncodeView(shown) {
  const { latents, signal, model: { canEncode, contract, examples } } = shown;
  for (const element of document.querySelectorAll("[data-with-encoder]")) element.hidden = !canEncode;
  document.body.classList.toggle("no-encoder", !canEncode);
  if (!canEncode) return null;
  const find = (id) => document.getElementById(id);
  const on = (id, event, act) => find(id).addEventListener(event, act, { signal });
  let posterior = null;

  const encode = coalesce(async () => {
    const image = drawing.image;
    const { mean, logvar } = await shown.model.encode(image);
    const [reconstruction] = await shown.model.decodeNumbers(mean.slice());
    posterior = mean;
    paint(find("reconstruction"), reconstruction, contract);
    find("posterior").textContent = describePosterior(image, reconstruction, mean, logvar, contract);
  });
  const drawing = new Drawing(contract, backgroundOf(examples, contract), encode, signal);

  const open = async (file) => drawing.showCanvas(await readImageFile(file, contract));
  const imageFile = (files) => [...(files ?? [])].find((file) => file.type.startsWith("image/"));
  on("clear", "click", () => drawing.clear());
  on("invert", "click", () => drawing.invert());
  find("to-latents").textContent = logvarIsKnown(contract) ? "Set latents to its mean" : "Use its latents";
  on("to-latents", "click", () => posterior && latents.replace(posterior));
  on("file", "change", ({ target }) => takeFile(target, open));
  document.addEventListener("paste", ({ clipboardData }) => {
    const file = imageFile(clipboardData?.files);
    if (file) open(file);
  }, { signal });
  document.addEventListener("drop", (event) => {
    const file = imageFile(event.dataTransfer.files);
    if (file && !event.target.closest(".ends figure")) open(file);
  }, { signal });
  shown.engineChanged.addEventListener("change", encode, { signal });

  const gallery = new Gallery("examples", contract, (index) => drawing.show(examples[index]), signal);
  gallery.resize(examples.length, "Example");
  examples.forEach((image, index) => gallery.show(index, image));
  drawing.show(examples[Math.min(1, examples.length - 1)]);
  return drawing;
}

const logvarIsKnown = ({ encoding }) => encoding === "gaussian";

/** Return 0 (dark) or 255 (light), whichever is closer to the mean border pixel of the examples. */
function backgroundOf(examples, { image_shape: [channels, height, width], image_range: [low, high] }) {
  let [sum, count] = [0, 0];
  for (const image of examples) {
    for (let index = 0; index < channels * height * width; index += 1) {
      const [row, column] = [Math.floor(index / width) % height, index % width];
      if (row > 0 && row < height - 1 && column > 0 && column < width - 1) continue;
      sum += image[index];
      count += 1;
    }
  }
  return sum / count < (low + high) / 2 ? 0 : 255;
}

/** Describe the reconstruction error, and KL(N(mean, exp(logvar)) || N(0, 1)). */
function describePosterior(image, reconstruction, mean, logvar, { image_range: [low, high], prior }) {
  const squares = image.reduce((sum, value, index) => sum + (value - reconstruction[index]) ** 2, 0);
  const rms = Math.sqrt(squares / image.length) / (high - low);
  const error = `RMS error ${(100 * rms).toFixed(1)} % of the range`;
  if (logvar === null || prior !== "standard normal") return error;
  const kl = mean.reduce((sum, value, index) => sum + (Math.exp(logvar[index]) + value ** 2 - 1 - logvar[index]) / 2, 0);
  return `${error} · KL to the prior ${kl.toFixed(1)} nats`;
}

/** A canvas to draw on, in the model's own pixels: the encoder gets exactly what it shows. */
class Drawing {
  #canvas = document.getElementById("drawing");
  #pen = document.getElementById("pen");
  #colour = document.getElementById("colour");
  #contract;
  #background;
  #changed;
  #last = null; // the pen's last position, in pixels; null while it is lifted
  #cursor = [0.5, 0.5]; // the keyboard's pen, as shares of the width and the height

  /**
   * @param {number} background 0 (dark) or 255 (light)
   * @param {() => void} changed is called after every stroke
   */
  constructor(contract, background, changed, signal) {
    this.#contract = contract;
    this.#background = background;
    this.#changed = changed;
    const [channels, height, width] = contract.image_shape;
    Object.assign(this.#canvas, { width, height });
    this.#canvas.getContext("2d", { willReadFrequently: true });
    document.getElementById("colour-label").hidden = channels < 3;
    const on = (event, act) => this.#canvas.addEventListener(event, act, { signal });
    on("pointerdown", (event) => {
      this.#canvas.setPointerCapture(event.pointerId);
      this.#stroke(this.#position(event));
    });
    on("pointermove", (event) => {
      if (!this.#canvas.hasPointerCapture(event.pointerId)) return;
      // A fast pen moves several times between two frames.
      for (const point of event.getCoalescedEvents?.() ?? [event]) this.#stroke(this.#position(point));
    });
    for (const end of ["pointerup", "pointercancel"]) on(end, () => (this.#last = null));
    on("keydown", (event) => this.#onKey(event));
    on("focus", () => this.#canvas.matches(":focus-visible") && this.#showPen());
    on("blur", () => this.#lift());
  }

  /** The drawing as Float32Array (C·H·W) in the contract's range. */
  get image() {
    return readCanvas(this.#canvas, this.#contract);
  }

  clear() {
    const brush = this.#canvas.getContext("2d");
    brush.fillStyle = `rgb(${this.#background} ${this.#background} ${this.#background})`;
    brush.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
    this.#changed();
  }

  invert() {
    const brush = this.#canvas.getContext("2d");
    const shown = brush.getImageData(0, 0, this.#canvas.width, this.#canvas.height);
    shown.data.forEach((byte, index) => index % 4 < 3 && (shown.data[index] = 255 - byte));
    brush.putImageData(shown, 0, 0);
    this.#changed();
  }

  /** Show an image of the model. */
  show(image) {
    paint(this.#canvas, image, this.#contract);
    this.#changed();
  }

  /** Show a canvas of the model's size, in grey if the model is grey. */
  showCanvas(canvas) {
    this.#canvas.getContext("2d").drawImage(canvas, 0, 0);
    this.show(this.image);
  }

  #position(event) {
    const box = this.#canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return [x * this.#canvas.width, y * this.#canvas.height];
  }

  #stroke(to) {
    const from = this.#last ?? to;
    const brush = this.#canvas.getContext("2d");
    const grey = 255 - this.#background;
    brush.strokeStyle = this.#contract.image_shape[0] < 3 ? `rgb(${grey} ${grey} ${grey})` : this.#colour.value;
    Object.assign(brush, { lineWidth: Math.max(1.5, PEN_WIDTH * this.#canvas.width), lineCap: "round", lineJoin: "round" });
    brush.beginPath();
    brush.moveTo(...from);
    brush.lineTo(to[0] + 1e-3, to[1]); // a line of length 0 would draw nothing
    brush.stroke();
    this.#last = to;
    this.#changed();
  }

  #onKey(event) {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key];
    if (!direction || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.#cursor = this.#cursor.map((part, axis) => Math.min(1, Math.max(0, part + direction[axis] / PEN_STEPS)));
    const here = [this.#cursor[0] * this.#canvas.width, this.#cursor[1] * this.#canvas.height];
    if (event.key === " " && this.#last !== null) this.#last = null;
    else if (event.key === " " || this.#last !== null) this.#stroke(here);
    this.#showPen();
  }

  #showPen() {
    this.#pen.hidden = false;
    this.#pen.classList.toggle("down", this.#last !== null);
    this.#pen.style.setProperty("left", `${100 * this.#cursor[0]}%`);
    this.#pen.style.setProperty("top", `${100 * this.#cursor[1]}%`);
  }

  #lift() {
    this.#last = null;
    this.#pen.hidden = true;
  }
}
