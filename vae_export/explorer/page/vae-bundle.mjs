// Opens a vae-export bundle, draws its random latents, and tests what an engine computes from it.
//
// docs/bundle-format.md is the specification; the section numbers below are its own. The reader is strict: it checks every
// byte of the bundle before any of it is used. The file has no dependencies and runs in browsers, workers and Node 20.
// Browsers offer SHA-256 on https:// and on localhost only.

export class BundleError extends Error {
  name = "BundleError";
}

const [FORMAT, EXTENDED_FORMAT] = ["vae-export/1", "vae-export/2"];
const CERTIFICATE_FORMATS = ["vae-export-certificate/1", "vae-export-certificate/2"];
const [NORMAL, UNIFORM, GIVEN] = ["standard normal", "uniform", "given by the user"];
const [MANIFEST_LIMIT, TEXT_LIMIT, CERTIFICATE_LIMIT] = [1 << 20, 1 << 20, 64 << 20]; // bytes
const [DEPTH_LIMIT, VALUES_LIMIT] = [64, 1 << 22];
const SUMS_LINE = 64 + 2 + 201 + 1; // bytes, with the longest name
const [SIGNATURE, SIGNATURE_SIZE] = ["SHA256SUMS.sig", 64];
const FLOAT_PARTS = ["encoder", "decoder", "autoencoder"];
// A reader takes the first of these that a part has, and ignores files of any other precision.
const PRECISIONS = ["fp32", "fp16", "bf16", "int8", "int8-static", "int4-weights"];

/**
 * Open a bundle.
 *
 * @param {ArrayBuffer | Uint8Array} data the whole file
 * @param {{verifyKey?: string}} options `verifyKey` is the Ed25519 public key of whoever must have signed the bundle, as the
 *   text of a PEM file; without it, no signature is needed and none is checked
 * @returns {Promise<Bundle>} `files` maps the name of every entry to its bytes, as a view of `data`; `identity` is the
 *   SHA-256 of the list of hashes, which only bundles with equal contents share; `signedBy` is the fingerprint of
 *   `verifyKey`, or null
 * @throws {BundleError} if any byte is not as the specification says; the message names the file
 * @typedef {{identity: string, signedBy: string | null, manifest: object, certificate: object, card: string,
 *   files: Map<string, Uint8Array>}} Bundle
 */
export async function openBundle(data, { verifyKey = null } = {}) {
  if (!globalThis.crypto?.subtle) throw new BundleError("SHA-256 is not available; open this page on https:// or localhost");
  try {
    // A plain view even of Node's Buffer, whose slice() would not copy.
    const isView = ArrayBuffer.isView(data);
    const bytes = isView ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
    return await readBundle(bytes, verifyKey);
  } catch (error) {
    // A forged manifest can hold any type in any place, which then fails as a TypeError.
    throw error instanceof BundleError ? error : new BundleError(`bundle cannot be read; got ${error.message}`);
  }
}

async function readBundle(bytes, verifyKey) {
  const { files, checksums } = readArchive(bytes);
  const [first] = files.keys();
  if (first !== "SHA256SUMS") refuse("not a bundle", "its first file", "SHA256SUMS", first);
  const sums = files.get(first);
  if (sums.length > SUMS_LINE * files.size) refuse("list of hashes is too long", first);
  const signedBy = await checkSignature(sums, files.get(SIGNATURE), verifyKey);
  const hashes = await checkSums(ascii(sums), files);
  for (const [name, stated] of checksums) { // after SHA-256, whose message says more
    const found = crc32(files.get(name));
    if (found !== stated) refuse("file has another CRC-32 than its header", name, hex(stated), hex(found));
  }
  if (!files.has("manifest.json")) refuse("file is missing", "manifest.json");
  const manifest = readManifest(files.get("manifest.json"));
  checkEntries(manifest, [...files.keys()]);
  for (const { name, sha256, size } of namedFiles(manifest)) {
    if (hashes.get(name) !== sha256) refuse("hash is not the manifest's", name, `SHA-256 ${sha256}`, hashes.get(name));
    if (size !== files.get(name).length) refuse("wrong size", name, `${size} bytes`, files.get(name).length);
  }
  const certificate = readCertificate(files.get("certificate.json"), manifest);
  const card = readText(files.get("MODEL_CARD.md"), "MODEL_CARD.md");
  readText(files.get("LICENSE"), "LICENSE");
  return { identity: await digest(sums), signedBy, manifest, certificate, card, files };
}

// ------------------------------------------------------------------------------------------------ model files (section 3)

/** Return the manifest's entry for a part's model file, in float32 if there is one, or undefined if there is none. */
export function findModel(manifest, part, format = "onnx") {
  const files = manifest.files.filter((entry) => entry.part === part && entry.format === format);
  const found = PRECISIONS.map((precision) => files.find((file) => precisionOf(file) === precision));
  return found.find((file) => file !== undefined);
}

/** Return the bytes of a part's model file. Throws if the bundle has none. */
export function modelBytes(bundle, part, format = "onnx") {
  const entry = findModel(bundle.manifest, part, format);
  return bundle.files.get(entry ? entry.name : refuse(`bundle has no ${part} as ${format}`));
}

/** Return the largest error that the specification allows a model file in a golden output; 0 if its precision has none. */
export function toleranceOf(output, file) {
  const precision = precisionOf(file);
  return precision === "fp32" ? output.band : (output.bands?.[precision] ?? 0);
}

// The arrays that hold the numbers of a tensor, by its dtype. The elements of the last are BigInts.
const ARRAYS = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array };

/** Return a golden array as a tensor. Files are little-endian, and so is every machine that runs a browser. */
export function goldenArray(bundle, item) {
  const dtype = dtypeOf(item);
  return { data: new ARRAYS[dtype](bundle.files.get(item.file).slice().buffer), dims: item.shape, dtype };
}

