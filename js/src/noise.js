// The same noise in every language (section 6).

import { GIVEN, NORMAL, UNIFORM, sizesAt } from "./contract.js";
import { refuse } from "./errors.js";

/** @typedef {import("./bundle.js").Tensor} Tensor */
/** @typedef {import("./contract.js").Contract} Contract */

const CHUNK = 1 << 12; // words at a time

/**
 * Draw latents from N(0, I). A seed gives the same bits in every language.
 *
 * @param {number} n how many latents
 * @param {number} size numbers in one latent
 * @param {number | bigint} [seed] 0 to 2^64 - 1; a BigInt above 2^53 - 1
 * @param {number} [start] how many latents of this seed to skip
 * @returns {Float32Array} n · size numbers, row-major
 */
export function sample(n, size, seed = 0, start = 0) {
  const [first, count] = checkRows(n, size, start);
  const numbers = new Float32Array(count);
  forEachChunk(first, count, seed, (words, begin) => writeNormals(words, numbers.subarray(begin, begin + words.length)));
  return numbers;
}

/**
 * Write the normal number of each word. A function of its own, because engines compile a loop over few arrays best.
 *
 * @param {Uint32Array} words
 * @param {Float32Array} numbers
 */
function writeNormals(words, numbers) {
  for (let index = 0; index < words.length; index += 1) numbers[index] = normalQuantile((words[index] + 0.5) / 4294967296);
}

/**
 * Draw codes from 0 to count - 1, each equally likely. A seed gives the same codes in every language.
 *
 * @param {number} n how many rows
 * @param {number} size codes in one row
 * @param {number} count how many different codes there are, 1 to 2^32
 * @param {number | bigint} [seed] 0 to 2^64 - 1
 * @param {number} [start] how many rows of this seed to skip
 * @returns {Float64Array} n · size whole numbers, row-major
 */
export function sampleCodes(n, size, count, seed = 0, start = 0) {
  if (!Number.isSafeInteger(count) || count < 1 || count > 2 ** 32) throw new RangeError(`bad number of codes: ${count}; expected 1 to 2^32`);
  const [first, total] = checkRows(n, size, start);
  const codes = new Float64Array(total);
  const [upper, lower] = [Math.floor(count / 65536), count % 65536];
  forEachChunk(first, total, seed, (words, begin) => {
    for (let index = 0; index < words.length; index += 1) {
      // floor(word · count / 2^32) with a product of 64 bits, in two parts that a float64 holds exactly.
      codes[begin + index] = Math.floor((words[index] * upper + Math.floor((words[index] * lower) / 65536)) / 65536);
    }
  });
  return codes;
}

/**
 * Draw latents or codes from the prior of a contract.
 *
 * @param {Contract} contract
 * @param {number} n how many rows
 * @param {number | bigint} [seed] 0 to 2^64 - 1
 * @param {number} [start] how many rows of this seed to skip
 * @param {Record<string, number>} [sizes] values of the contract's symbols; others have their usual value
 * @returns {Record<string, Tensor>} latents or codes by name
 * @throws {BundleError} if the contract does not know the prior
 */
export function samplePrior(contract, n, seed = 0, start = 0, sizes = {}) {
  if (contract.prior === GIVEN) refuse("prior is not in the bundle", null, `${NORMAL} or ${UNIFORM}`, GIVEN);
  const items = contract.latents.map((latent) => sizesAt(latent, contract, sizes));
  const lengths = items.map((item) => item.reduce((a, b) => a * b, 1));
  const width = lengths.reduce((a, b) => a + b, 0);
  const highest = contract.latents[0].range?.[1] ?? 0;
  const rows = contract.encoding === "codes" ? sampleCodes(n, width, highest + 1, seed, start) : sample(n, width, seed, start);
  let first = 0;
  return Object.fromEntries(contract.latents.map(({ name, dtype }, index) => {
    const [offset, length] = [first, lengths[index]];
    first += length;
    const numbers = length === width ? rows : new (rows instanceof Float32Array ? Float32Array : Float64Array)(n * length);
    for (let row = 0; row < n && length !== width; row += 1) {
      numbers.set(rows.subarray(row * width + offset, row * width + offset + length), row * length);
    }
    return [name, makeTensor(dtype, numbers, [n, ...items[index]])];
  }));
}

/**
 * Return numbers as a tensor, in an array of its type.
 *
 * @param {import("./contract.js").Dtype} dtype
 * @param {ArrayLike<number>} numbers
 * @param {number[]} dims
 * @returns {Tensor}
 */
export function makeTensor(dtype, numbers, dims) {
  if (dtype === "int64") return { data: BigInt64Array.from(Array.from(numbers), BigInt), dims, dtype };
  if (dtype === "int32") return { data: Int32Array.from(numbers), dims, dtype };
  return { data: numbers instanceof Float32Array ? numbers : Float32Array.from(numbers), dims, dtype };
}

/**
 * @param {number} n
 * @param {number} size
 * @param {number} start
 */
function checkRows(n, size, start) {
  const [first, count] = [start * size, n * size];
  if (![n, size, start, first + count].every((number) => Number.isSafeInteger(number) && number >= 0)) {
    throw new RangeError(`bad number of latents: ${n} after ${start}`);
  }
  return [first, count];
}

/**
 * Return a seed as a BigInt. Throws RangeError unless it is a whole number from 0 to 2^64 - 1.
 *
 * @param {number | bigint} seed
 */
export function checkSeed(seed) {
  const exact = typeof seed === "bigint" || Number.isSafeInteger(seed);
  if (!exact || seed < 0 || seed >= 1n << 64n) {
    throw new RangeError(`bad seed: ${seed}; expected 0 to 2^64 - 1, as a BigInt above 2^53 - 1`);
  }
  return BigInt(seed);
}

