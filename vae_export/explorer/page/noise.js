// Random latents that are the same bits in every language: docs/bundle-format.md, section 6, is the specification.
//
// Philox 4x32-10 gives 32-bit words from a counter; Wichura's AS 241 makes them normal, with a logarithm of its own, since
// ECMAScript promises no more of Math.log than an approximation. +, -, ×, / and Math.sqrt are rounded alike everywhere.

const WORD = 2 ** 32;
// AS 241 (PPND16), the coefficient of the highest power first.
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

/**
 * Standard normal latents.
 *
 * @param {number} n rows
 * @param {number} size values in one row
 * @param {bigint} seed 0n to 2n ** 64n - 1n
 * @param {number} start rows of the same noise that come before the first one
 * @returns {Float32Array} n · size numbers, row-major
 */
export function sample(n, size, seed, start = 0) {
  checkSeed(seed);
  const first = start * size;
  const count = n * size;
  if (![n, size, start, first + count].every((number) => Number.isSafeInteger(number) && number >= 0)) {
    throw new RangeError(`bad number of rows: ${n} after ${start}`);
  }
  const key = [Number(seed & 0xffffffffn), Number(seed >> 32n)];
  const numbers = new Float32Array(count);
  let words = null;
  for (let index = 0; index < count; index += 1) {
    const word = (first + index) % 4;
    if (words === null || word === 0) {
      const block = Math.floor((first + index) / 4);
      words = philox([block % WORD, Math.floor(block / WORD), 0, 0], key);
    }
    numbers[index] = normal(words[word]);
  }
  return numbers;
}

/** Throws RangeError unless `seed` is a BigInt from 0 to 2^64 - 1. */
export function checkSeed(seed) {
  if (typeof seed !== "bigint" || seed < 0n || seed >= 1n << 64n) {
    throw new RangeError("bad seed; expected an integer from 0 to 18446744073709551615");
  }
}

/** Philox 4x32-10 of one counter of four words under a key of two → four words. */
export function philox(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round += 1) {
    const odd = high(0xcd9e8d57, c2) ^ c1 ^ k0;
    const even = high(0xd2511f53, c0) ^ c3 ^ k1;
    c1 = Math.imul(0xcd9e8d57, c2);
    c3 = Math.imul(0xd2511f53, c0);
    c0 = odd;
    c2 = even;
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
}

/** The upper 32 bits of a product of two 32-bit words, by halves: a float64 holds 53 bits only. */
function high(a, b) {
  const [a1, a0, b1, b0] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff];
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const other = a0 * b1 + (middle & 0xffff);
  return a1 * b1 + (middle >>> 16) + (other >>> 16);
}

/** A 32-bit word → a standard normal number, as float32. */
export function normal(word) {
  return Math.fround(quantile((word + 0.5) / 4294967296));
}

/** Where the standard normal distribution function is p, 0 < p < 1. */
export function quantile(p) {
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    return (q * horner(A, r)) / horner(B, r);
  }
  const r = Math.sqrt(-ln(q < 0 ? p : 1 - p)) - 1.6;
  const x = horner(C, r) / horner(D, r);
  return q < 0 ? -x : x;
}

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
