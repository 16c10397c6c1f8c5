// index.html?bundle=URL&seed=NUMBER&backend=wasm|webgpu: tests the bundle in this browser, then draws 16 new images.
import { checkNoise, level, line, readBundle, sample, selfTest } from "./bundle.js";

const RUNTIME = "./node_modules/onnxruntime-web/dist/";
const status = document.querySelector("pre");
const query = new URLSearchParams(location.search);
status.textContent = "";

function say(text) {
  status.textContent += `${text}\n`;
  console.log(text);
}

/** WebGPU where a GPU answers, else WebAssembly; what was asked for is never replaced. */
async function loadEngine(wanted) {
  const gpu = wanted === "wasm" ? null : await navigator.gpu?.requestAdapter();
  if (wanted === "webgpu" && !gpu) throw new Error("no WebGPU here");
  const ort = await import(`${RUNTIME}ort.${gpu ? "webgpu" : "wasm"}.min.mjs`);
  ort.env.wasm.numThreads = 1; // more need two headers of the server, and a larger model to be of use
  return { ort, backend: gpu ? "webgpu" : "wasm" };
}

async function main() {
  const response = await fetch(query.get("bundle") ?? "../../artifacts/reference/mnist.zip");
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${response.statusText}`);
  const bundle = await readBundle(new Uint8Array(await response.arrayBuffer()));
  const { latent_shape: latentShape, image_range: range } = bundle.manifest.contract;
  const latentSize = latentShape.reduce((a, b) => a * b, 1);
  const { ort, backend } = await loadEngine(query.get("backend"));

  const sessions = new Map();
  async function run(part, inputs) {
    if (!sessions.has(part)) {
      sessions.set(part, await ort.InferenceSession.create(bundle.model(part), { executionProviders: [backend] }));
    }
    const tensors = Object.entries(inputs).map(([name, { data, dims }]) => [name, new ort.Tensor("float32", data, dims)]);
    return sessions.get(part).run(Object.fromEntries(tensors));
  }
  async function draw(n) {
    const latent = sample(n, latentSize, BigInt(query.get("seed") ?? 0));
    return (await run("decoder", { latent: { data: latent, dims: [n, ...latentShape] } })).image;
  }

  await draw(1);
  say(`first image ${(performance.now() / 1000).toFixed(3)} s after the start, on ${backend}`);

  const noise = checkNoise(bundle);
  say(`noise: ${noise.same} of ${noise.of} golden latents bit for bit`);
  const test = await selfTest(bundle, run);
  test.rows.forEach((row) => say(line(row)));

  show(await draw(16), range, 4);
  return test.passed && noise.same === noise.of;
}

/** Images (N, C, H, W) → a grid on the canvas. */
function show({ data, dims: [n, channels, height, width] }, range, columns) {
  const canvas = document.querySelector("canvas");
  canvas.hidden = false;
  [canvas.width, canvas.height] = [columns * width, Math.ceil(n / columns) * height];
  const context = canvas.getContext("2d");
  for (let i = 0; i < n; i++) {
    const tile = context.createImageData(width, height);
    const [first, size] = [i * channels * width * height, width * height];
    for (let p = 0; p < size; p++) {
      for (const c of [0, 1, 2]) tile.data[4 * p + c] = level(data[first + (channels === 3 ? c : 0) * size + p], range);
      tile.data[4 * p + 3] = 255;
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