/** Return a tensor of numbers, as an array of its dtype. */
export function tensorOf(dtype, numbers, dims) {
  const data = dtype === "int64" ? BigInt64Array.from(numbers, BigInt) : ARRAYS[dtype].from(numbers);
  return { data, dims, dtype };
}

/** Return the numbers of a tensor, which are BigInts in a tensor of int64. */
function numbersOf(data) {
  return data instanceof BigInt64Array ? Float64Array.from(data, Number) : data;
}

// ------------------------------------------------------------------------------------------------- the contract (section 3)

/**
 * Return the contract of a manifest of either version, in the form of version 2.
 *
 * @returns {{data: object, output: object | null, latents: object[], conditions: object[], encoding: string, prior: string,
 *   symbols: object, likelihood: object | null, scaling_factor: number, shift_factor: number}}
 */
export function contractOf({ format, contract }) {
  if (format !== FORMAT) return contract;
  const { image_shape: imageShape, image_range: range, latent_shape: latentShape, prior, likelihood = null } = contract;
  const data = { name: "image", dtype: "float32", shape: ["N", ...imageShape], range };
  const latent = { name: "latent", dtype: "float32", shape: ["N", ...latentShape], range: null };
  const rest = { output: null, conditions: [], encoding: "gaussian", symbols: {}, scaling_factor: 1, shift_factor: 0 };
  return { data, latents: [latent], prior, likelihood, ...rest };
}

/** Return the tensor that the decoder gives. */
export const outputOf = (contract) => contract.output ?? contract.data;

/** Return whether the decoder gives images of 1 to 4 channels in a range, which can be shown. */
export function isImage(contract) {
  const { name, shape, range } = outputOf(contract);
  return name === "image" && range !== null && [1, 2, 3, 4].includes(shape[1]);
}

/** Return the reason why no new images can be drawn from a contract, or null. */
export function whyNotDrawable(contract) {
  const { name, shape } = outputOf(contract);
  if (!isImage(contract)) return `${name} (${shape.join(", ")}) is no image of 1 to 4 channels`;
  return contract.prior === GIVEN ? "the prior of the latents is not in the bundle" : null;
}

/** Throw BundleError if no new images can be drawn from a contract. */
export function requireDrawable(contract) {
  const reason = whyNotDrawable(contract);
  if (reason !== null) refuse("no images can be drawn", reason, "a bundle of images", undefined);
}

/** Return the sizes of a tensor without the batch in numbers; symbols that are not in `values` have their usual value. */
export function sizesAt({ shape }, { symbols }, values = {}) {
  return shape.slice(1).map((size) => {
    if (typeof size === "number") return size;
    const { factor, symbol, offset } = parseSize(size);
    return factor * (values[symbol] ?? usualValue(symbols[symbol])) + offset;
  });
}

/** Return the value of a symbol that applications use most. */
export function usualValue({ min, max, usual }) {
  return usual ?? Math.min(Math.max(8, min), max ?? 8);
}

/** Parse a size such as "h", "8*h" or "4*t+1". */
function parseSize(text) {
  const [, factor = "1", symbol, offset = "0"] =
    /^(?:([1-9]\d*)\*)?([A-Za-z][A-Za-z0-9_]*)([+-]\d+)?$/.exec(text) ?? refuse("size cannot be read", "manifest.json", null, text);
  return { factor: Number(factor), symbol, offset: Number(offset) };
}

/** Return whether sizes without the batch fit a tensor, and enter the values of its symbols. */
function fits(sizes, { shape }, values) {
  return sizes.length === shape.length - 1 && sizes.every((found, index) => {
    const size = shape[index + 1];
    if (typeof size === "number") return size === found;
    const { factor, symbol, offset } = parseSize(size);
    const value = (found - offset) / factor;
    values[symbol] ??= value;
    return Number.isInteger(value) && value >= 1 && values[symbol] === value;
  });
}

/** Return the lowest and the highest number of rows that the graphs take at a time. */
function batchBounds({ symbols }) {
  return { low: symbols.N?.min ?? 1, high: symbols.N?.max ?? Infinity };
}

/**
 * Run a part on any number of rows: larger batches than the contract allows are cut, smaller ones repeat their last row.
 *
 * @param {object} contract of `contractOf`
 * @param {(part: string, inputs: object) => Promise<object>} run computes one part, see `selfTest`
 * @param {number} most rows at a time
 */
export async function runRows(contract, run, part, inputs, most = Infinity) {
  const { low, high } = batchBounds(contract);
  const [step, [{ dims: [rows] }]] = [Math.max(low, Math.min(high, most)), Object.values(inputs)];
  if (rows >= low && rows <= step) return run(part, inputs);
  const pieces = [];
  for (let start = 0; start < rows; start += step) {
    const [count, cut] = [Math.min(step, rows - start), {}];
    for (const [name, tensor] of Object.entries(inputs)) cut[name] = takeRows(tensor, start, count, low);
    const outputs = await run(part, cut);
    pieces.push(Object.entries(outputs).map(([name, tensor]) => [name, takeRows(tensor, 0, count)]));
  }
  return Object.fromEntries(pieces[0].map(([name, { dims, dtype }], index) => {
    const data = new ARRAYS[dtype](rows * dims.slice(1).reduce((a, b) => a * b, 1));
    let filled = 0;
    for (const piece of pieces) {
      data.set(piece[index][1].data, filled);
      filled += piece[index][1].data.length;
    }
    return [name, { data, dims: [rows, ...dims.slice(1)], dtype }];
  }));
}

/** Return `count` rows of a tensor; the last of them is repeated until there are `least`. */
export function takeRows({ data, dims, dtype }, start, count, least = count) {
  const [size, rows] = [data.length / dims[0], Math.max(count, least)];
  const taken = new data.constructor(rows * size);
  taken.set(data.subarray(start * size, (start + count) * size));
  for (let row = count; row < rows; row += 1) taken.copyWithin(row * size, (count - 1) * size, count * size);
  return { data: taken, dims: [rows, ...dims.slice(1)], dtype: dtype ?? "float32" };
}

