// Opens vae-export bundles, draws their random latents, tests and runs them, in browsers, workers and Node.
//
// docs/bundle-format.md of vae-export is the specification; the section numbers in this package are its own. Browsers offer
// SHA-256, which opening a bundle needs, on https:// and on localhost only.

export { goldenArray, goldenSizes, openBundle } from "./bundle.js";
export { isImage, outputOf, pixelRange, sizesAt, tensorsOf, usualValue, whyNotDrawable } from "./contract.js";
export { BundleError, InputError } from "./errors.js";
export { findModel, toleranceOf } from "./manifest.js";
export { Model, joinRows, takeRows } from "./model.js";
export { checkSeed, makeTensor, normal, normalQuantile, philox, sample, sampleCodes, samplePrior } from "./noise.js";
export { encodePng, toGrid, toLayout, toLevel, toPixels, toRgba } from "./pixels.js";
export { checkNoise, compare, compareBytes, goldenConditions, selfTest } from "./self-test.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./bundle.js").Tensor} Tensor */
/** @typedef {import("./contract.js").Contract} Contract */
/** @typedef {import("./contract.js").Part} Part */
/** @typedef {import("./contract.js").TensorSpec} TensorSpec */
/** @typedef {import("./manifest.js").Manifest} Manifest */
/** @typedef {import("./model.js").Conditions} Conditions */
/** @typedef {import("./model.js").Latents} Latents */
/** @typedef {import("./model.js").LoadOptions} LoadOptions */
/** @typedef {import("./self-test.js").SelfTest} SelfTest */
