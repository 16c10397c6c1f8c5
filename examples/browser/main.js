// index.html?bundle=URL&seed=NUMBER&backend=wasm|webgpu tests the bundle in this browser, then draws 16 new images.
import * as vae from "../../vae_export/explorer/page/vae-bundle.mjs";

const RUNTIME = "./node_modules/onnxruntime-web/dist/";
const status = document.querySelector("pre");
const query = new URLSearchParams(location.search);
status.textContent = "";

function say(text) {
  status.textContent += `${text}\n`;
  console.log(text);
}

/** Load WebGPU if there is a GPU, WebAssembly otherwise. A backend that was asked for is never replaced by another. */
async function loadEngine(requested) {
  const gpu = requested === "wasm" ? null : await navigator.gpu?.requestAdapter();
  if (requested === "webgpu" && !gpu) throw new Error("this browser has no WebGPU adapter");
  const ort = await import(`${RUNTIME}ort.${gpu ? "webgpu" : "wasm"}.min.mjs`);
  ort.env.wasm.numThreads = 1; // more threads need two HTTP headers, and help large models only
  return { ort, backend: gpu ? "webgpu" : "wasm" };
}

async function main() {
  const response = await fetch(query.get("bundle") ?? "../../artifacts/reference/mnist.zip");
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${response.statusText}`);
  const bundle = await vae.openBundle(await response.arrayBuffer());
  const contract = vae.contractOf(bundle.manifest);
  const { ort, backend } = await loadEngine(query.get("backend"));

  const sessions = new Map();
  async function run(part, inputs) {
    if (!sessions.has(part)) {
      sessions.set(part, await ort.InferenceSession.create(vae.modelBytes(bundle, part), { executionProviders: [backend] }));
    }
    const tensors = Object.entries(inputs).map(([name, { data, dims, dtype }]) => [name, new ort.Tensor(dtype, data, dims)]);
    const outputs = Object.entries(await sessions.get(part).run(Object.fromEntries(tensors)));
    return Object.fromEntries(outputs.map(([name, { data, dims, type }]) => [name, { data, dims, dtype: type }]));
  }
  async function draw(n) {
    const latents = vae.samplePrior(contract, n, BigInt(query.get("seed") ?? 0));
    return (await vae.runRows(contract, run, "decoder", { ...latents, ...vae.goldenConditions(bundle, "decoder", n) })).image;
  }

  const reason = vae.whyNotDrawable(contract);
  if (reason === null) {
    await draw(1);
    say(`first image ${(performance.now() / 1000).toFixed(3)} s after the start, on ${backend}`);
  }

  const noise = vae.checkNoise(bundle);
  say(`noise: ${noise.same} of ${noise.total} golden latents bit for bit`);
  const test = await vae.selfTest(bundle, run);
  test.outputs.forEach((output) => say(describe(output)));

  if (reason === null) show(await draw(16), vae.outputOf(contract).range, 4);
  else say(`no images: ${reason}`);
  return test.passed && noise.same === noise.total;
}

/** Describe how one output compares with its golden array. */
function describe({ part, tensor, error, tolerance, pixels, differing, unexplained }) {
  const levels = pixels ? `, ${differing} pixels differ, ${unexplained} unexplained` : "";
  return `${part} ${tensor}: worst error ${error.toExponential(2)}, ${tolerance.toExponential(2)} allowed${levels}`;
}

/** Draw images (N, C, H, W) as a grid on the canvas. */
function show({ data, dims: [n, channels, height, width] }, range, columns) {
  const canvas = document.querySelector("canvas");
  canvas.hidden = false;
  [canvas.width, canvas.height] = [columns * width, Math.ceil(n / columns) * height];
  const context = canvas.getContext("2d");
  for (let i = 0; i < n; i++) {
    const tile = context.createImageData(width, height);
    const [first, size] = [i * channels * width * height, width * height];
    const at = (p, c) => vae.toLevel(data[first + c * size + p], range);
    const colours = channels < 3 ? [0, 0, 0] : [0, 1, 2];
    for (let p = 0; p < size; p++) {
      colours.forEach((channel, c) => { tile.data[4 * p + c] = at(p, channel); });
      tile.data[4 * p + 3] = channels % 2 === 0 ? at(p, channels - 1) : 255; // the last of 2 or 4 channels is opacity
    }
    context.putImageData(tile, (i % columns) * width, Math.floor(i / columns) * height);
  }
}

try {
  say((await main()) ? "pass" : "FAIL");
} catch (error) {
  say(`error: ${error.message}`);
  say("FAIL");
}