// ------------------------------------------------------------------------------------- pixels and the self-test (4 and 5)

/** Return the byte that shows a pixel of the range [low, high]. */
export function toLevel(pixel, [low, high]) {
  return Math.floor(Math.min(255, Math.max(0, ((pixel - low) / (high - low)) * 255)) + 0.5);
}

/**
 * Compare one output of an engine with its golden array.
 *
 * @param {ArrayLike<number>} got
 * @param {ArrayLike<number>} expected
 * @param {number} tolerance the largest absolute error that is allowed
 * @param {[number, number] | null} range of a pixel; null for an output that is no image
 * @returns {{error: number, tolerance: number, pixels: number, differing: number, unexplained: number, passed: boolean}}
 *   `error` is infinite if the sizes differ or a number is not finite. A `differing` pixel has another level than expected;
 *   it is `unexplained` if no value within the tolerance has its level.
 */
export function compare(got, expected, tolerance, range) {
  if (expected instanceof BigInt64Array || expected instanceof Int32Array) return compareCodes(got, expected, tolerance);
  const pixels = range === null ? 0 : expected.length;
  let [error, differing, unexplained] = [0, 0, 0];
  if (got.length !== expected.length) return { error: Infinity, tolerance, pixels, differing, unexplained, passed: false };
  for (let index = 0; index < expected.length; index += 1) {
    error = Number.isFinite(got[index]) ? Math.max(error, Math.abs(got[index] - expected[index])) : Infinity;
    if (range === null) continue;
    const level = toLevel(got[index], range);
    const [lowest, highest] = [expected[index] - tolerance, expected[index] + tolerance];
    if (level !== toLevel(expected[index], range)) differing += 1;
    if (!(level >= toLevel(lowest, range) && level <= toLevel(highest, range))) unexplained += 1; // NaN is unexplained
  }
  return { error, tolerance, pixels, differing, unexplained, passed: error <= tolerance && unexplained === 0 };
}

/** Compare integers: `error` and the tolerance are numbers of integers that differ. */
function compareCodes(got, expected, tolerance) {
  const [found, wanted] = [numbersOf(got), numbersOf(expected)];
  const differing = found.length === wanted.length ? wanted.reduce((sum, code, index) => sum + (code !== found[index]), 0) : Infinity;
  return { error: differing, tolerance, pixels: 0, differing: 0, unexplained: 0, passed: differing <= tolerance };
}

/**
 * Run the golden vectors through an engine and compare what it computes.
 *
 * @param {Bundle} bundle
 * @param {(part: string, inputs: object) => Promise<object>} run computes one part; inputs and outputs are tensors by
 *   name: {data, dims, dtype} with dtype "float32", "int32" or "int64"
 * @param {string[]} parts the parts to test; those that the bundle does not have as ONNX are left out
 * @returns {Promise<{passed: boolean, outputs: object[]}>} for each output its `part`, `tensor` and what `compare` returns
 */
export async function selfTest(bundle, run, parts = FLOAT_PARTS) {
  const outputs = [];
  for (const golden of bundle.manifest.golden) {
    const file = findModel(bundle.manifest, golden.part);
    if (!file || !parts.includes(golden.part)) continue;
    const inputs = golden.inputs.map((item) => [item.tensor, goldenArray(bundle, item)]);
    const results = await run(golden.part, Object.fromEntries(inputs));
    for (const item of golden.outputs) {
      const expected = goldenArray(bundle, item);
      const { data, dims } = results[item.tensor];
      const got = String(dims) === String(expected.dims) ? data : [];
      const { range } = file.outputs.find((tensor) => tensor.name === item.tensor);
      outputs.push({ part: golden.part, tensor: item.tensor, ...compare(got, expected.data, toleranceOf(item, file), range) });
    }
  }
  return { passed: outputs.length > 0 && outputs.every((output) => output.passed), outputs };
}

/** Return how many golden latents are drawn bit for bit here, and how many there are: from row 2 on they are drawn. */
export function checkNoise(bundle) {
  const contract = contractOf(bundle.manifest);
  const golden = bundle.manifest.golden.find(({ part }) => part === "decoder");
  let [same, total] = [0, 0];
  for (const [index, { range }] of golden === undefined ? [] : contract.latents.entries()) {
    const { data, dims: [rows] } = goldenArray(bundle, golden.inputs[index]);
    const [size, count, seed] = [data.length / rows, Math.max(rows - 2, 0), 2n * BigInt(index)];
    const drawn = contract.encoding === "codes" ? sampleCodes(count, size, range[1] + 1, seed) : sample(count, size, seed);
    const [found, expected] = [drawn, data.subarray(2 * size)].map(bitsOf);
    const row = (array, number) => array.subarray(number * size, (number + 1) * size).join();
    for (let number = 0; number < count; number += 1) same += row(found, number) === row(expected, number);
    total += count;
  }
  return { same, total };
}

/** Return the bits of floats, so that -0 is not 0, and integers as numbers. */
function bitsOf(data) {
  return data instanceof Float32Array ? new Uint32Array(data.slice().buffer) : numbersOf(data);
}

/** Return the values that the symbols of a contract have in the golden vectors. */
export function goldenSizes(bundle) {
  const [contract, values] = [contractOf(bundle.manifest), {}];
  for (const { part, inputs } of bundle.manifest.golden) {
    const tensors = tensorsOf(part, contract).inputs;
    inputs.forEach(({ shape: [, ...sizes] }, index) => fits(sizes, tensors[index], values));
  }
  return values;
}

