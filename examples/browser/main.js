// index.html?bundle=URL&seed=NUMBER&backend=wasm|webgpu tests the bundle in this browser, then draws 16 new images.
import { Model, toGrid, toRgba, whyNotDrawable } from "vae-bundle";

const RUNTIME = "./node_modules/onnxruntime-web/dist/";
const status = document.querySelector("pre");
const query = new URLSearchParams(location.search);
status.textContent = "";

function say(text) {
  status.textContent += `${text}\n`;
  console.log(text);
}

/** Return WebGPU if there is a GPU, WebAssembly otherwise. A backend that was asked for is never replaced by another. */
async function chooseBackend(requested) {
  const gpu = requested === "wasm" ? null : await navigator.gpu?.requestAdapter();
  if (requested === "webgpu" && !gpu) throw new Error("this browser has no WebGPU adapter");
  return gpu ? "webgpu" : "wasm";
}

async function main() {
  const backend = await chooseBackend(query.get("backend"));
  async function ort() {
    const module = await import(`${RUNTIME}ort.${backend}.min.mjs`);
    module.env.wasm.numThreads = 1; // more threads need two HTTP headers, and help large models only
    return module;
  }
  const source = new URL(query.get("bundle") ?? "../../artifacts/reference/mnist.zip", location.href);
  const model = await Model.load(source, { ort, sessionOptions: { executionProviders: [backend] } });
  const seed = BigInt(query.get("seed") ?? 0);
  const draw = (n) => model.pixels(model.prior(n, { seed }), { conditions: model.exampleConditions(n) });

  const reason = whyNotDrawable(model.contract);
  if (reason === null && model.parts.some((part) => part.startsWith("decoder"))) {
    await draw(1);
    say(`first image ${(performance.now() / 1000).toFixed(3)} s after the start, on ${backend}`);
    show(await draw(16));
  } else {
    say(`no images: ${reason ?? "the bundle has no decoder"}`);
  }
  const { noise, outputs, passed } = await model.selfTest();
  say(`noise: ${noise.same} of ${noise.total} golden latents bit for bit`);
  outputs.forEach((output) => say(describe(output)));
  return passed;
}

/** Describe how one output compares with its golden array. */
function describe({ part, tensor, error, tolerance, pixels, differing, unexplained }) {
  const levels = pixels ? `, ${differing} pixels differ, ${unexplained} unexplained` : "";
  return `${part} ${tensor}: worst error ${error.toExponential(2)}, ${tolerance.toExponential(2)} allowed${levels}`;
}

/** Draw images as a grid on the canvas. */
function show(images) {
  const canvas = document.querySelector("canvas");
  const grid = toGrid(images, 4);
  [canvas.height, canvas.width] = grid.dims.slice(1);
  canvas.getContext("2d").putImageData(new ImageData(toRgba(grid), canvas.width), 0, 0);
  canvas.hidden = false;
}

try {
  say((await main()) ? "pass" : "FAIL");
} catch (error) {
  say(`error: ${error.message}`);
  say("FAIL");
}
