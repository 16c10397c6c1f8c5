// A canvas to draw on, in the model's own pixels: what is seen is what is encoded.

import { paint, readCanvas } from "./image.js";

const THICK = 0.075; // of the width: a pen stroke of MNIST's
const STEPS = 28; // of the keyboard's pen, from one side to the other

export class Drawing {
  #canvas = document.getElementById("drawing");
  #pen = document.getElementById("pen");
  #colour = document.getElementById("colour");
  #contract;
  #background;
  #changed;
  #last = null; // where the pen was, in pixels of the canvas
  #at = [0.5, 0.5]; // the keyboard's pen, of the width and the height

  /** @param {number} background 0 (dark) or 255 @param {() => void} changed is told of every stroke */
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
      this.#stroke(this.#place(event));
    });
    on("pointermove", (event) => {
      if (!this.#canvas.hasPointerCapture(event.pointerId)) return;
      // A quick hand moves several times between two frames.
      for (const point of event.getCoalescedEvents?.() ?? [event]) this.#stroke(this.#place(point));
    });
    for (const end of ["pointerup", "pointercancel"]) on(end, () => (this.#last = null));
    on("keydown", (event) => this.#key(event));
    on("focus", () => this.#canvas.matches(":focus-visible") && this.#showPen());
    on("blur", () => this.#lift());
  }

  /** What is drawn, Float32Array (C·H·W) in the contract's range. */
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

  /** Show an image of the model's. */
  show(image) {
    paint(this.#canvas, image, this.#contract);
    this.#changed();
  }

  /** Show a picture, a canvas of the model's size; grey if the model is. */
  put(picture) {
    this.#canvas.getContext("2d").drawImage(picture, 0, 0);
    this.show(this.image);
  }

  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.#canvas.width, ((event.clientY - box.top) / box.height) * this.#canvas.height];
  }

  #stroke(to) {
    const from = this.#last ?? to;
    const brush = this.#canvas.getContext("2d");
    const grey = 255 - this.#background;
    brush.strokeStyle = this.#contract.image_shape[0] < 3 ? `rgb(${grey} ${grey} ${grey})` : this.#colour.value;
    Object.assign(brush, { lineWidth: Math.max(1.5, THICK * this.#canvas.width), lineCap: "round", lineJoin: "round" });
    brush.beginPath();
    brush.moveTo(...from);
    brush.lineTo(to[0] + 1e-3, to[1]); // a line of no length draws nothing
    brush.stroke();
    this.#last = to;
    this.#changed();
  }

  #key(event) {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] }[event.key];
    if (!direction || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.#at = this.#at.map((part, axis) => Math.min(1, Math.max(0, part + direction[axis] / STEPS)));
    const here = [this.#at[0] * this.#canvas.width, this.#at[1] * this.#canvas.height];
    if (event.key === " " && this.#last !== null) this.#last = null;
    else if (event.key === " " || this.#last !== null) this.#stroke(here);
    this.#showPen();
  }

  #showPen() {
    this.#pen.hidden = false;
    this.#pen.classList.toggle("down", this.#last !== null);
    this.#pen.style.setProperty("left", `${100 * this.#at[0]}%`);
    this.#pen.style.setProperty("top", `${100 * this.#at[1]}%`);
  }

  #lift() {
    this.#last = null;
    this.#pen.hidden = true;
  }
}