/** Return the conditions that a part takes, for n rows: those of its golden vectors, again and again. */
export function goldenConditions(bundle, part, n) {
  const names = contractOf(bundle.manifest).conditions.map(({ name }) => name);
  const inputs = bundle.manifest.golden.find((golden) => golden.part === part)?.inputs ?? [];
  return Object.fromEntries(inputs.filter(({ tensor }) => names.includes(tensor)).map((item) => {
    const { data, dims: [rows, ...sizes], dtype } = goldenArray(bundle, item);
    const [size, repeated] = [data.length / rows, new ARRAYS[dtype](n * (data.length / rows))];
    for (let row = 0; row < n; row += 1) repeated.set(data.subarray((row % rows) * size, ((row % rows) + 1) * size), row * size);
    return [item.tensor, { data: repeated, dims: [n, ...sizes], dtype }];
  }));
}

// ----------------------------------------------------------------------------------------------- random latents (section 6)

/**
 * Draw latents from N(0, I). A seed gives the same bits in every language.
 *
 * @param {number} n how many latents
 * @param {number} size numbers in one latent
 * @param {number | bigint} seed 0 to 2^64 - 1; a BigInt above 2^53 - 1
 * @param {number} start how many latents of this seed to skip
 * @returns {Float32Array} n · size numbers, row-major
 */
export function sample(n, size, seed = 0, start = 0) {
  return draw(Float32Array, normal, n, size, seed, start);
}

/**
 * Draw codes from 0 to count - 1, each equally likely. A seed gives the same codes in every language.
 *
 * @param {number} count how many codes there are
 * @returns {Float64Array} n · size whole numbers, row-major; see `sample` for the other arguments
 */
export function sampleCodes(n, size, count, seed = 0, start = 0) {
  return draw(Float64Array, (word) => Number((BigInt(word) * BigInt(count)) >> 32n), n, size, seed, start);
}

/**
 * Draw latents from the prior of a contract.
 *
 * @param {object} contract of `contractOf`
 * @param {object} values of the contract's symbols; others have their usual value
 * @returns {Object<string, {data: ArrayLike<number>, dims: number[], dtype: string}>} latents or codes by name
 * @throws {BundleError} if the contract does not know the prior
 */
export function samplePrior(contract, n, seed = 0, start = 0, values = {}) {
  if (contract.prior === GIVEN) refuse("prior is not in the bundle", null, `${NORMAL} or ${UNIFORM}`, GIVEN);
  const items = contract.latents.map((latent) => sizesAt(latent, contract, values));
  const sizes = items.map((item) => item.reduce((a, b) => a * b, 1));
  const width = sizes.reduce((a, b) => a + b);
  const codes = contract.encoding === "codes";
  const rows = codes ? sampleCodes(n, width, contract.latents[0].range[1] + 1, seed, start) : sample(n, width, seed, start);
  let first = 0;
  return Object.fromEntries(contract.latents.map(({ name, dtype }, index) => {
    const [offset, size] = [first, sizes[index]];
    first += size;
    const numbers = size === width ? rows : new rows.constructor(n * size);
    for (let row = 0; row < n && size !== width; row += 1) {
      numbers.set(rows.subarray(row * width + offset, row * width + offset + size), row * size);
    }
    return [name, tensorOf(dtype, numbers, [n, ...items[index]])];
  }));
}

/** Return the transform of the random words of these rows. */
function draw(Numbers, transform, n, size, seed, start) {
  const wide = checkSeed(seed);
  const [first, count] = [start * size, n * size];
  if (![n, size, start, first + count].every((number) => Number.isSafeInteger(number) && number >= 0)) {
    throw new RangeError(`bad number of latents: ${n} after ${start}`);
  }
  const key = [Number(wide & 0xffffffffn), Number(wide >> 32n)];
  const numbers = new Numbers(count);
  let words = null;
  for (let index = 0; index < count; index += 1) {
    const word = (first + index) % 4;
    if (words === null || word === 0) {
      const block = Math.floor((first + index) / 4);
      words = philox([block % 2 ** 32, Math.floor(block / 2 ** 32), 0, 0], key);
    }
    numbers[index] = transform(words[word]);
  }
  return numbers;
}

/** Return a seed as a BigInt. Throws RangeError unless it is a whole number from 0 to 2^64 - 1. */
export function checkSeed(seed) {
  const exact = typeof seed === "bigint" || Number.isSafeInteger(seed);
  if (!exact || seed < 0 || seed >= 1n << 64n) {
    throw new RangeError(`bad seed: ${seed}; expected 0 to 2^64 - 1, as a BigInt above 2^53 - 1`);
  }
  return BigInt(seed);
}

/** Philox 4x32-10: encrypt a counter of four 32-bit words under a key of two (Salmon et al., SC'11). */
export function philox(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round += 1) {
    const odd = highWord(0xcd9e8d57, c2) ^ c1 ^ k0;
    const even = highWord(0xd2511f53, c0) ^ c3 ^ k1;
    c1 = Math.imul(0xcd9e8d57, c2);
    c3 = Math.imul(0xd2511f53, c0);
    c0 = odd;
    c2 = even;
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
}

/** Return the upper 32 bits of the product of two 32-bit words, in halves that a float64 holds exactly. */
function highWord(a, b) {
  const [a1, a0, b1, b0] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const other = a0 * b1 + (middle & 0xffff);
  return a1 * b1 + (middle >>> 16) + (other >>> 16);
}

/** Turn a 32-bit word into a standard normal number, as float32. */
export function normal(word) {
  return Math.fround(normalQuantile((word + 0.5) / 4294967296));
}

// Wichura's AS 241 (PPND16), the coefficient of the highest power first.
const A = [
  2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
  13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608,
];
const B = [
  5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
  5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1,
];
const C = [
  7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
  3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734,
];
const D = [
  1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
  0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1,
];
const ATANH = [23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1].map((odd) => 1 / odd);

