// A bundle that runs: `Model` has the verbs of the Python library, on tensors.

import { goldenSizes, openBundle } from "./bundle.js";
import { batchBounds, fits, isImage, outputOf, pixelRange, sizesAt, tensorsOf } from "./contract.js";
import { BundleError, InputError, describe, refuse } from "./errors.js";
import { ARRAYS, findModel } from "./manifest.js";
import { makeTensor, samplePrior } from "./noise.js";
import { toLayout, toPixels } from "./pixels.js";
import { describeMachine, recommendation, withNeededEntries } from "./recommended.js";
import { goldenConditions, selfTest } from "./self-test.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./bundle.js").Tensor} Tensor */
/** @typedef {import("./contract.js").Part} Part */
/** @typedef {import("./contract.js").TensorSpec} TensorSpec */
/** @typedef {import("./manifest.js").ModelFile} ModelFile */
/** @typedef {import("./manifest.js").Precision} Precision */

/**
 * Numbers of a tensor: a tensor, or its numbers alone where the contract has no open sizes.
 *
 * @typedef {Tensor | ArrayLike<number> | ArrayLike<bigint>} Numbers
 * @typedef {Numbers | Record<string, Numbers>} Latents one latent, or several by name
 * @typedef {Record<string, number | bigint | Numbers>} Conditions by name: one value for all rows, or a row for each
 */

/**
 * @typedef {object} LoadOptions
 * @property {any} ort the module onnxruntime-node or onnxruntime-web, or a function that imports it, which is called when the
 *   first session is opened: `() => import("onnxruntime-node")`. In Node, ORT_DISABLE_TELEMETRY=1 is set before: without it
 *   ONNX Runtime reports the models that it opens to Microsoft
 * @property {Precision | null} [precision] of the files; null takes the highest that a part has
 * @property {string | null} [verifyKey] the Ed25519 public key of whoever must have signed the bundle, as the text of a PEM file
 * @property {boolean} [recommended] whether the settings that the bundle recommends for a machine like this one are used
 * @property {Record<string, unknown>} [sessionOptions] options of ONNX Runtime, such as `{ executionProviders: ["webgpu"] }`;
 *   with them, or with a precision, no recommendation is followed
 * @property {number} [rowsAtATime] the most rows that are computed at a time
 */

/**
 * @typedef {object} Running
 * @property {ModelFile} file
 * @property {Record<string, unknown>} options of the session
 * @property {string} reason why these options; empty for the usual ones
 */

const [MOST_ROWS, MOST_BYTES] = [1024, 8 << 20]; // of a piece
const RANGE_SLACK = 1e-6; // of the range: float32 arithmetic rounds

/** An exported VAE. Several calls may run at a time; each file is opened at its first use. */
export class Model {
  /** @type {Map<string, Promise<any>>} */
  #sessions = new Map();
  /** @type {Promise<any> | null} */
  #ort;
  /** @type {LoadOptions} */
  #options;
  /** @type {Record<string, unknown> | null} */
  #machine;

  /**
   * Open a bundle, and check every byte of it.
   *
   * @param {string | URL | ArrayBuffer | ArrayBufferView} source the bytes of the bundle, a URL, or in Node a path
   * @param {LoadOptions} options
   * @returns {Promise<Model>}
   * @throws {BundleError} if the bundle is not as the specification says
   */
  static async load(source, options) {
    const data = typeof source === "string" || source instanceof URL ? await readBytes(source) : source;
    const bundle = await openBundle(data, { verifyKey: options.verifyKey });
    const { precision = null, sessionOptions, recommended = true } = options;
    const follows = recommended && precision === null && sessionOptions === undefined && bundle.manifest.recommended !== undefined;
    return new Model(bundle, options, follows ? await describeMachine() : null);
  }

