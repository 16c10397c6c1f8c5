// The self-test (section 5): golden inputs with the outputs that they must give.

import { goldenArray } from "./bundle.js";
import { BYTE_PARTS, pixelRange } from "./contract.js";
import { ARRAYS, findModel, toleranceOf } from "./manifest.js";
import { sample, sampleCodes } from "./noise.js";
import { toLevel } from "./pixels.js";

/** @typedef {import("./bundle.js").Bundle} Bundle */
/** @typedef {import("./bundle.js").Tensor} Tensor */
/** @typedef {import("./manifest.js").ModelFile} ModelFile */

/**
 * How one output compares with its golden array. For integers, `error` and `tolerance` are numbers of those that differ.
 * `error` is infinite if the sizes differ or a number is not finite. A `differing` pixel has another level than expected;
 * it is `unexplained` if no value within the tolerance has its level.
 *
 * @typedef {{error: number, tolerance: number, pixels: number, differing: number, unexplained: number, passed: boolean}} Comparison
 * @typedef {Comparison & {part: string, tensor: string}} OutputComparison
 * @typedef {{passed: boolean, outputs: OutputComparison[], noise: {same: number, total: number}}} SelfTest
 * @typedef {(part: import("./contract.js").Part, inputs: Record<string, Tensor>) => Promise<Record<string, Tensor>>} Run
 */

/**
 * Run the golden vectors through an engine and compare what it computes; compare the random latents with the golden ones.
 *
 * @param {Bundle} bundle
 * @param {Run} run computes one part; inputs and outputs are tensors by name
 * @param {(part: import("./contract.js").Part) => ModelFile | undefined} [fileOf] the file of a part that is run; undefined leaves it out
 * @returns {Promise<SelfTest>}
 */
export async function selfTest(bundle, run, fileOf = (part) => findModel(bundle.manifest, part)) {
  /** @type {OutputComparison[]} */
  const outputs = [];
  for (const golden of bundle.manifest.golden) {
    const inputs = Object.fromEntries(golden.inputs.map((item) => [item.tensor, goldenArray(bundle, item)]));
    const file = fileOf(golden.part);
    if (file) {
      const results = await run(golden.part, inputs);
      for (const item of golden.outputs) {
        const expected = goldenArray(bundle, item);
        const { data, dims } = results[item.tensor];
        const got = String(dims) === String(expected.dims) ? data : new Float32Array(0);
        const range = file.outputs.find((tensor) => tensor.name === item.tensor)?.range ?? null;
        outputs.push({ part: golden.part, tensor: item.tensor, ...compare(got, expected.data, toleranceOf(item, file), range) });
      }
    }
    for (const part of golden.part === "decoder" ? BYTE_PARTS : []) {
      const [file, [item], range] = [fileOf(part), golden.outputs, pixelRange(bundle.contract)];
      if (!file || range === null) continue;
      const { pixels } = await run(part, inputs);
      const expected = goldenArray(bundle, item);
      outputs.push({ part, tensor: "pixels", ...compareBytes(pixels, expected, toleranceOf(item, file), range, part.endsWith("hwc")) });
    }
  }
  const noise = checkNoise(bundle);
  return { passed: outputs.length > 0 && outputs.every((output) => output.passed) && noise.same === noise.total, outputs, noise };
}

/**
 * Compare one output of an engine with its golden array.
 *
 * @param {ArrayLike<number | bigint>} got
 * @param {ArrayLike<number | bigint>} expected
 * @param {number} tolerance the largest absolute error that is allowed
 * @param {readonly [number, number] | null} range of a pixel; null for an output that is no image
 * @returns {Comparison}
 */
export function compare(got, expected, tolerance, range) {
  if (expected instanceof BigInt64Array || expected instanceof Int32Array) return compareCodes(got, expected, tolerance);
  const pixels = range === null ? 0 : expected.length;
  let [error, differing, unexplained] = [0, 0, 0];
  if (got.length !== expected.length) return { error: Infinity, tolerance, pixels, differing, unexplained, passed: false };
  for (let index = 0; index < expected.length; index += 1) {
    const [found, wanted] = [Number(got[index]), Number(expected[index])];
    error = Number.isFinite(found) ? Math.max(error, Math.abs(found - wanted)) : Infinity;
    if (range === null) continue;
    const level = toLevel(found, range);
    if (level !== toLevel(wanted, range)) differing += 1;
    // NaN is unexplained.
    if (!(level >= toLevel(wanted - tolerance, range) && level <= toLevel(wanted + tolerance, range))) unexplained += 1;
  }
  return { error, tolerance, pixels, differing, unexplained, passed: error <= tolerance && unexplained === 0 };
}

/**
 * Compare integers.
 *
 * @param {ArrayLike<number | bigint>} got
 * @param {BigInt64Array | Int32Array} expected
 * @param {number} tolerance
 * @returns {Comparison}
 */