/** The inverse of the standard normal distribution function, for 0 < p < 1. */
export function normalQuantile(p) {
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    return (q * horner(A, r)) / horner(B, r);
  }
  const r = Math.sqrt(-ln(q < 0 ? p : 1 - p)) - 1.6;
  const x = horner(C, r) / horner(D, r);
  return q < 0 ? -x : x;
}

/** The natural logarithm. Math.log would not do: ECMAScript lets each engine approximate it. */
function ln(x) {
  let doublings = 0;
  for (; x < 0.7071067811865476; x *= 2) doublings += 1;
  const s = (x - 1) / (x + 1);
  return 2 * s * horner(ATANH, s * s) - doublings * 0.6931471805599453;
}

function horner(coefficients, x) {
  let total = coefficients[0];
  for (let index = 1; index < coefficients.length; index += 1) total = total * x + coefficients[index];
  return total;
}

// ------------------------------------------------------------------------------------------------ the container (section 1)

const NAME_PART = "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?";
const NAME = new RegExp(`^${NAME_PART}(?:/${NAME_PART})?$`);
const [LOCAL, CENTRAL, END] = [0x04034b50, 0x02014b50, 0x06054b50]; // the first four bytes of each header
const [CENTRAL_SIZE, END_SIZE] = [46, 22]; // bytes of a header without its name

function readArchive(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const end = bytes.length - END_SIZE;
  if (end < 0 || view.getUint32(0, true) !== LOCAL) refuse("not a bundle", "this file", "a ZIP file made by vae-export bundle");
  const [count, size, start] = [view.getUint16(end + 10, true), view.getUint32(end + 12, true), view.getUint32(end + 16, true)];
  if (view.getUint32(end, true) !== END || start + size !== end) refuse("bundle is cut off, or has bytes after its end");
  const [files, checksums, folded] = [new Map(), new Map(), new Set()];
  let [position, header] = [0, start];
  for (let number = 1; number <= count; number += 1) {
    if (header + CENTRAL_SIZE > end) refuse("bundle is cut off", `entry ${number}`);
    const entry = { crc: view.getUint32(header + 16, true), size: view.getUint32(header + 20, true), offset: position };
    const nameEnd = header + CENTRAL_SIZE + view.getUint16(header + 28, true);
    const name = ascii(bytes.subarray(header + CENTRAL_SIZE, Math.min(end, nameEnd)));
    if (!NAME.test(name)) refuse("file name is not allowed", JSON.stringify(name.slice(0, 120)));
    if (folded.has(name.toLowerCase())) refuse("two files have one name", name);
    folded.add(name.toLowerCase());
    const [central, local] = [centralHeader(name, entry), localHeader(name, entry)];
    const body = position + local.length;
    if (body + entry.size > start) refuse("file is not where it should be", name);
    if (!equal(bytes, header, central) || !equal(bytes, position, local)) refuse("header is not in the canonical form", name);
    files.set(name, bytes.subarray(body, body + entry.size));
    checksums.set(name, entry.crc);
    position = body + entry.size;
    header += central.length;
  }
  if (position !== start || header !== end || !equal(bytes, end, endRecord(count, size, start))) {
    refuse("bundle is not in the canonical form", "central directory");
  }
  return { files, checksums };
}

// A header has one canonical form: these functions build it, and the bytes of the file are compared with it.

function localHeader(name, { crc, size }) {
  return packed("4 2 2 2 2 2 4 4 4 2 2", [LOCAL, 20, 0, 0, 0, 0x21, crc, size, size, name.length, 0], name);
}

function centralHeader(name, { crc, size, offset }) {
  const sizes = [crc, size, size, name.length, 0, 0, 0, 0, 0x81a40000, offset];
  return packed("4 2 2 2 2 2 2 4 4 4 2 2 2 2 2 4 4", [CENTRAL, 0x0314, 20, 0, 0, 0, 0x21, ...sizes], name);
}

function endRecord(count, size, start) {
  return packed("4 2 2 2 2 4 4 2", [END, 0, 0, count, count, size, start, 0], "");
}

function packed(widths, values, name) {
  const bytes = [];
  widths.split(" ").forEach((width, field) => {
    for (let shift = 0; shift < 8 * width; shift += 8) bytes.push((values[field] >>> shift) & 0xff);
  });
  return Uint8Array.from([...bytes, ...[...name].map((letter) => letter.charCodeAt(0))]);
}

// --------------------------------------------------------------------------------------------- the contents (2 and 3)

/** Check that the owner of a key has signed the list of hashes; return the fingerprint of the key, or null without a key. */
async function checkSignature(sums, signature, verifyKey) {
  if (signature && signature.length !== SIGNATURE_SIZE) {
    refuse("signature cannot be read", SIGNATURE, `${SIGNATURE_SIZE} bytes`, signature.length);
  }
  if (verifyKey === null) return null;
  const base64 = /^\s*-----BEGIN PUBLIC KEY-----([\sA-Za-z0-9+/=]+)-----END PUBLIC KEY-----\s*$/.exec(verifyKey)?.[1];
  if (!base64) refuse("key cannot be read", "verifyKey", "an Ed25519 public key in PEM");
  const der = Uint8Array.from(atob(base64.replace(/\s/g, "")), (letter) => letter.charCodeAt(0));
  const key = await crypto.subtle.importKey("spki", der, "Ed25519", false, ["verify"]);
  const fingerprint = await digest(der);
  if (!signature) refuse("not signed", null, `a signature by the key ${fingerprint}`);
  if (!(await crypto.subtle.verify("Ed25519", key, signature, sums))) {
    refuse("signature is not valid", null, `a signature by the key ${fingerprint}`, "one by another key, or of other contents");
  }
  return fingerprint;
}

