// The worker behind `model.js`: ONNX Runtime runs here, so that a large network never blocks the page.
//
// It answers a message {id, method, argument} with {id, result} or {id, error}.

import {
  checkNoise, contractOf, findModel, goldenArray, goldenConditions, goldenSizes, isImage, modelBytes, openBundle, outputOf, runRows,
  selfTest, sizesAt, tensorOf,
} from "./vae-bundle.mjs";

// Two builds of ONNX Runtime, each with its own WebAssembly file: the first is half as large.
const BUILDS = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };
const MAX_THREADS = 4;
const PARTS = ["encoder", "decoder"];
const WARM_UP = { runs: 20, milliseconds: 400 };

const sessions = new Map();
let ort;
let bundle;
let contract; // of either version of the format, in the form of version 2
let sizes; // the value of each symbol of the contract: that of the golden vectors

const methods = {
  /** Check the bundle, start the engine, run the self-test, measure the speed. */
  async open({ data, backend, engine }) {
    bundle = await openBundle(data);
    modelBytes(bundle, "decoder"); // throws if there is none
    contract = contractOf(bundle.manifest);
    sizes = goldenSizes(bundle);
    ort = await import(engine + BUILDS[backend]);
    ort.env.logLevel = "error";
    ort.env.wasm.wasmPaths = engine; // absolute: a relative one would be resolved against the script
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
    for (const part of PARTS) {
      const file = findModel(bundle.manifest, part);
      if (file) sessions.set(part, await openSession(file, backend));
    }
    const parts = [...sessions.keys()];
    const threads = backend === "wasm" ? ort.env.wasm.numThreads : 0;
    const { manifest, card, identity } = bundle;
    const tested = await testEngine(parts);
    const described = { contract: describeContract(), conditions: firstConditions(), sizes };
    return { manifest, card, identity, parts, threads, selfTest: tested, times: await warmUp(), examples: examples(), ...described };
  },

  /** Run one part on numbers, by the names of its inputs; return those of its outputs and the time in milliseconds. */
  run({ part, inputs, rows }) {
    return runPart(part, inputs, rows);
  },
};

async function openSession(file, backend) {
  const session = await ort.InferenceSession.create(bundle.files.get(file.name), {
    executionProviders: [backend],
    logSeverityLevel: 3, // errors only; they are thrown as well
  });
  const names = (tensors) => tensors.map((tensor) => tensor.name).join();
  if (names(file.inputs) !== session.inputNames.join() || names(file.outputs) !== session.outputNames.join()) {
    throw new Error(`the engine found other inputs or outputs than the manifest: ${file.name}`);
  }
  return session;
}

/** Run one part on tensors, by name. */
async function runTensors(part, tensors) {
  const feeds = Object.entries(tensors).map(([name, { data, dims, dtype }]) => [name, new ort.Tensor(dtype, data, dims)]);
  const results = Object.entries(await sessions.get(part).run(Object.fromEntries(feeds)));
  return Object.fromEntries(results.map(([name, { data, dims, type }]) => [name, { data, dims, dtype: type }]));
}

async function runPart(part, inputs, rows) {
  const file = findModel(bundle.manifest, part);
  const tensors = {};
  for (const tensor of file.inputs) {
    // An engine would turn an infinite latent into an image of NaNs.
    if (!inputs[tensor.name].every(Number.isFinite)) throw new Error(`not finite: ${part}, '${tensor.name}'`);
    tensors[tensor.name] = tensorOf(tensor.dtype, inputs[tensor.name], [rows, ...sizesAt(tensor, contract, sizes)]);
  }
  const begin = performance.now();
  const results = await runRows(contract, runTensors, part, tensors);
  const milliseconds = performance.now() - begin;
  const outputs = {};
  for (const tensor of file.outputs) {
    const { data, dims, dtype } = results[tensor.name];
    if (dims.join() !== [rows, ...sizesAt(tensor, contract, sizes)].join()) throw new Error(`wrong shape: ${part}, '${tensor.name}'`);
    outputs[tensor.name] = dtype === "int64" ? Float64Array.from(data, Number) : data;
  }
  return { outputs, milliseconds };
}

/** Return the contract with sizes in numbers, as the page needs it. */
function describeContract() {
  const output = outputOf(contract);
  const shape = sizesAt(output, contract, sizes);
  return {
    ...contract,
    output,
    isImage: isImage(contract),
    isSameData: contract.output === null,
    image_shape: shape.length === 3 ? shape : [1, 1, shape.reduce((a, b) => a * b, 1)],
    image_range: output.range,
    latents: contract.latents.map((latent) => ({ ...latent, item: sizesAt(latent, contract, sizes) })),
    conditions: contract.conditions.map((condition) => ({ ...condition, item: sizesAt(condition, contract, sizes) })),
  };
}

/** Return a row of each condition, as numbers: the first golden one, rounded so that a field can show it. */
function firstConditions() {
  const found = { ...goldenConditions(bundle, "encoder", 1), ...goldenConditions(bundle, "decoder", 1) };
  const rounded = (number, dtype) => (dtype === "float32" ? Number(number.toPrecision(3)) : Number(number));
  return Object.fromEntries(Object.entries(found).map(([name, { data, dtype }]) => [name, Array.from(data).map((number) => rounded(number, dtype))]));
}

/** Compare what the engine computes with the golden vectors, and the random latents with the golden ones. */
async function testEngine(parts) {
  const { passed, outputs } = await selfTest(bundle, runTensors, parts);
  const noise = checkNoise(bundle);
  return { outputs, noise, passed: passed && noise.same === noise.total };
}

/** Return the milliseconds of single decodes of golden latents, without the engine's first one. */
async function warmUp() {
  const golden = bundle.manifest.golden.find(({ part }) => part === "decoder").inputs.map((item) => {
    const { data, dims: [rows] } = goldenArray(bundle, item);
    return [item.tensor, Array.from({ length: rows }, (_, row) => Array.from(data.subarray((row * data.length) / rows, ((row + 1) * data.length) / rows), Number))];
  });
  const begin = performance.now();
  const times = [];
  for (let index = 0; index <= WARM_UP.runs && (index < 2 || performance.now() - begin < WARM_UP.milliseconds); index += 1) {
    const inputs = Object.fromEntries(golden.map(([name, rows]) => [name, rows[index % rows.length]]));
    const { milliseconds } = await runPart("decoder", inputs, 1);
    if (index > 0) times.push(milliseconds);
  }
  return times;
}

/** Return the images in the bundle, without the first two, which were decoded from extreme latents; none without an encoder. */
function examples() {
  const item = bundle.manifest.golden.find((golden) => golden.part === "encoder")?.inputs[0];
  if (!item) return [];
  const { data: images, dims: [rows] } = goldenArray(bundle, item);
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
