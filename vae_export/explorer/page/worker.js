// The worker behind `model.js`: ONNX Runtime runs here, so that a large network never blocks the page.
//
// It answers a message {id, method, argument} with {id, result} or {id, error}.

import { checkNoise, findModel, goldenArray, modelBytes, openBundle, sample, selfTest } from "./vae-bundle.mjs";

// Two builds of ONNX Runtime, each with its own WebAssembly file: the first is half as large.
const BUILDS = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };
const MAX_THREADS = 4;
const PARTS = ["encoder", "decoder"];
const WARM_UP = { runs: 20, milliseconds: 400 };

const sessions = new Map();
let ort;
let bundle;

const methods = {
  /** Check the bundle, start the engine, run the self-test, measure the speed. */
  async open({ data, backend, engine }) {
    bundle = await openBundle(data);
    modelBytes(bundle, "decoder"); // throws if there is none
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
    return { manifest, card, identity, parts, threads, selfTest: tested, times: await warmUp(), examples: examples() };
  },

  /** Run one part on input arrays, by name; return the output arrays and the time in milliseconds. */
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

async function runPart(part, inputs, rows) {
  const file = findModel(bundle.manifest, part);
  const feeds = {};
  for (const { name, shape } of file.inputs) {
    // An engine would turn an infinite latent into an image of NaNs.
    if (!inputs[name].every(Number.isFinite)) throw new Error(`not finite: ${part}, '${name}'`);
    feeds[name] = new ort.Tensor("float32", inputs[name], [rows, ...shape.slice(1)]);
  }
  const begin = performance.now();
  const results = await sessions.get(part).run(feeds);
  const milliseconds = performance.now() - begin;
  const outputs = {};
  for (const { name, shape } of file.outputs) {
    if (results[name].dims.join() !== [rows, ...shape.slice(1)].join()) throw new Error(`wrong shape: ${part}, '${name}'`);
    outputs[name] = results[name].data;
  }
  return { outputs, milliseconds };
}

/** Compare what the engine computes with the golden vectors, and the random latents with the golden ones. */
async function testEngine(parts) {
  const run = async (part, inputs) => {
    const [{ dims: [rows] }] = Object.values(inputs);
    const arrays = Object.fromEntries(Object.entries(inputs).map(([name, { data }]) => [name, data]));
    const { outputs } = await runPart(part, arrays, rows);
    const shapes = Object.fromEntries(findModel(bundle.manifest, part).outputs.map(({ name, shape }) => [name, shape.slice(1)]));
    return Object.fromEntries(Object.entries(outputs).map(([name, data]) => [name, { data, dims: [rows, ...shapes[name]] }]));
  };
  const { passed, outputs } = await selfTest(bundle, run, parts);
  const noise = checkNoise(bundle);
  return { outputs, noise, passed: passed && noise.same === noise.total };
}

/** Return the milliseconds of single decodes, without the engine's first one. */
async function warmUp() {
  const size = bundle.manifest.contract.latent_shape.reduce((a, b) => a * b);
  const begin = performance.now();
  const times = [];
  for (let index = 0; index <= WARM_UP.runs && (index < 2 || performance.now() - begin < WARM_UP.milliseconds); index += 1) {
    const { milliseconds } = await runPart("decoder", { latent: sample(1, size, 0n, index) }, 1);
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