/** Check the hash of every file, and that the list of hashes is in its only valid spelling. */
async function checkSums(sums, files) {
  const names = [...files.keys()].slice(1).filter((name) => name !== SIGNATURE);
  const stated = new Map(sums.split("\n").slice(0, -1).map((line) => [line.slice(66), line.slice(0, 64)]));
  const hashes = new Map();
  for (const name of names) {
    const found = await digest(files.get(name));
    if (!stated.has(name)) refuse("extra file", name, "the files in SHA256SUMS");
    if (stated.get(name) !== found) refuse("file was altered", name, `SHA-256 ${stated.get(name)}`, found);
    hashes.set(name, found);
  }
  for (const name of stated.keys()) if (!hashes.has(name)) refuse("file is missing", name);
  const canonical = names.map((name) => `${hashes.get(name)}  ${name}\n`).join("");
  if (sums !== canonical) refuse("list of hashes is malformed", "SHA256SUMS");
  return hashes;
}

function readManifest(bytes) {
  const manifest = parseJson(bytes, "manifest.json", MANIFEST_LIMIT);
  const found = manifest?.format;
  if (![FORMAT, EXTENDED_FORMAT].includes(found)) {
    refuse("manifest of another version", "manifest.json", `${FORMAT} or ${EXTENDED_FORMAT}`, String(found));
  }
  const { contract, files, golden } = manifest;
  if (found === FORMAT) checkPlainContract(contract);
  else checkContract(contract);
  if (manifest.precision !== "float32") {
    refuse("inputs and outputs of another precision", "manifest.json", "float32", String(manifest.precision));
  }
  if (![files, golden].every((list) => Array.isArray(list) && list.length > 0)) {
    refuse("bundle has no model or no golden vectors", "manifest.json");
  }
  checkModels(manifest);
  checkTypes(manifest);
  checkGolden(manifest);
  return manifest;
}

/** Check a contract of version 1. */
function checkPlainContract(contract) {
  const range = contract?.image_range;
  if (!isShape(contract?.image_shape) || contract.image_shape.length !== 3 || !isShape(contract.latent_shape)) {
    refuse("shapes cannot be read", "manifest.json, contract");
  }
  if (!isRange(range) || range[0] === range[1]) refuse("range of pixels cannot be read", "manifest.json, contract");
  if (contract.prior !== NORMAL) refuse("prior is not known", "manifest.json, contract", NORMAL, String(contract.prior));
}

/** Check a contract of version 2. */
function checkContract(contract) {
  const { data, output, latents, conditions, encoding, prior, symbols } = contract ?? {};
  if (data === undefined) refuse("contract is not of this version of the format", "manifest.json", null, EXTENDED_FORMAT);
  const tensors = [data, ...(output ? [output] : []), ...latents, ...conditions];
  for (const { name, dtype, shape, range } of tensors) {
    if (typeof name !== "string" || !(dtype in ARRAYS)) refuse("tensor cannot be read", "manifest.json, contract", null, String(name));
    const isSize = (size) => isShape([size]) || (typeof size === "string" && parseSize(size).symbol in { N: 0, ...symbols });
    if (!Array.isArray(shape) || !shape.every(isSize)) refuse("shapes cannot be read", `manifest.json, contract, ${name}`);
    if (range !== null && !isRange(range)) refuse("range cannot be read", `manifest.json, contract, ${name}`);
  }
  const known = { encoding: ["gaussian", "deterministic", "codes"], prior: [NORMAL, UNIFORM, GIVEN] };
  for (const [key, values] of Object.entries(known)) {
    if (!values.includes(contract[key])) refuse(`${key} is not known`, "manifest.json, contract", values.join(" | "), String(contract[key]));
  }
  if (latents.length === 0 || (prior === UNIFORM && encoding !== "codes") || (prior === NORMAL && encoding === "codes")) {
    refuse("latents and prior do not fit", "manifest.json, contract", null, `${latents.length} latents, ${prior}`);
  }
  if (encoding === "codes" && !latents.every(({ dtype, range }) => dtype !== "float32" && range)) {
    refuse("codes have no range of integers", "manifest.json, contract");
  }
  for (const [name, { min, max }] of Object.entries(symbols)) {
    if (!isShape([min]) || (max !== null && !(isShape([max]) && max >= min))) refuse("bounds cannot be read", `manifest.json, contract, ${name}`);
  }
}

/** Check the types of what no engine needs and people are shown. */
function checkTypes({ versions, provenance, opset, files, contract: { likelihood } }) {
  const isTable = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const isLabel = (text) => typeof text === "string" && !/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u.test(text);
  if (![versions, provenance].every(isTable) || !Number.isSafeInteger(opset)) refuse("manifest cannot be read", "manifest.json");
  if (!Object.entries(versions).flat().every(isLabel)) refuse("text cannot be shown", "manifest.json, versions");
  for (const { name, format, size, precision = "", machine = "", beside } of files) {
    if (!Number.isSafeInteger(size)) refuse("size cannot be read", `manifest.json, ${name}`);
    if (![format, precision, machine].every(isLabel)) refuse("text cannot be shown", `manifest.json, ${name}`);
    if (beside !== undefined && !(Array.isArray(beside) && beside.length > 0)) refuse("sidecars cannot be read", `manifest.json, ${name}`);
  }
  if (likelihood == null) return;
  const isScale = (scale) => Number.isFinite(scale) && (likelihood.name === "gaussian-fixed" ? scale > 0 : scale === 1);
  const isKnown = ["bernoulli", "gaussian", "gaussian-fixed", "discretised-logistic"].includes(likelihood.name);
  const scale = likelihood.name === "gaussian-fixed" ? likelihood.scale : (likelihood.scale ?? 1);
  if (!isKnown || !isScale(scale)) refuse("likelihood cannot be read", "manifest.json, contract");
}