  /**
   * @param {Bundle} bundle of `openBundle`
   * @param {LoadOptions} options
   * @param {Record<string, unknown> | null} [machine] this machine, whose recommendations are followed; null follows none
   */
  constructor(bundle, options, machine = null) {
    const { ort } = options ?? {};
    if (typeof ort !== "function" && typeof ort?.InferenceSession?.create !== "function") {
      throw new InputError("ort is missing; pass the module onnxruntime-node or onnxruntime-web, or a function that imports it");
    }
    this.bundle = bundle;
    this.contract = bundle.contract;
    this.#ort = typeof ort === "function" ? null : Promise.resolve(ort);
    this.#options = options;
    this.#machine = machine;
  }

  /** The parts that can run, in the order of the manifest. */
  get parts() {
    return [...new Set(this.bundle.manifest.files.map(({ part }) => part))].filter((part) => this.#find(part));
  }

  /** Whether the latents are integers. */
  get hasCodes() {
    return this.contract.encoding === "codes";
  }

  /** Whether the decoder gives images of 1 to 4 channels, which `pixels` can show. */
  get isImage() {
    return isImage(this.contract);
  }

  /**
   * Return the file, the session options and their reason for a part.
   *
   * @param {Part} part
   * @returns {Running}
   */
  running(part) {
    const found = this.#find(part);
    const described = (/** @type {ModelFile} */ { name, machine }) => (machine ? `${name} for ${machine} alone` : name);
    if (!found) return refuse(`bundle has no ${part} as onnx`, null, null, this.bundle.manifest.files.map(described).join(", "));
    return found;
  }

  /**
   * Open the session of a part, which its first call would do.
   *
   * @param {Part} part
   * @returns {Promise<void>}
   */
  async open(part) {
    await this.#session(part);
  }

  /**
   * Draw latents from the prior. Equal seeds give equal bits in every language and on every machine.
   *
   * @param {number} n how many
   * @param {{seed?: number | bigint, start?: number, sizes?: Record<string, number>}} [options] `seed` is 0 to 2^64 - 1, as a
   *   BigInt above 2^53 - 1; `start` skips latents of the seed; `sizes` are values of the contract's symbols
   * @returns {Tensor | Record<string, Tensor>} a tensor; where the contract has several latents, tensors by name
   * @throws {BundleError} if the prior is not in the bundle
   */
  prior(n, { seed = 0, start = 0, sizes = {} } = {}) {
    if (!Number.isSafeInteger(n) || n < 1) throw new RangeError(`bad number of samples: ${n}; expected 1 and up`);
    for (const [name, value] of Object.entries(sizes)) this.#checkSize(name, value);
    return this.#only(samplePrior(this.contract, n, seed, start, sizes));
  }

  /**
   * Decode n latents of `prior`.
   *
   * @param {number} n how many
   * @param {{seed?: number | bigint, start?: number, sizes?: Record<string, number>, conditions?: Conditions}} [options]
   * @returns {Promise<Tensor>} data, such as images (n, C, H, W)
   */
  async sample(n, { conditions, ...options } = {}) {
    return this.decode(this.prior(n, options), { conditions });
  }

  /**
   * Decode latents.
   *
   * @param {Latents} latents (N, Z), or (N, C, H, W) where they are feature maps; integers where the contract has codes
   * @param {{conditions?: Conditions}} [options]
   * @returns {Promise<Tensor>} data in the contract's range, such as images (N, C, H, W)
   */
  async decode(latents, { conditions = {} } = {}) {
    const { name } = outputOf(this.contract);
    return (await this.run("decoder", this.#inputs("decoder", this.#byLatent(latents), conditions)))[name];
  }

  /**
   * Decode latents to bytes for a screen, with the bundle's decoder that gives bytes if there is one.
   *
   * @param {Latents} latents
   * @param {{layout?: "hwc" | "chw", conditions?: Conditions}} [options]
   * @returns {Promise<Tensor>} uint8 (N, H, W, C), or (N, C, H, W) for "chw"
   */
  async pixels(latents, { layout = "hwc", conditions = {} } = {}) {
    const range = pixelRange(this.contract);
    if (!this.isImage || range === null) {
      throw new InputError(describe("output cannot be shown", outputOf(this.contract).name, "images of 1 to 4 channels in a range"));
    }
    /** @type {{hwc: Part, chw: Part}} */
    const parts = { hwc: "decoder-uint8-hwc", chw: "decoder-uint8-chw" };
    /** @type {("hwc" | "chw")[]} */
    const layouts = layout === "hwc" ? ["hwc", "chw"] : ["chw", "hwc"];
    for (const found of layouts) {
      if (!this.#find(parts[found])) continue;
      const inputs = this.#inputs(parts[found], this.#byLatent(latents), conditions);
      const { pixels } = await this.run(parts[found], inputs);
      return found === layout ? pixels : toLayout(pixels, layout);
    }
    return toPixels(await this.decode(latents, { conditions }), range, layout);
  }

  /**
   * Encode data.
   *
   * @param {Numbers} data images (N, C, H, W) in the contract's range, or other data of the contract's shape
   * @param {{conditions?: Conditions}} [options]
   * @returns {Promise<any>} `{ mean, logvar }` of the posterior; latents with the encoding "deterministic"; codes with
   *   "codes". Where the contract has several latents, each of these is an object by the latent's name
   */
  async encode(data, { conditions = {} } = {}) {
    const outputs = Object.values(await this.run("encoder", this.#inputs("encoder", { [this.contract.data.name]: data }, conditions)));
    if (this.contract.encoding !== "gaussian") return this.#only(this.#named(outputs));
    const every = (/** @type {number} */ first) => this.#only(this.#named(outputs.filter((_, index) => index % 2 === first)));
    return { mean: every(0), logvar: every(1) };
  }

  /**
   * Encode data, and decode the posterior means, or the latents or codes, without noise.
   *
   * @param {Numbers} data
   * @param {{conditions?: Conditions}} [options]
   * @returns {Promise<Tensor>}
   */
  async reconstruct(data, { conditions = {} } = {}) {
    return this.decode(await this.#encoded(data, conditions), { conditions: this.#taken("decoder", conditions) });
  }

  /**
   * Decode latents on the straight line between the posterior means, or the latents, of two images.
   *
   * @param {Numbers} a one image (1, C, H, W), or other data
   * @param {Numbers} b
   * @param {number} steps how many, 2 and up; the first and the last are the reconstructions of a and b
   * @param {{conditions?: Conditions}} [options] with one value for all steps
   * @returns {Promise<Tensor>} images (steps, C, H, W)
   */
  async interpolate(a, b, steps, { conditions = {} } = {}) {
    if (this.hasCodes) throw new InputError("codes cannot be interpolated; expected latents of real numbers");
    if (!Number.isSafeInteger(steps) || steps < 2) throw new InputError(`bad number of steps: ${steps}; expected 2 and up`);
    const [first, last] = [await this.#encoded(a, conditions), await this.#encoded(b, conditions)];
    const latents = Object.fromEntries(Object.entries(first).map(([name, from]) => [name, between(from, last[name], steps)]));
    return this.decode(latents, { conditions: this.#taken("decoder", conditions) });
  }

  /**
   * Compute the golden vectors with every part, and compare the outputs with the expected ones.
   *
   * @param {readonly string[]} [parts] default: every part that the bundle has as ONNX
   * @returns {Promise<import("./self-test.js").SelfTest>}
   */
  async selfTest(parts) {
    const fileOf = (/** @type {Part} */ part) => (parts === undefined || parts.includes(part) ? this.#find(part)?.file : undefined);
    return selfTest(this.bundle, (part, inputs) => this.run(part, inputs), fileOf);
  }

  /**
   * Return a value for every condition, for n rows: those of the golden vectors. There are none without conditions.
   *
   * @param {number} n
   * @returns {Record<string, Tensor>}
   */
  exampleConditions(n) {
    return { ...goldenConditions(this.bundle, "encoder", n), ...goldenConditions(this.bundle, "decoder", n) };
  }

  /** The values of the contract's symbols in the golden vectors. */
  get exampleSizes() {
    return goldenSizes(this.bundle);
  }

  /**
   * Run one part on any number of rows: larger batches than the contract allows are cut, smaller ones repeat a row.
   *
   * @param {Part} part
   * @param {Record<string, Numbers>} inputs by name
   * @returns {Promise<Record<string, Tensor>>} the outputs by name
   * @throws {InputError} if an input has another shape or type, or a number that is not finite or out of range
   */
  async run(part, inputs) {
    const { file } = this.running(part);
    const { tensors, sizes } = this.#checked(part, inputs);
    const [{ low, high }, rows] = [batchBounds(this.contract), Object.values(tensors)[0].dims[0]];
    const step = Math.max(low, Math.min(high, this.#options.rowsAtATime ?? this.#piece(file, sizes)));
    const session = await this.#session(part);
    if (rows >= low && rows <= step) return this.#compute(session, file, tensors, sizes);
    /** @type {Record<string, Tensor>[]} */
    const pieces = [];
    for (let start = 0; start < rows; start += step) {
      const count = Math.min(step, rows - start);
      const cut = Object.entries(tensors).map(([name, tensor]) => [name, takeRows(tensor, start, count, low)]);
      const outputs = await this.#compute(session, file, Object.fromEntries(cut), sizes);
      pieces.push(Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, takeRows(tensor, 0, count)])));
    }
    return Object.fromEntries(Object.keys(pieces[0]).map((name) => [name, joinRows(pieces.map((piece) => piece[name]))]));
  }

  /** Release the sessions. The model cannot run any more. */
  async release() {
    const opened = await Promise.allSettled(this.#sessions.values());
    this.#sessions.clear();
    for (const session of opened) if (session.status === "fulfilled") await session.value.release?.();
  }

  /**
   * @param {Part} part
   * @returns {Running | null}
   */
  #find(part) {
    const { precision = null, sessionOptions = {} } = this.#options;
    const floatPart = part.startsWith("decoder") ? "decoder" : part;
    const advice = this.#machine === null ? null : recommendation(this.bundle.manifest, floatPart, this.#machine);
    if (advice !== null && "file" in advice && part === floatPart) {
      return { file: advice.file, options: advice.options, reason: "recommended, and measured on a machine like this one" };
    }
    const file = findModel(this.bundle.manifest, part, precision);
    return file ? { file, options: sessionOptions, reason: advice !== null && "reason" in advice ? advice.reason : "" } : null;
  }

  /** @param {Part} part */
  #session(part) {
    let session = this.#sessions.get(part);
    if (session === undefined) {
      session = this.#create(part);
      this.#sessions.set(part, session);
      session.catch(() => this.#sessions.delete(part));
    }
    return session;
  }

  #engine() {
    if (this.#ort === null) {
      const { process } = /** @type {any} */ (globalThis);
      if (process?.versions?.node) process.env.ORT_DISABLE_TELEMETRY ??= "1";
      this.#ort = Promise.resolve(this.#options.ort());
    }
    return this.#ort;
  }

  /** @param {Part} part */
  async #create(part) {
    const { file, options } = this.running(part);
    const ort = await this.#engine();
    const bytes = (/** @type {string} */ name) => this.bundle.files.get(name) ?? refuse("file is missing", name);
    const sidecars = (file.beside ?? []).map(({ name }) => ({ path: name, data: bytes(name) }));
    const session = await ort.InferenceSession.create(bytes(file.name), {
      logSeverityLevel: 3, // errors only; they are thrown as well
      ...await withNeededEntries(file, options),
      ...(sidecars.length > 0 ? { externalData: sidecars } : {}),
    });
    const names = (/** @type {TensorSpec[]} */ tensors) => tensors.map(({ name }) => name).join();
    if (names(file.inputs) !== session.inputNames.join() || names(file.outputs) !== session.outputNames.join()) {
      refuse("the engine found other inputs or outputs than the manifest", file.name);
    }
    return session;
  }

  /**
   * @param {any} session
   * @param {ModelFile} file
   * @param {Record<string, Tensor>} tensors
   * @param {Record<string, number>} sizes
   * @returns {Promise<Record<string, Tensor>>}
   */
  async #compute(session, file, tensors, sizes) {
    const { Tensor } = await this.#engine();
    const feeds = Object.entries(tensors).map(([name, { data, dims, dtype }]) => [name, new Tensor(dtype, data, dims)]);
    const results = await session.run(Object.fromEntries(feeds));
    const [{ dims: [rows] }] = Object.values(tensors);
    return Object.fromEntries(file.outputs.map((tensor) => {
      const { data, dims, type } = results[tensor.name];
      const expected = [rows, ...sizesAt(tensor, this.contract, sizes)];
      if (String(dims) !== String(expected) || type !== tensor.dtype) {
        refuse("the engine gave another shape or type", `${file.name}, '${tensor.name}'`, `${tensor.dtype} ${expected}`, `${type} ${dims}`);
      }
      return [tensor.name, { data, dims: [...dims], dtype: type }];
    }));
  }

  /**
   * Check the inputs of a part; return them as tensors, and the values of the contract's symbols.
   *
   * @param {Part} part
   * @param {Record<string, Numbers>} inputs
   */
  #checked(part, inputs) {
    const expected = tensorsOf(part, this.contract).inputs;
    const names = expected.map(({ name }) => name);
    const unknown = Object.keys(inputs).filter((name) => !names.includes(name));
    const missing = names.filter((name) => !Object.hasOwn(inputs, name) || inputs[name] === undefined);
    if (unknown.length + missing.length > 0) throw new InputError(describe("wrong inputs", part, names.join(", "), Object.keys(inputs).join(", ")));
    /** @type {Record<string, number>} */
    const sizes = {};
    /** @type {Record<string, Tensor>} */
    const tensors = {};
    let rows = 0;
    for (const tensor of expected) {
      const found = asTensor(tensor, inputs[tensor.name]);
      const [count, ...item] = found.dims;
      if (rows !== 0 && count !== rows) throw new InputError(describe("wrong number of rows", `'${tensor.name}'`, rows, count));
      if (!(count >= 1) || !fits(item, tensor, sizes)) throw new InputError(describe("wrong shape", `'${tensor.name}'`, `[${tensor.shape}]`, `[${found.dims}]`));
      checkNumbers(tensor, found.data);
      rows = count;
      tensors[tensor.name] = found;
    }
    for (const [name, value] of Object.entries(sizes)) this.#checkSize(name, value);
    return { tensors, sizes };
  }

  /**
   * @param {string} name
   * @param {number} value
   */
  #checkSize(name, value) {
    const bounds = name === "N" ? undefined : this.contract.symbols[name];
    if (bounds === undefined) throw new InputError(describe("unknown size", name));
    if (!Number.isSafeInteger(value) || value < bounds.min || value > (bounds.max ?? Infinity)) {
      throw new InputError(describe("size out of bounds", name, `${bounds.min} to ${bounds.max ?? "any"}`, value));
    }
  }

  /**
   * Return how many rows of a part are computed at a time.
   *
   * @param {ModelFile} file
   * @param {Record<string, number>} sizes
   */
  #piece({ inputs, outputs }, sizes) {
    const bytes = [...inputs, ...outputs].map((tensor) => {
      return ARRAYS[tensor.dtype].BYTES_PER_ELEMENT * sizesAt(tensor, this.contract, sizes).reduce((a, b) => a * b, 1);
    });
    return Math.max(1, Math.min(MOST_ROWS, Math.floor(MOST_BYTES / bytes.reduce((a, b) => a + b, 0))));
  }

  /**
   * Return the inputs of a part: its first ones, and a row of each condition for each of theirs.
   *
   * @param {Part} part
   * @param {Record<string, Numbers>} first
   * @param {Conditions} conditions
   * @returns {Record<string, Numbers>}
   */
  #inputs(part, first, conditions) {
    const spec = tensorsOf(part, this.contract).inputs;
    const [name, numbers] = Object.entries(first)[0] ?? [];
    const lead = spec.find((tensor) => tensor.name === name);
    const rows = lead === undefined ? 1 : asTensor(lead, numbers).dims[0];
    const repeated = Object.entries(this.#taken(part, conditions)).map(([key, value]) => {
      const tensor = spec.find((item) => item.name === key);
      return [key, tensor === undefined ? value : repeatRows(tensor, value, rows)];
    });
    return { ...first, ...Object.fromEntries(repeated) };
  }

  /**
   * Return the conditions that a part takes. Unknown names stay, because the check of the inputs names them.
   *
   * @param {Part} part
   * @param {Conditions} conditions
   * @returns {Conditions}
   */
  #taken(part, conditions) {
    const module = part.startsWith("decoder") ? "decoder" : "encoder";
    const others = this.contract.conditions.filter(({ parts }) => !parts.includes(module)).map(({ name }) => name);
    return Object.fromEntries(Object.entries(conditions).filter(([name]) => !others.includes(name)));
  }

  /**
   * Return the posterior means, latents or codes of data by the latent's name.
   *
   * @param {Numbers} data
   * @param {Conditions} conditions
   * @returns {Promise<Record<string, Tensor>>}
   */
  async #encoded(data, conditions) {
    const outputs = Object.values(await this.run("encoder", this.#inputs("encoder", { [this.contract.data.name]: data }, conditions)));
    return this.#named(outputs.filter((_, index) => this.contract.encoding !== "gaussian" || index % 2 === 0));
  }

  /** @param {Tensor[]} tensors */
  #named(tensors) {
    return Object.fromEntries(this.contract.latents.map(({ name }, index) => [name, tensors[index]]));
  }

  /**
   * @param {Latents} latents
   * @returns {Record<string, Numbers>}
   */
  #byLatent(latents) {
    const isOne = ArrayBuffer.isView(latents) || Array.isArray(latents) || (typeof latents === "object" && latents !== null && "data" in latents && "dims" in latents);
    return isOne ? { [this.contract.latents[0].name]: /** @type {Numbers} */ (latents) } : { .../** @type {Record<string, Numbers>} */ (latents) };
  }

