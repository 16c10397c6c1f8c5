// The engine's side of `model.js`: ONNX Runtime in a worker, so that a large network never stops the page.
//
// A message {id, method, argument} is answered by {id, result} or {id, error}.

import { allowed, goldenArray, onnxFile, openBundle } from "./bundle.js";
import { judge } from "./judge.js";
import { sample } from "./noise.js";

// Two builds of ONNX Runtime, each with its own WebAssembly file: the first is half as large.
const BUILDS = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };
const MOST_THREADS = 4;
const PARTS = ["encoder", "decoder"];
const WARM_UP = { runs: 20, milliseconds: 400 };

const sessions = new Map();
let ort;
let bundle;

const methods = {
  /** Check every byte, start the engine, make the sessions, prove them with the golden vectors, time them. */
  async open({ data, backend, engine }) {
    bundle = await openBundle(data);
    if (!onnxFile(bundle.manifest, "decoder")) throw new Error("bundle has no decoder in the ONNX format");
    ort = await import(engine + BUILDS[backend]);
    ort.env.logLevel = "error";
    ort.env.wasm.wasmPaths = engine; // absolute: a relative one would be resolved against the script
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
    for (const part of PARTS) {
      const file = onnxFile(bundle.manifest, part);
      if (file) sessions.set(part, await openSession(file, backend));
    }
    const { manifest, card, identity } = bundle;
    const selfTest = await test();
    const threads = backend === "wasm" ? ort.env.wasm.numThreads : 0;
    return { manifest, card, identity, selfTest, threads, parts: [...sessions.keys()], times: await warmUp(), examples: examples() };
  },

  /** Input arrays by name and the number of rows → output arrays by name, and the milliseconds that it took. */
  run({ part, inputs, rows }) {
    return run(part, inputs, rows);
  },
};

async function openSession(file, backend) {
  const session = await ort.InferenceSession.create(bundle.files.get(file.name), {
    executionProviders: [backend],
    logSeverityLevel: 3, // errors only: they come as exceptions too
  });
  const names = (tensors) => tensors.map((tensor) => tensor.name).join();
  if (names(file.inputs) !== session.inputNames.join() || names(file.outputs) !== session.outputNames.join()) {
    throw new Error(`inputs and outputs are not those of the manifest: ${file.name}`);
  }
  return session;
}

async function run(part, inputs, rows) {
  const file = onnxFile(bundle.manifest, part);
  const feeds = {};
  for (const { name, shape } of file.inputs) {
    // Engines turn an infinite latent into an image of NaNs.
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

/** Every golden vector of the parts in use → a judgement for each output, and whether the noise has the right bits. */
async function test() {
  const judgements = [];
  let noise = null;
  for (const golden of bundle.manifest.golden.filter((item) => sessions.has(item.part))) {
    const rows = golden.inputs[0].shape[0];
    const inputs = Object.fromEntries(golden.inputs.map((item) => [item.tensor, goldenArray(bundle, item)]));
    const { outputs } = await run(golden.part, inputs, rows);
    const file = onnxFile(bundle.manifest, golden.part);
    for (const item of golden.outputs) {
      const { range } = file.outputs.find((tensor) => tensor.name === item.tensor);
      const judgement = judge(outputs[item.tensor], goldenArray(bundle, item), allowed(item, file), range);
      judgements.push({ part: golden.part, tensor: item.tensor, ...judgement });
    }
    if (golden.part === "decoder" && rows > 2) noise = sameNoise(inputs.latent, rows);
  }
  return { judgements, noise, passed: judgements.every((item) => item.passed) && noise !== false };
}

/** All golden latents after the first two are sample(rows - 2, seed 0). */
function sameNoise(latent, rows) {
  const size = latent.length / rows;
  const [ours, theirs] = [sample(rows - 2, size, 0n), latent.subarray(2 * size)].map((array) => new Uint32Array(array.slice().buffer));
  return ours.every((bits, index) => bits === theirs[index]);
}

/** Milliseconds of single decodes, the engine's first ones left out. */
async function warmUp() {
  const size = bundle.manifest.contract.latent_shape.reduce((a, b) => a * b);
  const begin = performance.now();
  const times = [];
  for (let index = 0; index <= WARM_UP.runs && (index < 2 || performance.now() - begin < WARM_UP.milliseconds); index += 1) {
    const { milliseconds } = await run("decoder", { latent: sample(1, size, 0n, index) }, 1);
    if (index > 0) times.push(milliseconds);
  }
  return times;
}

/** Images that travel in the bundle, the two decoded from extremes left out; without an encoder there are none. */
function examples() {
  const item = bundle.manifest.golden.find((golden) => golden.part === "encoder")?.inputs[0];
  if (!item) return [];
  const [images, rows] = [goldenArray(bundle, item), item.shape[0]];
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

// One after the other: the build for WebGPU waits inside of WebAssembly, and must not be entered a second time meanwhile.
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(() => answer(data));
};