/** Check that the tensors of every model file follow from the contract, and that none is listed twice. */
function checkModels(manifest) {
  const [contract, { files }] = [contractOf(manifest), manifest];
  const [kinds, names] = [new Set(), new Set()];
  for (const file of files) {
    for (const { name } of [file, ...(file.beside ?? [])]) {
      if (typeof name !== "string" || !NAME.test(name)) refuse("file name is not allowed", JSON.stringify(name));
      if (names.has(name.toLowerCase())) refuse("two files have one name", name);
      names.add(name.toLowerCase());
    }
    const tensors = tensorsOf(file.part, contract) ?? refuse("part is not known", file.name, null, String(file.part));
    for (const kind of ["inputs", "outputs"]) {
      const [expected, got] = [describeTensors(tensors[kind]), describeTensors(file[kind])];
      if (expected !== got) refuse(`${kind} do not match the contract`, file.name, expected, got);
    }
    const kind = [file.part, file.format, precisionOf(file)].join();
    if (kinds.has(kind)) refuse("manifest lists a part twice in one format and precision", file.name);
    kinds.add(kind);
  }
}

function describeTensors(tensors) {
  return tensors.map(({ name, dtype, shape, range }) => `${name} ${dtype} [${shape}] in [${range}]`).join(", ");
}

/** Return the inputs and outputs that section 3 gives a part, or undefined if there is no such part. */
export function tensorsOf(part, contract) {
  const { data, latents, conditions, encoding, likelihood } = contract;
  const [output, [batch]] = [outputOf(contract), data.shape];
  const isAlone = latents.length === 1 && latents[0].name === (encoding === "codes" ? "codes" : "latent");
  const perLatent = (name) => latents.map((latent) => ({ ...latent, name: isAlone ? name : `${latent.name}_${name}` }));
  const [means, logvars, noise] = ["mean", "logvar", "noise"].map(perLatent);
  const isGaussian = encoding === "gaussian";
  const encoded = isGaussian ? means.flatMap((mean, index) => [mean, logvars[index]]) : latents;
  const suffix = { gaussian: "logvar", "discretised-logistic": "log_scale" }[likelihood?.name];
  const spread = (name) => (suffix ? [{ name: `${name}_${suffix}`, dtype: "float32", shape: output.shape, range: null }] : []);
  const given = (module) => conditions
    .filter(({ parts }) => module === "autoencoder" || parts.includes(module))
    .map((condition) => ({ ...condition, shape: [batch, ...condition.shape.slice(1)] }));
  const pixels = (shape) => ({
    inputs: [...latents, ...given("decoder")],
    outputs: [{ name: "pixels", dtype: "uint8", shape: [batch, ...shape], range: [0, 255] }],
  });
  const [channels, ...sizes] = output.shape.slice(1);
  return new Map([
    ["encoder", { inputs: [data, ...given("encoder")], outputs: encoded }],
    ["decoder", { inputs: [...latents, ...given("decoder")], outputs: [output, ...spread(output.name)] }],
    ["autoencoder", {
      inputs: [data, ...(isGaussian ? noise : []), ...given("autoencoder")],
      outputs: [{ ...output, name: "reconstruction" }, ...encoded, ...(isGaussian ? latents : []), ...spread("reconstruction")],
    }],
    ["decoder-uint8-hwc", pixels([...sizes, channels])],
    ["decoder-uint8-chw", pixels([channels, ...sizes])],
  ]).get(part);
}

/** Check that there are golden vectors for each part that gives float32, with the tensors of that part. */
function checkGolden(manifest) {
  const [contract, { files, golden }] = [contractOf(manifest), manifest];
  const parts = new Set(files.map(({ part }) => (FLOAT_PARTS.includes(part) ? part : "decoder")));
  const found = golden.map(({ part }) => part);
  if ([...parts].sort().join() !== found.sort().join()) {
    refuse("golden vectors do not match the files", "manifest.json", [...parts], found);
  }
  const { low, high } = batchBounds(contract);
  const [fewest, most] = [Math.max(low, Math.min(2, high)), Math.max(16, low)];
  for (const part of golden) {
    const [{ inputs, outputs }, values] = [tensorsOf(part.part, contract), {}];
    const rows = part.inputs[0].shape[0];
    for (const [items, tensors] of [[part.inputs, inputs], [part.outputs, outputs]]) {
      for (const { shape, file } of items) {
        if (!isShape(shape)) refuse("shape cannot be read", String(file));
        if (shape[0] < fewest || shape[0] > most) refuse("wrong number of rows", String(file), `${fewest} to ${most}`, shape[0]);
        if (!NAME.test(file) || !file.startsWith("golden/")) refuse("golden vector is not in golden/", String(file));
      }
      const isRight = items.length === tensors.length && items.every((item, index) => {
        const tensor = tensors[index];
        const [isSame, [count, ...sizes]] = [item.tensor === tensor.name && dtypeOf(item) === tensor.dtype, item.shape];
        return isSame && count === rows && fits(sizes, tensor, values);
      });
      if (!isRight) {
        const expected = tensors.map(({ name, shape }) => [name, rows, ...shape.slice(1)]).join(" | ");
        const got = items.map(({ tensor, shape }) => [tensor, ...shape]).join(" | ");
        refuse("golden vectors do not match the contract", part.part, expected, got);
      }
    }
    for (const { band, bands, dtype, file } of part.outputs) {
      const isRight = (value) => (dtype ? Number.isSafeInteger(value) && value >= 0 : Number.isFinite(value) && value > 0);
      if (![band, ...Object.values(bands ?? {})].every(isRight)) refuse("tolerance cannot be read", file);
    }
  }
}

/** Check that the archive holds exactly the files of section 2, in that order. */
function checkEntries(manifest, names) {
  const models = namedFiles(manifest).map((item) => item.name);
  const wanted = ["SHA256SUMS", SIGNATURE, "manifest.json", ...models, "certificate.json", "certificate.html", "MODEL_CARD.md", "LICENSE"];
  for (const name of names) if (!wanted.includes(name)) refuse("extra file", name, "the files that manifest.json names");
  const optional = [SIGNATURE, "certificate.html"];
  for (const name of wanted) if (!names.includes(name) && !optional.includes(name)) refuse("file is missing", name);
  const ordered = wanted.filter((name) => names.includes(name));
  const place = ordered.findIndex((name, index) => name !== names[index]);
  if (place >= 0) refuse("files are out of order", null, ordered[place], names[place]);
}

