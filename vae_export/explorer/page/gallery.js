// Small images to choose from. One of them is in the tab order; arrow keys lead to the others.

import { paint } from "./image.js";

export class Gallery {
  #box;
  #contract;

  /** @param {(index: number) => void} choose */
  constructor(id, contract, choose, signal) {
    this.#box = document.getElementById(id);
    this.#contract = contract;
    this.#box.replaceChildren();
    this.#box.addEventListener("click", ({ target }) => {
      const cell = target.closest("button");
      if (cell) choose(this.#cells.indexOf(cell));
    }, { signal });
    this.#box.addEventListener("focusin", ({ target }) => this.#enter(target), { signal });
    this.#box.addEventListener("keydown", (event) => this.#walk(event), { signal });
  }

  get #cells() {
    return [...this.#box.children];
  }

  /** Make room for so many images; cells that are there already keep their picture until the next one comes. */
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

  #enter(cell) {
    for (const other of this.#cells) other.tabIndex = other === cell ? 0 : -1;
  }

  #walk(event) {
    const cells = this.#cells;
    const columns = cells.filter((cell) => cell.offsetTop === cells[0].offsetTop).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const next = cells[cells.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }
}
