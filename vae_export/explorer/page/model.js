// An exported VAE for the page: arrays in, arrays out. The work is done in `worker.js`.

const TIMES_KEPT = 51;

/** The model was closed while somebody waited for it: ask the one that took its place. */
export class Closed extends Error {}

export class Model {
  /**
   * Check a bundle and get it ready to run.
   *
   * @param {ArrayBuffer} data the bundle
   * @param {"wasm" | "webgpu"} backend
   * @param {string} engine the folder of onnxruntime-web's files, an absolute URL
   * @returns {Promise<Model>} its `selfTest` tells whether it computes the right pixels
   */
  static async open(data, backend, engine) {
    const model = new Model();
    try {
      Object.assign(model, await model.#ask("open", { data, backend, engine }), { backend });
    } catch (error) {
      model.close();
      throw error;
    }
    return model;
  }

  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #next = 0;

  constructor() {
    this.#worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    };
    this.#worker.onerror = (event) => this.#fail(new Error(`engine stopped: ${event.message ?? "its files cannot be loaded"}`));
  }

  get contract() {
    return this.manifest.contract;
  }

  /** Values in one latent. */
  get size() {
    return this.contract.latent_shape.reduce((a, b) => a * b);
  }

  get canEncode() {
    return this.parts.includes("encoder");
  }

  /** Median milliseconds of the last single decodes. */
  get milliseconds() {
    return [...this.times].sort((a, b) => a - b)[this.times.length >> 1];
  }

  /** Latents, row after row → images, each Float32Array (C·H·W). */
  async decode(latents) {
    const rows = latents.length / this.size;
    const { outputs, milliseconds } = await this.#ask("run", { part: "decoder", inputs: { latent: latents }, rows });
    if (rows === 1) this.times = [...this.times, milliseconds].slice(-TIMES_KEPT);
    return split(outputs.image, rows);
  }

  /** One image, Float32Array (C·H·W) → {mean, logvar} of its posterior. */
  async encode(image) {
    const { outputs } = await this.#ask("run", { part: "encoder", inputs: { image }, rows: 1 });
    return outputs;
  }

  close() {
    this.#worker.terminate();
    this.#fail(new Closed("model was closed"));
  }

  #ask(method, argument) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, method, argument });
    });
  }

  #fail(error) {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

function split(array, rows) {
  const size = array.length / rows;
  return Array.from({ length: rows }, (_, row) => array.subarray(row * size, (row + 1) * size));
}