  /** @param {Record<string, Tensor>} tensors */
  #only(tensors) {
    return this.contract.latents.length === 1 ? Object.values(tensors)[0] : tensors;
  }
}

/**
 * Read a bundle: a path in Node, and otherwise a URL.
 *
 * @param {string | URL} source
 * @returns {Promise<ArrayBuffer | Uint8Array>}
 */
async function readBytes(source) {
  const isRemote = /^(https?|blob|data):/.test(String(source));
  if (!isRemote && /** @type {any} */ (globalThis).process?.versions?.node) {
    const { readFile } = await import("node:fs/promises");
    return readFile(source);
  }
  const response = await fetch(source);
  if (!response.ok) throw new BundleError(`bundle cannot be fetched: ${source}; got ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}

/**
 * Return numbers as a tensor of a type and, where they have no shape, of as many rows as they fill.
 *
 * @param {TensorSpec} spec
 * @param {Numbers} numbers
 * @returns {Tensor}
 */
function asTensor(spec, numbers) {
  const where = `'${spec.name}'`;
  if (typeof numbers !== "object" || numbers === null) throw new InputError(describe("not an array", where, "a tensor or numbers", typeof numbers));
  if ("data" in numbers && "dims" in numbers) {
    const { data, dims } = /** @type {Tensor} */ (numbers);
    if (!(data instanceof ARRAYS[spec.dtype])) throw new InputError(describe("wrong type", where, spec.dtype, data?.constructor?.name));
    const count = dims.reduce((a, b) => a * b, 1);
    if (dims.length !== spec.shape.length || data.length !== count) throw new InputError(describe("wrong shape", where, `[${spec.shape}]`, `[${dims}]`));
    return { data, dims, dtype: spec.dtype };
  }
  const item = spec.shape.slice(1);
  if (item.some((size) => typeof size === "string")) throw new InputError(describe("shape is not known", where, "a tensor {data, dims, dtype}"));
  const size = item.reduce((/** @type {number} */ a, b) => a * Number(b), 1);
  const rows = numbers.length / size;
  if (!Number.isInteger(rows)) throw new InputError(describe("wrong shape", where, `a multiple of ${size} numbers`, numbers.length));
  checkNumbers(spec, numbers); // before they are converted
  const dims = [rows, .../** @type {number[]} */ (item)];
  return numbers instanceof ARRAYS[spec.dtype] ? { data: /** @type {any} */ (numbers), dims, dtype: spec.dtype } : makeTensor(spec.dtype, Array.from(numbers, Number), dims);
}

/**
 * Refuse numbers that are not finite or out of range. An engine would turn an infinite latent into an image of NaNs, and
 * some read beyond a table for a code that is out of range.
 *
 * @param {TensorSpec} spec
 * @param {ArrayLike<number | bigint>} data
 */
function checkNumbers({ name, dtype, range }, data) {
  const isFloat = dtype === "float32";
  const slack = range !== null && isFloat ? RANGE_SLACK * (range[1] - range[0]) : 0;
  const [low, high] = range === null ? [-Infinity, Infinity] : [range[0] - slack, range[1] + slack];
  for (let index = 0; index < data.length; index += 1) {
    const value = data[index];
    if (typeof value === "number" && !(isFloat ? Number.isFinite(value) : Number.isInteger(value))) {
      throw new InputError(describe("not finite", `'${name}' at ${index}`, isFloat ? "finite numbers" : "whole numbers", value));
    }
    if (value < low || value > high) throw new InputError(describe("out of range", `'${name}' at ${index}`, `numbers in [${range}]`, value));
  }
}

/**
 * Return a condition with a row for each of `rows`.
 *
 * @param {TensorSpec} spec
 * @param {number | bigint | Numbers} value one value for all rows, or a row for each
 * @param {number} rows
 * @returns {Tensor}
 */
function repeatRows(spec, value, rows) {
  const tensor = asTensor(spec, typeof value === "object" ? value : /** @type {number[]} */ ([value]));
  if (tensor.dims[0] !== 1 || rows === 1) return tensor;
  return takeRows(tensor, 0, 1, rows);
}

/**
 * Return `count` rows of a tensor; the last of them is repeated until there are `least`.
 *
 * @param {Tensor} tensor
 * @param {number} start
 * @param {number} count
 * @param {number} [least]
 * @returns {Tensor}
 */
export function takeRows({ data, dims, dtype }, start, count, least = count) {
  const [size, rows] = [data.length / dims[0], Math.max(count, least)];
  const taken = new ARRAYS[dtype](rows * size);
  taken.set(/** @type {any} */ (data.subarray(start * size, (start + count) * size)));
  for (let row = count; row < rows; row += 1) taken.copyWithin(row * size, (count - 1) * size, count * size);
  return { data: taken, dims: [rows, ...dims.slice(1)], dtype };
}

/**
 * Return tensors as one, with the rows of each in turn.
 *
 * @param {Tensor[]} tensors
 * @returns {Tensor}
 */
export function joinRows(tensors) {
  const [{ dims: [, ...item], dtype }] = tensors;
  const data = new ARRAYS[dtype](tensors.reduce((sum, tensor) => sum + tensor.data.length, 0));
  let filled = 0;
  for (const tensor of tensors) {
    data.set(/** @type {any} */ (tensor.data), filled);
    filled += tensor.data.length;
  }
  return { data, dims: [tensors.reduce((sum, { dims: [rows] }) => sum + rows, 0), ...item], dtype };
}

/**
 * Return `steps` rows on the straight line between two latents of one row.
 *
 * @param {Tensor} a
 * @param {Tensor} b
 * @param {number} steps
 * @returns {Tensor}
 */
function between(a, b, steps) {
  if (a.dims[0] !== 1 || String(a.dims) !== String(b.dims)) throw new InputError("a and b are one row each, of one shape");
  const size = a.data.length;
  const data = new Float32Array(steps * size);
  for (let index = 0; index < data.length; index += 1) {
    const [t, first, last] = [Math.floor(index / size) / (steps - 1), Number(a.data[index % size]), Number(b.data[index % size])];
    data[index] = first + t * (last - first);
  }
  return { data, dims: [steps, ...a.dims.slice(1)], dtype: "float32" };
}
