// An exported VAE: arrays in, arrays out. `worker.js` does the computing.

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

  get contract() {
    return this.manifest.contract;
  }

  /** How many numbers one latent vector has. */
  get size() {
    return this.contract.latent_shape.reduce((a, b) => a * b);
  }

  get canEncode() {
    return this.parts.includes("encoder");
  }

  /** The median time of the last decodes of one image, in milliseconds. */
  get milliseconds() {
    return [...this.times].sort((a, b) => a - b)[this.times.length >> 1];
  }

  /** Decode latents (N·Z) into a list of N images, each Float32Array (C·H·W). */
  async decode(latents) {
    const rows = latents.length / this.size;
    const { outputs, milliseconds } = await this.#call("run", { part: "decoder", inputs: { latent: latents }, rows });
    if (rows === 1) this.times = [...this.times, milliseconds].slice(-TIMES_KEPT);
    return splitRows(outputs.image, rows);
  }

  /** Encode one image, Float32Array (C·H·W), into {mean, logvar} of its posterior. */
  async encode(image) {
    const { outputs } = await this.#call("run", { part: "encoder", inputs: { image }, rows: 1 });
    return outputs;
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
