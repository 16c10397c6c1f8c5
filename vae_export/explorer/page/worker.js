// The worker behind `model.js`: ONNX Runtime runs here, so that a large network never blocks the page.
//
// It answers a message {id, method, argument} with {id, result} or {id, error}.

import { Model, goldenArray, isImage, makeTensor, outputOf, pixelRange, sizesAt, takeRows, tensorsOf, toLayout } from "./vae-bundle/index.js";

// Two builds of ONNX Runtime, each with its own WebAssembly file: the first is half as large.
const BUILDS = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };
const MAX_THREADS = 4;
// The decoders in the order in which they are chosen: for numbers, and for images that are only shown.
const DECODERS = ["decoder", "decoder-uint8-chw", "decoder-uint8-hwc"];
const PICTURE_DECODERS = ["decoder-uint8-chw", "decoder-uint8-hwc", "decoder"];
const WARM_UP = { runs: 20, milliseconds: 400 };

let model;
let sizes; // the value of each symbol of the contract: that of the golden vectors

const methods = {
  /** Check the bundle, start the engine, run the self-test, measure the speed. */
  async open({ data, backend, engine }) {
    const threads = self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
    async function ort() {
      const module = await import(engine + BUILDS[backend]);
      module.env.logLevel = "error";
      // The path is absolute: a relative one would be resolved against the script.
      Object.assign(module.env.wasm, { wasmPaths: engine, numThreads: threads });
      return module;
    }
    model = await Model.load(data, { ort, sessionOptions: { executionProviders: [backend] } });
    sizes = model.exampleSizes;
    const parts = ["encoder", ...DECODERS].filter((part) => model.parts.includes(part));
    decoderOf(parts); // throws if there is none
    for (const part of parts) await model.open(part);
    const { manifest, card, identity } = model.bundle;
    return {
      manifest, card, identity, parts, sizes,
      precision: model.running(decoderOf(parts)).file.precision ?? "fp32",
      threads: backend === "wasm" ? threads : 0,
      selfTest: await model.selfTest(parts),
      times: await warmUp(decoderOf(parts, PICTURE_DECODERS)),
      examples: examples(),
      contract: describeContract(),
      conditions: firstConditions(),
    };
  },

  /** Decode rows of latents, numbers by name; return the data of all rows and the time in milliseconds. */
  async decode({ latents, conditions, rows, isShown }) {
    const part = decoderOf(model.parts, isShown ? PICTURE_DECODERS : DECODERS);
    const inputs = tensors(part, { ...latents, ...conditions }, rows);
    const begin = performance.now();
    const outputs = await model.run(part, inputs);
    const milliseconds = performance.now() - begin;
    const data = outputs.pixels === undefined ? outputs[outputOf(model.contract).name].data : toFloats(outputs.pixels, part);
    return { data, milliseconds };
  },

  /** Encode one row of data; return the numbers of each output. */
  async encode({ data, conditions }) {
    const outputs = await model.run("encoder", tensors("encoder", { [model.contract.data.name]: data, ...conditions }, 1));
    return Object.values(outputs).map(({ data: numbers, dtype }) => (dtype === "int64" ? Float64Array.from(numbers, Number) : numbers));
  },
};

/** Return the part that decodes: the first of an order that there is. */
function decoderOf(parts, order = DECODERS) {
  const found = order.find((part) => parts.includes(part));
  if (found === undefined) throw new Error("bundle has no decoder as onnx: there is nothing to explore");
  return found;
}

/** Return the inputs of a part as tensors of `rows` rows. */
function tensors(part, inputs, rows) {
  return Object.fromEntries(tensorsOf(part, model.contract).inputs.map((spec) => {
    return [spec.name, makeTensor(spec.dtype, inputs[spec.name], [rows, ...sizesAt(spec, model.contract, sizes)])];
  }));
}

/** Return bytes as images (N, C, H, W) in the contract's range. */
function toFloats(pixels, part) {
  const [low, high] = pixelRange(model.contract);
  const { data } = part.endsWith("hwc") ? toLayout(pixels, "chw") : pixels;
  return Float32Array.from(data, (byte) => low + (byte / 255) * (high - low));
}

/** Return the contract with sizes in numbers, as the page needs it. */
function describeContract() {
  const { contract } = model;
  const output = outputOf(contract);
  const shape = sizesAt(output, contract, sizes);
  return {
    ...contract,
    output,
    isImage: isImage(contract),
    isSameData: contract.output === null || (output.name === contract.data.name && output.range === null),
    image_shape: shape.length === 3 ? shape : [1, 1, shape.reduce((a, b) => a * b, 1)],
    image_range: pixelRange(contract),
    latents: contract.latents.map((latent) => ({ ...latent, item: sizesAt(latent, contract, sizes) })),
    conditions: contract.conditions.map((condition) => ({ ...condition, item: sizesAt(condition, contract, sizes) })),
  };
}

/** Return a row of each condition, as numbers: the first golden one, rounded so that a field can show it. */
function firstConditions() {
  const rounded = (number, dtype) => (dtype === "float32" ? Number(number.toPrecision(3)) : Number(number));
  const found = Object.entries(model.exampleConditions(1));
  return Object.fromEntries(found.map(([name, { data, dtype }]) => [name, Array.from(data).map((number) => rounded(number, dtype))]));
}

/** Return the milliseconds of single decodes of golden latents, without the engine's first one. */
async function warmUp(part) {
  const golden = model.bundle.manifest.golden.find((item) => item.part === "decoder").inputs.map((item) => {
    return [item.tensor, goldenArray(model.bundle, item)];
  });
  const begin = performance.now();
  const times = [];
  for (let index = 0; index <= WARM_UP.runs && (index < 2 || performance.now() - begin < WARM_UP.milliseconds); index += 1) {
    const row = golden.map(([name, tensor]) => [name, takeRows(tensor, index % tensor.dims[0], 1)]);
    const start = performance.now();
    await model.run(part, Object.fromEntries(row));
    if (index > 0) times.push(performance.now() - start);
  }
  return times;
}

/** Return the images in the bundle, without the first two, which were decoded from extreme latents; none without an encoder. */
function examples() {
  const item = model.bundle.manifest.golden.find((golden) => golden.part === "encoder")?.inputs[0];
  if (!item) return [];
  const { data: images, dims: [rows] } = goldenArray(model.bundle, item);
  const size = images.length / rows;
  return Array.from({ length: rows }, (_, row) => images.slice(row * size, (row + 1) * size)).slice(rows > 4 ? 2 : 0);
}

async function answer({ id, method, argument }) {
  try {
    self.postMessage({ id, result: await methods[method](argument) });
  } catch (error) {
    self.postMessage({ id, error: error.message ?? String(error) });
  }
}

// Answer one message at a time: the WebGPU build cannot be entered again while it waits inside WebAssembly.
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(() => answer(data));
};
