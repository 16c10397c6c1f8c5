// An exported VAE: arrays in, arrays out. `worker.js` does the computing.

import { sample, sampleCodes } from "./vae-bundle/index.js";

const TIMES_KEPT = 51;

/** The model was closed while a call was waiting: call the model that replaced it. */
export class ModelClosed extends Error {}

export class Model {
  /**
   * Check a bundle, load it into an engine, and run the self-test.
   *
   * @param {ArrayBuffer} data the bundle
   * @param {"wasm" | "webgpu"} backend
   * @param {string} engine the folder of onnxruntime-web's files, an absolute URL
   * @returns {Promise<Model>} `selfTest` says whether the engine computes the right pixels
   */
  static async open(data, backend, engine) {
    const model = new Model();
    try {
      Object.assign(model, await model.#call("open", { data, backend, engine }), { backend });
    } catch (error) {
      model.close();
      throw error;
    }
    return model;
  }

  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #pending = new Map();
  #nextId = 0;

  constructor() {
    this.#worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#pending.get(id);
      this.#pending.delete(id);
      if (error === undefined) resolve(result);
      else reject(new Error(error));
    };
    this.#worker.onerror = (event) => this.#rejectAll(new Error(`engine stopped: ${event.message ?? "its files cannot be loaded"}`));
  }

  /** How many numbers one row of latents has: those of all latents, in the contract's order. */
  get size() {
    return this.#sizes.reduce((a, b) => a + b);
  }

  /** Whether the latents are integers. */
  get hasCodes() {
    return this.contract.encoding === "codes";
  }

  /** Whether images can be encoded and shown beside their reconstructions. */
  get canEncode() {
    return this.parts.includes("encoder") && this.contract.isImage && this.contract.isSameData;
  }

  /** Whether latents can be drawn: the bundle states their prior. */
  get canDraw() {
    return this.contract.prior !== "given by the user";
  }

  get #sizes() {
    return this.contract.latents.map(({ item }) => item.reduce((a, b) => a * b, 1));
  }

  /** Draw n rows of latents from the prior; the same numbers as in every language. */
  draw(n, seed, start = 0) {
    return this.hasCodes ? sampleCodes(n, this.size, this.codes, seed, start) : sample(n, this.size, seed, start);
  }

  /** How many different codes there are. */
  get codes() {
    return this.contract.latents[0].range[1] + 1;
  }

  /** The median time of the last decodes of one image, in milliseconds. */
  get milliseconds() {
    return [...this.times].sort((a, b) => a - b)[this.times.length >> 1];
  }

  /**
   * Decode latents (N·Z) into a list of N images to be shown, or rows of other data, each Float32Array (C·H·W). A decoder
   * of the bundle that gives bytes is preferred: its images have the grey levels that a screen shows.
   */
  async decode(latents) {
    const { images, milliseconds } = await this.#decode(latents, true);
    if (images.length === 1) this.times = [...this.times, milliseconds].slice(-TIMES_KEPT);
    return images;
  }

  /** Decode latents into numbers to compute with, in the form of `decode`; the decoder that gives floats is preferred. */
  async decodeNumbers(latents) {
    return (await this.#decode(latents, false)).images;
  }

  async #decode(latents, isShown) {
    const rows = latents.length / this.size;
    const inputs = { latents: this.#splitLatents(latents, rows), conditions: this.#repeatConditions("decoder", rows) };
    const { data, milliseconds } = await this.#call("decode", { ...inputs, rows, isShown });
    return { images: splitRows(data, rows), milliseconds };
  }

  /** Encode one image, Float32Array (C·H·W), into {mean, logvar} of its posterior; without one, logvar is null. */
  async encode(image) {
    const arrays = await this.#call("encode", { data: image, conditions: this.#repeatConditions("encoder", 1) });
    if (this.contract.encoding !== "gaussian") return { mean: join(arrays), logvar: null };
    const every = (first) => join(arrays.filter((_, index) => index % 2 === first));
    return { mean: every(0), logvar: every(1) };
  }

  /** Return each latent's part of the rows, by name. */
  #splitLatents(latents, rows) {
    const { size } = this;
    let first = 0;
    return Object.fromEntries(this.contract.latents.map(({ name }, index) => {
      const [begin, count] = [first, this.#sizes[index]];
      first += count;
      if (count === size) return [name, latents];
      return [name, join(Array.from({ length: rows }, (_, row) => latents.subarray(row * size + begin, row * size + begin + count)))];
    }));
  }

  #repeatConditions(part, rows) {
    const taken = this.contract.conditions.filter(({ parts }) => parts.includes(part));
    return Object.fromEntries(taken.map(({ name }) => [name, Array.from({ length: rows }, () => this.conditions[name]).flat()]));
  }

  close() {
    this.#worker.terminate();
    this.#rejectAll(new ModelClosed("model was closed"));
  }

  #call(method, argument) {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.#worker.postMessage({ id, method, argument });
    });
  }

  #rejectAll(error) {
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }
}

/** Return arrays of one kind as one. */
function join(arrays) {
  if (arrays.length === 1) return arrays[0];
  const joined = new arrays[0].constructor(arrays.reduce((sum, { length }) => sum + length, 0));
  let filled = 0;
  for (const array of arrays) {
    joined.set(array, filled);
    filled += array.length;
  }
  return joined;
}

function splitRows(array, rows) {
  const size = array.length / rows;
  return Array.from({ length: rows }, (_, row) => array.subarray(row * size, (row + 1) * size));
}

/**
 * Run a task for the newest of many requests: requests that come while it runs are merged into one more run.
 *
 * @param {(isStale: () => boolean) => Promise<void>} task may ask whether there is a newer request, and return early
 * @returns {() => Promise<void>} request a run
 */
export function coalesce(task) {
  let [requested, running] = [0, false];
  return async () => {
    requested += 1;
    if (running) return;
    running = true;
    try {
      for (let done = 0; done !== requested; ) {
        done = requested;
        const current = requested;
        try {
          await task(() => requested !== current);
        } catch (error) {
          if (!(error instanceof ModelClosed)) throw error; // the page requests a run again with the next model
        }
      }
    } finally {
      running = false;
    }
  };
}