/** Return every file that the manifest names, each once, as {name, sha256, size}: model files, then golden arrays. */
function namedFiles(manifest) {
  const arrays = manifest.golden.flatMap((part) => [...part.inputs, ...part.outputs]).map((item) => {
    return { name: item.file, sha256: item.sha256, size: ARRAYS[dtypeOf(item)].BYTES_PER_ELEMENT * item.shape.reduce((a, b) => a * b) };
  });
  const items = [...modelFiles(manifest), ...arrays];
  return items.filter((item, index) => items.findIndex((other) => other.name === item.name) === index);
}

/** Return every model file, each followed by the files that must lie beside it. */
function modelFiles(manifest) {
  return manifest.files.flatMap((entry) => [entry, ...(entry.beside ?? [])]);
}

function readCertificate(bytes, manifest) {
  const certificate = parseJson(bytes, "certificate.json", CERTIFICATE_LIMIT);
  if (!CERTIFICATE_FORMATS.includes(certificate?.format)) {
    refuse("certificate of another version", "certificate.json", CERTIFICATE_FORMATS.join(" | "), String(certificate?.format));
  }
  if (certificate.verdict !== "pass") refuse("certificate did not pass", "certificate.json", "pass", String(certificate.verdict));
  for (const entry of modelFiles(manifest)) {
    const found = certificate.files?.[entry.name];
    if (found !== entry.sha256) refuse("certificate belongs to another file", `certificate.json, ${entry.name}`, entry.sha256, String(found));
  }
  const { planned_rows: planned, failed_rows: failed, rows, findings = [] } = certificate;
  if (![rows, findings].every(Array.isArray)) refuse("certificate cannot be read", "certificate.json", "rows and findings");
  const isComplete = rows.length > 0 && planned === rows.length && failed === 0;
  if (!isComplete || !rows.every(isWithin) || findings.some(({ severity }) => severity === "error")) {
    refuse("certificate contradicts itself", "certificate.json", "as many rows as planned, all passed, and no error");
  }
  return certificate;
}

/** Return whether a row of a certificate has passed, and has the figures of one that did. */
function isWithin({ passed, fault, outside, grey, error, band, mean_error: meanError, mean_band: meanBand }) {
  const pairs = meanError === undefined && meanBand === undefined ? [[error, band]] : [[error, band], [meanError, meanBand]];
  const figures = pairs.every(([found, allowed]) => [found, allowed].every(Number.isFinite) && found <= allowed);
  return passed === true && figures && fault == null && !outside && !grey?.unexplained;
}

/** Return a text for people, which is UTF-8 and short. */
function readText(bytes, name) {
  if (bytes.length > TEXT_LIMIT) refuse("text is too long", name, `${TEXT_LIMIT} bytes at most`, bytes.length);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return refuse("not a text", name, "UTF-8");
  }
}

/**
 * Parse JSON. Unlike JSON.parse, refuse what two parsers could read differently: a key that occurs twice, a number that
 * overflows, half a character, and deep nesting.
 */
function parseJson(bytes, name, limit) {
  if (bytes.length > limit) refuse("file is too large", name, `${limit} bytes at most`, bytes.length);
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    const open = []; // the keys seen so far in each object that is still open, and null for each list
    let values = 0;
    for (const [token, key] of text.matchAll(/[{}[\],]|("(?:[^"\\]|\\.)*")(?=\s*:)|"(?:[^"\\]|\\.)*"/g)) {
      if (token === "{" || token === "[") open.push(token === "{" ? new Set() : null);
      else if (token === "}" || token === "]") open.pop();
      else if (key) {
        const keys = open.at(-1);
        if (keys.has(JSON.parse(key))) throw new Error(`duplicate key ${key}`);
        keys.add(JSON.parse(key));
      }
      if ("{[,".includes(token)) values += 1;
      if (open.length > DEPTH_LIMIT) throw new Error(`more than ${DEPTH_LIMIT} levels`);
      if (values > VALUES_LIMIT) throw new Error(`more than ${VALUES_LIMIT} values`);
    }
    return JSON.parse(text, (key, value) => {
      if (typeof value === "number" && !Number.isFinite(value)) throw new Error("number is too large");
      for (const part of [key, value]) {
        if (typeof part === "string" && /\p{Surrogate}/u.test(part)) throw new Error("half a character");
      }
      return value;
    });
  } catch (error) {
    return refuse("JSON cannot be read", name, null, error.message);
  }
}

const isShape = (shape) => Array.isArray(shape) && shape.length > 0 && shape.every((size) => Number.isSafeInteger(size) && size > 0);
const isRange = (range) => Array.isArray(range) && range.length === 2 && range.every(Number.isFinite) && range[0] <= range[1];
const dtypeOf = (item) => item.dtype ?? "float32";
const precisionOf = (file) => file.precision ?? "fp32";
const ascii = (bytes) => Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
const hex = (number) => number.toString(16).padStart(8, "0");
const equal = (bytes, start, expected) => expected.every((byte, index) => bytes[start + index] === byte);

async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = ~0;
  for (let index = 0; index < bytes.length; index += 1) value = CRC_TABLE[(value ^ bytes[index]) & 0xff] ^ (value >>> 8);
  return ~value >>> 0;
}

function refuse(what, where, expected, got) {
  const details = [...(expected ? [`expected ${expected}`] : []), ...(got === undefined ? [] : [`got ${got}`])].join(", ");
  throw new BundleError((where ? `${what}: ${where}` : what) + (details && `; ${details}`));
}