function compareCodes(got, expected, tolerance) {
  let differing = got.length === expected.length ? 0 : Infinity;
  for (let index = 0; index < expected.length; index += 1) if (got[index] !== expected[index]) differing += 1;
  return { error: differing, tolerance, pixels: 0, differing: 0, unexplained: 0, passed: differing <= tolerance };
}

/**
 * Compare the pixels of a decoder that gives bytes with the golden image. Error and tolerance are in levels.
 *
 * @param {Tensor} got uint8 (N, H, W, C) or (N, C, H, W)
 * @param {Tensor} expected float32 (N, C, H, W)
 * @param {number} tolerance in units of the image
 * @param {readonly [number, number]} range of a pixel
 * @param {boolean} channelsLast
 * @returns {Comparison}
 */
export function compareBytes(got, { data, dims: [rows, channels, ...sizes] }, tolerance, range, channelsLast) {
  const [low, high] = range;
  const plane = sizes.reduce((a, b) => a * b, 1);
  const [pixels, allowed] = [data.length, (tolerance / (high - low)) * 255];
  let [error, differing, unexplained] = [0, 0, 0];
  const dims = channelsLast ? [rows, ...sizes, channels] : [rows, channels, ...sizes];
  if (String(got.dims) !== String(dims)) return { error: Infinity, tolerance: allowed, pixels, differing, unexplained, passed: false };
  for (let index = 0; index < data.length; index += 1) {
    const [row, channel, pixel] = [Math.floor(index / (channels * plane)), Math.floor(index / plane) % channels, index % plane];
    const byte = Number(got.data[channelsLast ? (row * plane + pixel) * channels + channel : index]);
    const wanted = Number(data[index]);
    if (byte !== toLevel(wanted, range)) differing += 1;
    if (byte < toLevel(wanted - tolerance, range) || byte > toLevel(wanted + tolerance, range)) unexplained += 1;
    const exact = Math.min(255, Math.max(0, ((wanted - low) / (high - low)) * 255));
    error = Math.max(error, Math.abs(byte - exact) - 0.5);
  }
  return { error, tolerance: allowed, pixels, differing, unexplained, passed: unexplained === 0 };
}

/**
 * Return how many golden latents are drawn bit for bit here, and how many there are: from row 2 on they are drawn.
 *
 * @param {Pick<Bundle, "manifest" | "contract" | "files">} bundle
 */
export function checkNoise(bundle) {
  const { manifest, contract } = bundle;
  const golden = manifest.golden.find(({ part }) => part === "decoder");
  let [same, total] = [0, 0];
  for (const [index, { range }] of golden === undefined ? [] : contract.latents.entries()) {
    const { data, dims: [rows] } = goldenArray(bundle, /** @type {any} */ (golden).inputs[index]);
    const [size, count, seed] = [data.length / rows, Math.max(rows - 2, 0), 2n * BigInt(index)];
    const drawn = contract.encoding === "codes" ? sampleCodes(count, size, (range?.[1] ?? 0) + 1, seed) : sample(count, size, seed);
    const [found, expected] = [bitsOf(drawn), bitsOf(data.subarray(2 * size))];
    for (let row = 0; row < count; row += 1) {
      let isSame = true;
      for (let at = row * size; at < (row + 1) * size; at += 1) isSame &&= found[at] === expected[at];
      if (isSame) same += 1;
    }
    total += count;
  }
  return { same, total };
}

/**
 * Return the bits of floats, so that -0 is not 0, and integers as numbers.
 *
 * @param {ArrayLike<number | bigint>} data
 * @returns {ArrayLike<number>}
 */
function bitsOf(data) {
  return data instanceof Float32Array ? new Uint32Array(data.slice().buffer) : Float64Array.from(data, Number);
}

/**
 * Return conditions for n rows of a part: those of its golden vectors, again and again.
 *
 * @param {Bundle} bundle
 * @param {string} part
 * @param {number} n
 * @returns {Record<string, Tensor>}
 */
export function goldenConditions(bundle, part, n) {
  const names = bundle.contract.conditions.map(({ name }) => name);
  const inputs = bundle.manifest.golden.find((golden) => golden.part === part)?.inputs ?? [];
  return Object.fromEntries(inputs.filter(({ tensor }) => names.includes(tensor)).map((item) => {
    const { data, dims: [rows, ...sizes], dtype } = goldenArray(bundle, item);
    const size = data.length / rows;
    const repeated = new ARRAYS[dtype](n * size);
    for (let row = 0; row < n; row += 1) {
      repeated.set(/** @type {any} */ (data).subarray((row % rows) * size, ((row % rows) + 1) * size), row * size);
    }
    return [item.tensor, { data: repeated, dims: [n, ...sizes], dtype }];
  }));
}
