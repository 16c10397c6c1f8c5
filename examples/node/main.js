// node main.js BUNDLE [PICTURE.png [SEED [KEY.pub]]] tests the bundle on this machine, then writes 16 new images to PICTURE.png.
// With KEY.pub, it refuses a bundle that the owner of that key has not signed.
import { readFileSync, writeFileSync } from "node:fs";
import { Model, encodePng, whyNotDrawable } from "vae-bundle";

const ort = () => import("onnxruntime-node"); // after its telemetry was switched off

async function main(path, picture, seed = "0", key) {
  if (!/^[0-9]+$/.test(seed)) throw new Error(`bad seed: ${seed}; expected 0 to 2^64 - 1`);
  const model = await Model.load(path, { ort, verifyKey: key && readFileSync(key, "utf8") });
  if (model.bundle.signedBy) console.log(`signed by the key ${model.bundle.signedBy}`);
  const draw = (n) => model.pixels(model.prior(n, { seed: BigInt(seed) }), { conditions: model.exampleConditions(n) });

  if (picture) {
    const reason = whyNotDrawable(model.contract);
    if (reason) throw new Error(`no images can be drawn: ${reason}`);
    await draw(1);
    console.log(`first image ${process.uptime().toFixed(3)} s after the start`);
  }
  const { noise, outputs, passed } = await model.selfTest();
  if (outputs.length === 0) throw new Error("bundle has no part as onnx");
  console.log(`noise: ${noise.same} of ${noise.total} golden latents bit for bit`);
  for (const output of outputs) console.log(describe(output));
  if (picture) {
    writeFileSync(picture, await encodePng(await draw(16), 4));
    console.log(`wrote ${picture}`);
  }
  return passed;
}

/** Describe how one output compares with its golden array. */
function describe({ part, tensor, error, tolerance, pixels, differing, unexplained }) {
  const levels = pixels ? `, ${differing} pixels differ, ${unexplained} unexplained` : "";
  return `${part} ${tensor}: worst error ${error.toExponential(2)}, ${tolerance.toExponential(2)} allowed${levels}`;
}

if (process.argv.length < 3) {
  console.error("usage: node main.js BUNDLE [PICTURE.png [SEED [KEY.pub]]]");
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
