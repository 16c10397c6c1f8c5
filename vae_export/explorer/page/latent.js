// The latent that the page shows now; everything that shows or changes it meets here.

export class Latent extends EventTarget {
  constructor(size) {
    super();
    this.values = new Float32Array(size);
  }

  /** Change single values: {index: value}. */
  set(changes) {
    for (const [index, value] of Object.entries(changes)) this.values[index] = value;
    this.dispatchEvent(new Event("change"));
  }

  /** Change all of them. */
  replace(values) {
    this.values = Float32Array.from(values);
    this.dispatchEvent(new Event("change"));
  }
}
