// What an application writes, for the check of the types. It runs, too: `node use.js BUNDLE PICTURE.png`.
import { readFileSync, writeFileSync } from "node:fs";
import { BundleError, InputError, Model, encodePng, openBundle, sample, type Bundle, type SelfTest, type Tensor } from "vae-bundle";

const [, , path, picture] = process.argv;
const model: Model = await Model.load(path, { ort: () => import("onnxruntime-node") });

const test: SelfTest = await model.selfTest();
if (!test.passed) throw new Error("do not trust these pixels");

const images: Tensor = await model.sample(16, { seed: 2n ** 64n - 1n });
const { mean, logvar } = await model.encode(images);
const again: Tensor = await model.reconstruct(images);
const latents: Float32Array = sample(2, 10, 7);
const between = await model.interpolate(images.data.slice(0, 784) as Float32Array, images.data.slice(784, 2 * 784) as Float32Array, 5);
const pixels = await model.pixels(model.prior(16, { seed: 5 }), { layout: "hwc" });
writeFileSync(picture, await encodePng(pixels, 4));

const bundle: Bundle = await openBundle(readFileSync(path), { verifyKey: null });
const shape: readonly (number | string)[] = bundle.contract.data.shape;
const refused = await model.decode([Infinity, ...Array(9).fill(0)]).catch((error: unknown) => error instanceof InputError);
const damaged = await openBundle(new Uint8Array(9)).catch((error: unknown) => error instanceof BundleError);
console.log(JSON.stringify({
  refused, damaged, shape, latents: latents.length, mean: mean.dims, logvar: logvar.dims, again: again.dims, between: between.dims, pixels: pixels.dims,
}));

// @ts-expect-error a seed is no text
void (() => model.sample(1, { seed: "0" }));
// @ts-expect-error there is no such layout
void (() => model.pixels(latents, { layout: "rgb" }));
// @ts-expect-error the engine is missing
void (() => Model.load(path, {}));
