// node main.js BUNDLE [PICTURE [SEED [KEY.pub]]] tests the bundle on this machine, then writes 16 new images to PICTURE.
// With KEY.pub, it refuses a bundle that the owner of that key has not signed.
import { readFileSync, writeFileSync } from "node:fs";
import * as vae from "../../vae_export/explorer/page/vae-bundle.mjs";

process.env.ORT_DISABLE_TELEMETRY ??= "1"; // must be set before the import: it reports the models that it opens to Microsoft
const ort = await import("onnxruntime-node");

async function main(path, picture, seed = "0", key = null) {
  if (!/^[0-9]+$/.test(seed)) throw new Error(`bad seed: ${seed}; expected 0 to 2^64 - 1`);
  const bundle = await vae.openBundle(readFileSync(path), { verifyKey: key && readFileSync(key, "utf8") });
  if (bundle.signedBy) console.log(`signed by the key ${bundle.signedBy}`);
  const contract = vae.contractOf(bundle.manifest);
  if (picture) vae.requireDrawable(contract);

  const sessions = new Map();
  async function run(part, inputs) {
    if (!sessions.has(part)) sessions.set(part, await ort.InferenceSession.create(vae.modelBytes(bundle, part)));
    const tensors = Object.entries(inputs).map(([name, { data, dims, dtype }]) => [name, new ort.Tensor(dtype, data, dims)]);
    const outputs = Object.entries(await sessions.get(part).run(Object.fromEntries(tensors)));
    return Object.fromEntries(outputs.map(([name, { data, dims, type }]) => [name, { data, dims, dtype: type }]));
  }
  async function draw(n) {
    const inputs = { ...vae.samplePrior(contract, n, BigInt(seed)), ...vae.goldenConditions(bundle, "decoder", n) };
    return (await vae.runRows(contract, run, "decoder", inputs)).image;
  }

  if (picture) {
    await draw(1);
    console.log(`first image ${process.uptime().toFixed(3)} s after the start`);
  }
  const noise = vae.checkNoise(bundle);
  console.log(`noise: ${noise.same} of ${noise.total} golden latents bit for bit`);
  const test = await vae.selfTest(bundle, run);
  test.outputs.forEach((output) => console.log(describe(output)));

  if (picture) {
    writePicture(picture, await draw(16), vae.outputOf(contract).range, 4);
    console.log(`wrote ${picture}`);
  }
  return test.passed && noise.same === noise.total;
}

/** Describe how one output compares with its golden array. */
function describe({ part, tensor, error, tolerance, pixels, differing, unexplained }) {
  const levels = pixels ? `, ${differing} pixels differ, ${unexplained} unexplained` : "";
  return `${part} ${tensor}: worst error ${error.toExponential(2)}, ${tolerance.toExponential(2)} allowed${levels}`;
}

/** Write images (N, C, H, W) as a grid: a PGM file, PPM if there are three channels, PAM if there are two or four. */
function writePicture(file, { data, dims: [n, channels, height, width] }, range, columns) {
  const rows = Math.ceil(n / columns);
  const grid = Buffer.alloc(rows * height * columns * width * channels);
  let i = 0;
  for (let image = 0; image < n; image++) {
    for (let channel = 0; channel < channels; channel++) {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const [row, column] = [Math.floor(image / columns) * height + y, (image % columns) * width + x];
          grid[(row * columns * width + column) * channels + channel] = vae.toLevel(data[i++], range);
        }
      }
    }
  }
  const [w, h, kind] = [columns * width, rows * height, { 2: "GRAYSCALE_ALPHA", 4: "RGB_ALPHA" }[channels]];
  const plain = `${channels === 3 ? "P6" : "P5"}\n${w} ${h}\n255\n`;
  const header = kind ? `P7\nWIDTH ${w}\nHEIGHT ${h}\nDEPTH ${channels}\nMAXVAL 255\nTUPLTYPE ${kind}\nENDHDR\n` : plain;
  writeFileSync(file, Buffer.concat([Buffer.from(header), grid]));
}

if (process.argv.length < 3) {
  console.error("usage: node main.js BUNDLE [PICTURE [SEED [KEY.pub]]]");
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
