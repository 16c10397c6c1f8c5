// node main.js BUNDLE PICTURE [SEED [KEY.pub]] tests the bundle on this machine, then writes 16 new images to PICTURE.
// With KEY.pub, it refuses a bundle that the owner of that key has not signed.
import { readFileSync, writeFileSync } from "node:fs";
import { checkNoise, modelBytes, openBundle, sample, selfTest, toLevel } from "../../vae_export/explorer/page/vae-bundle.mjs";

process.env.ORT_DISABLE_TELEMETRY ??= "1"; // must be set before the import: it reports the models that it opens to Microsoft
const ort = await import("onnxruntime-node");

async function main(path, picture, seed = "0", key = null) {
  if (!/^[0-9]+$/.test(seed)) throw new Error(`bad seed: ${seed}; expected 0 to 2^64 - 1`);
  const bundle = await openBundle(readFileSync(path), { verifyKey: key && readFileSync(key, "utf8") });
  if (bundle.signedBy) console.log(`signed by the key ${bundle.signedBy}`);
  const { latent_shape: latentShape, image_range: range } = bundle.manifest.contract;
  const latentSize = latentShape.reduce((a, b) => a * b, 1);

  const sessions = new Map();
  async function run(part, inputs) {
    if (!sessions.has(part)) sessions.set(part, await ort.InferenceSession.create(modelBytes(bundle, part)));
    const tensors = Object.entries(inputs).map(([name, { data, dims }]) => [name, new ort.Tensor("float32", data, dims)]);
    return sessions.get(part).run(Object.fromEntries(tensors));
  }
  async function draw(n) {
    const latent = { data: sample(n, latentSize, BigInt(seed)), dims: [n, ...latentShape] };
    return (await run("decoder", { latent })).image;
  }

  await draw(1);
  console.log(`first image ${process.uptime().toFixed(3)} s after the start`);

  const noise = checkNoise(bundle);
  console.log(`noise: ${noise.same} of ${noise.total} golden latents bit for bit`);
  const test = await selfTest(bundle, run);
  test.outputs.forEach((output) => console.log(describe(output)));

  writePicture(picture, await draw(16), range, 4);
  console.log(`wrote ${picture}`);
  return test.passed && noise.same === noise.total;
}

/** Describe how one output compares with its golden array. */
function describe({ part, tensor, error, tolerance, pixels, differing, unexplained }) {
  const levels = pixels ? `, ${differing} pixels differ, ${unexplained} unexplained` : "";
  return `${part} ${tensor}: worst error ${error.toExponential(2)}, ${tolerance.toExponential(2)} allowed${levels}`;
}

/** Write images (N, C, H, W) as a grid: a PGM file, or PPM if there are three channels. */
function writePicture(file, { data, dims: [n, channels, height, width] }, range, columns) {
  const rows = Math.ceil(n / columns);
  const grid = Buffer.alloc(rows * height * columns * width * channels);
  let i = 0;
  for (let image = 0; image < n; image++) {
    for (let channel = 0; channel < channels; channel++) {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const [row, column] = [Math.floor(image / columns) * height + y, (image % columns) * width + x];
          grid[(row * columns * width + column) * channels + channel] = toLevel(data[i++], range);
        }
      }
    }
  }
  const header = `${channels === 3 ? "P6" : "P5"}\n${columns * width} ${rows * height}\n255\n`;
  writeFileSync(file, Buffer.concat([Buffer.from(header), grid]));
}

if (process.argv.length < 4) {
  console.error("usage: node main.js BUNDLE PICTURE [SEED [KEY.pub]]");
  process.exit(2);
}
try {
  const passed = await main(...process.argv.slice(2));
  console.log(passed ? "pass" : "FAIL");
  process.exitCode = passed ? 0 : 1;
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}