/**
 * Pass the words of a seed to `use`, a chunk at a time.
 *
 * @param {number} first
 * @param {number} count
 * @param {number | bigint} seed
 * @param {(words: Uint32Array, begin: number) => void} use gets the words, and the place of the first of them
 */
function forEachChunk(first, count, seed, use) {
  const wide = checkSeed(seed);
  const [low, high] = [Number(wide & 0xffffffffn), Number(wide >> 32n)];
  const words = new Uint32Array(CHUNK + 4);
  for (let begin = 0; begin < count; begin += CHUNK) {
    const length = Math.min(CHUNK, count - begin);
    const block = Math.floor((first + begin) / 4);
    const skipped = first + begin - 4 * block;
    fillBlocks(words, block, Math.ceil((skipped + length) / 4), low, high);
    use(words.subarray(skipped, skipped + length), begin);
  }
}

/**
 * Write the words of `count` blocks from `block` on.
 *
 * @param {Uint32Array} words
 * @param {number} block
 * @param {number} count
 * @param {number} keyLow
 * @param {number} keyHigh
 */
function fillBlocks(words, block, count, keyLow, keyHigh) {
  for (let index = 0; index < count; index += 1) {
    const number = block + index;
    encrypt(words, 4 * index, number % 4294967296, Math.floor(number / 4294967296), 0, 0, keyLow, keyHigh);
  }
}

/**
 * Philox 4x32-10: encrypt a counter of four 32-bit words under a key of two (Salmon et al., SC'11).
 *
 * @param {ArrayLike<number>} counter
 * @param {ArrayLike<number>} key
 */
export function philox(counter, key) {
  const words = new Uint32Array(4);
  encrypt(words, 0, counter[0], counter[1], counter[2], counter[3], key[0], key[1]);
  return [...words];
}

/**
 * Write the four words of a counter (c0, c1, c2, c3) under a key (k0, k1).
 *
 * @param {Uint32Array} words
 * @param {number} at
 * @param {number} c0
 * @param {number} c1
 * @param {number} c2
 * @param {number} c3
 * @param {number} k0
 * @param {number} k1
 */
function encrypt(words, at, c0, c1, c2, c3, k0, k1) {
  for (let round = 0; round < 10; round += 1) {
    const low0 = Math.imul(0xd2511f53, c0) >>> 0;
    const low1 = Math.imul(0xcd9e8d57, c2) >>> 0;
    // A float64 has the product to within 2^10, and so its upper half exactly, once it is rounded.
    const high0 = ((0xd2511f53 * c0 - low0) / 4294967296 + 0.5) >>> 0;
    const high1 = ((0xcd9e8d57 * c2 - low1) / 4294967296 + 0.5) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  words[at] = c0;
  words[at + 1] = c1;
  words[at + 2] = c2;
  words[at + 3] = c3;
}

/**
 * Turn a 32-bit word into a standard normal number, as float32.
 *
 * @param {number} word
 */
export function normal(word) {
  return Math.fround(normalQuantile((word + 0.5) / 4294967296));
}

/**
 * The inverse of the standard normal distribution function, for 0 < p < 1: Wichura's AS 241 (PPND16).
 *
 * @param {number} p
 */
export function normalQuantile(p) {
  const q = p - 0.5;
  return Math.abs(q) <= 0.425 ? centralQuantile(q) : tailQuantile(p, q);
}

// Two functions, so that each is small enough for an engine to compile it into the loop.

/** @param {number} q */
function centralQuantile(q) {
  const r = 0.180625 - q * q;
  const above = ((((((2509.0809287301226727 * r + 33430.575583588128105) * r + 67265.770927008700853) * r
    + 45921.953931549871457) * r + 13731.693765509461125) * r + 1971.5909503065514427) * r + 133.14166789178437745) * r + 3.387132872796366608;
  const below = ((((((5226.495278852854561 * r + 28729.085735721942674) * r + 39307.89580009271061) * r
    + 21213.794301586595867) * r + 5394.1960214247511077) * r + 687.1870074920579083) * r + 42.313330701600911252) * r + 1;
  return (q * above) / below;
}

/**
 * @param {number} p
 * @param {number} q
 */
function tailQuantile(p, q) {
  const r = Math.sqrt(-ln(q < 0 ? p : 1 - p)) - 1.6;
  const above = ((((((7.7454501427834140764e-4 * r + 0.0227238449892691845833) * r + 0.24178072517745061177) * r
    + 1.27045825245236838258) * r + 3.64784832476320460504) * r + 5.7694972214606914055) * r + 4.6303378461565452959) * r + 1.42343711074968357734;
  const below = ((((((1.05075007164441684324e-9 * r + 5.475938084995344946e-4) * r + 0.0151986665636164571966) * r
    + 0.14810397642748007459) * r + 0.68976733498510000455) * r + 1.6763848301838038494) * r + 2.05319162663775882187) * r + 1;
  const x = above / below;
  return q < 0 ? -x : x;
}

const ATANH = Float64Array.from([23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1], (odd) => 1 / odd);

/**
 * The natural logarithm. Math.log would not do: ECMAScript lets each engine approximate it.
 *
 * @param {number} x
 */
function ln(x) {
  let doublings = 0;
  for (; x < 0.7071067811865476; x *= 2) doublings += 1;
  const s = (x - 1) / (x + 1);
  const z = s * s;
  let total = ATANH[0];
  for (let index = 1; index < ATANH.length; index += 1) total = total * z + ATANH[index];
  return 2 * s * total - doublings * 0.6931471805599453;
}
