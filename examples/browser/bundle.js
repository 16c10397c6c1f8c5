// Reads a vae-export bundle, draws its random latents and judges what an engine computes.
// No dependencies; the same file runs in browsers, workers and Node. Sections are those of docs/bundle-format.md.

// What this reader knows; what a newer bundle has besides is left alone (section 3).
const PARTS = ["encoder", "decoder", "autoencoder"];
// In the order of the specification: of a part's files, the first one is taken.
const PRECISIONS = ["fp32", "fp16", "bf16", "int8", "int8-static", "int4-weights"];

const precisionOf = (file) => file.precision ?? "fp32";

// ---------------------------------------------------------------------------------------- the container (1, 2)

/**
 * Opens a bundle: every file is held against its SHA-256 before any of it is used.
 *
 * @param {Uint8Array} bytes of the ZIP file.
 * @returns {Promise<Bundle>}
 * @throws {Error} naming the file that is not the one that was packed.
 */
export async function readBundle(bytes) {
  const files = unzip(bytes);
  const sums = files.get("SHA256SUMS");
  if (!sums) throw new Error("not a bundle: it has no SHA256SUMS");
  files.delete("SHA256SUMS");
  const stated = new Map(text(sums).split("\n").slice(0, -1).map((line) => [line.slice(66), line.slice(0, 64)]));
  for (const name of stated.keys()) if (!files.has(name)) throw new Error(`file is missing: ${name}`);
  for (const [name, data] of files) {
    const found = await sha256(data);
    if (found !== stated.get(name)) {
      throw new Error(`file was altered: ${name}; expected SHA-256 ${stated.get(name)}, got ${found}`);
    }
  }
  const manifest = JSON.parse(text(files.get("manifest.json") ?? new Uint8Array()));
  if (manifest.format !== "vae-export/1") throw new Error(`bundle of another version: ${manifest.format}`);
  return new Bundle(manifest, files, stated, await sha256(sums));
}

class Bundle {
  #files;
  #stated;

  constructor(manifest, files, stated, identity) {
    /** manifest.json, as section 3 describes it. */
    this.manifest = manifest;
    /** SHA-256 of the list of hashes: equal contents, and only they, have the same. */
    this.identity = identity;
    this.#files = files;
    this.#stated = stated;
  }

  /** The bytes of the part's model file, as an engine wants them. */
  model(part, format = "onnx") {
    return this.#checked(this.entry(part, format), "name");
  }

  /** What manifest.json says of the part's model file, that in float32 if there is one: its inputs and outputs among it. */
  find(part, format = "onnx") {
    const files = this.manifest.files.filter((file) => file.part === part && file.format === format);
    const found = PRECISIONS.map((precision) => files.find((file) => precisionOf(file) === precision));
    return found.find((file) => file !== undefined);
  }

  /** `find`, where there must be one. */
  entry(part, format = "onnx") {
    const entry = this.find(part, format);
    if (!entry) throw new Error(`bundle has no ${part} as ${format}`);
    return entry;
  }

  /** The golden vectors of the parts that are known. */
  get vectors() {
    return this.manifest.golden.filter((golden) => PARTS.includes(golden.part));
  }

  /** The numbers of a golden array: {data, dims}. Typed arrays are little-endian wherever JavaScript runs today. */
  golden(array) {
    return { data: new Float32Array(new Uint8Array(this.#checked(array, "file")).buffer), dims: array.shape };
  }

  #checked(item, key) {
    const name = item[key];
    if (item.sha256 !== this.#stated.get(name)) throw new Error(`manifest.json has another hash of ${name}`);
    return this.#files.get(name);
  }
}

/** The entries of a ZIP file without compression: name → bytes. */
function unzip(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.length - 22;
  if (end < 0 || view.getUint32(end, true) !== 0x06054b50) throw new Error("no bundle, or cut off");
  const files = new Map();
  let central = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (central + 46 > end || view.getUint32(central, true) !== 0x02014b50) throw new Error("bundle is out of form");
    if (view.getUint16(central + 10, true) !== 0) throw new Error("bundle is compressed: that is no form of it");
    const size = view.getUint32(central + 24, true);
    const nameLength = view.getUint16(central + 28, true);
    const name = text(bytes.subarray(central + 46, central + 46 + nameLength));
    const start = view.getUint32(central + 42, true) + 30 + nameLength;
    if (start + size > end) throw new Error(`bundle is cut off in ${name}`);
    if (files.has(name)) throw new Error(`file is twice in the bundle: ${name}`);
    files.set(name, bytes.subarray(start, start + size));
    central += 46 + nameLength;
  }
  return files;
}

async function sha256(bytes) {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) throw new Error("no SHA-256 here: browsers offer it on https:// and on localhost only");
  const digest = new Uint8Array(await subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function text(bytes) {
  return new TextDecoder().decode(bytes);
}

// ------------------------------------------------------------------------------------------------ the noise (6)

/**
 * Latents drawn from N(0, I): the same bits for a seed in every language.
 *
 * @param {number} n how many latents.
 * @param {number} size numbers in one latent.
 * @param {number | bigint} seed 0 to 2^64 - 1; beyond 2^53 - 1 as a BigInt.
 * @param {number} start how many latents of the same seed come before the first one.
 * @returns {Float32Array} n · size numbers.
 */
export function sample(n, size, seed = 0, start = 0) {
  if (typeof seed === "number" && !Number.isSafeInteger(seed)) throw new RangeError(`bad seed: ${seed}; use a BigInt`);
  const wide = BigInt(seed);
  if (wide < 0n || wide >= 1n << 64n) throw new RangeError(`bad seed: ${seed}; expected 0 to 2^64 - 1`);
  const key = [Number(wide & 0xffffffffn), Number(wide >> 32n)];
  const numbers = new Float32Array(n * size);
  let block = -1;
  let words;
  for (let i = 0; i < numbers.length; i++) {
    const index = start * size + i;
    if (Math.floor(index / 4) !== block) {
      block = Math.floor(index / 4);
      words = philox([block >>> 0, Math.floor(block / 4294967296), 0, 0], key);
    }
    numbers[i] = normal(words[index % 4]);
  }
  return numbers;
}

/** Philox 4x32-10: four 32-bit words of a counter of four and a key of two. */
export function philox(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    [c0, c1, c2, c3] = [
      (high(0xcd9e8d57, c2) ^ c1 ^ k0) >>> 0,
      Math.imul(0xcd9e8d57, c2) >>> 0,
      (high(0xd2511f53, c0) ^ c3 ^ k1) >>> 0,
      Math.imul(0xd2511f53, c0) >>> 0,
    ];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** The upper half of the 64-bit product of two 32-bit numbers, in pieces that a float64 holds exactly. */
function high(a, b) {
  const [a0, a1, b0, b1] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const other = a0 * b1 + (middle & 0xffff);
  return a1 * b1 + (middle >>> 16) + (other >>> 16);
}

// Wichura's AS 241, the coefficient of the highest power first.
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

/** A 32-bit word → a standard normal number, as a float32. */
export function normal(word) {
  const p = (word + 0.5) / 4294967296;
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    return Math.fround((q * horner(A, r)) / horner(B, r));
  }
  const r = Math.sqrt(-ln(q < 0 ? p : 1 - p)) - 1.6;
  const x = horner(C, r) / horner(D, r);
  return Math.fround(q < 0 ? -x : x);
}

/** Of its own, since no two engines' Math.log agree in the last bit. */
function ln(x) {
  let k = 0;
  for (; x < 0.7071067811865476; k++) x *= 2;
  const s = (x - 1) / (x + 1);
  const z = s * s;
  let t = 1 / 23;
  for (let m = 21; m > 0; m -= 2) t = t * z + 1 / m;
  return 2 * s * t - k * 0.6931471805599453;
}

function horner(coefficients, r) {
  return coefficients.reduce((t, k) => t * r + k);
}

// ------------------------------------------------------------------------------------- images and the self-test (4, 5)

/** The byte to show for a pixel in [low, high]. */
export function level(pixel, [low, high]) {
  return Math.min(Math.max(Math.floor(((pixel - low) / (high - low)) * 255 + 0.5), 0), 255);
}

/**
 * Does this engine, on this machine, compute the right pixels?
 *
 * @param {Bundle} bundle
 * @param {(part: string, inputs: Object) => Promise<Object>} run the part: inputs and outputs by name, {data, dims}.
 * @returns {Promise<{passed: boolean, rows: Object[]}>} a row for each output of each part that is there as ONNX:
 *   part, output, error, band (the largest error that is allowed), pixels (null for what is no image) and passed.
 */
export async function selfTest(bundle, run) {
  const rows = [];
  for (const golden of bundle.vectors) {
    const entry = bundle.find(golden.part);
    if (!entry) continue;
    const inputs = Object.fromEntries(golden.inputs.map((array) => [array.tensor, bundle.golden(array)]));
    const outputs = await run(golden.part, inputs);
    for (const expected of golden.outputs) {
      const { range } = entry.outputs.find((output) => output.name === expected.tensor);
      const band = allowed(expected, precisionOf(entry));
      const verdict = judge(outputs[expected.tensor], bundle.golden(expected), band, range);
      rows.push({ part: golden.part, output: expected.tensor, ...verdict });
    }
  }
  return { passed: rows.length > 0 && rows.every((row) => row.passed), rows };
}

/** The largest error of a golden output that a file of this precision may have; none where nothing is said of it. */
function allowed(output, precision) {
  return precision === "fp32" ? output.band : (output.bands?.[precision] ?? 0);
}

/** Holds what an engine computed against what it should have, both {data, dims}. */
function judge(got, exact, band, range) {
  if (String(got?.dims) !== String(exact.dims)) throw new Error(`wrong shape: ${got?.dims}; expected ${exact.dims}`);
  let error = 0;
  const pixels = range ? { differing: 0, unexplained: 0 } : null;
  exact.data.forEach((e, i) => {
    const g = got.data[i];
    error = Math.max(error, Number.isFinite(g) ? Math.abs(g - e) : Infinity);
    if (!pixels) return;
    const seen = level(g, range);
    if (seen !== level(e, range)) pixels.differing++;
    // A pixel on the boundary between two levels may fall on either side. NaN falls nowhere.
    if (!(seen >= level(e - band, range) && seen <= level(e + band, range))) pixels.unexplained++;
  });
  return { error, band, pixels, passed: error <= band && !pixels?.unexplained };
}

/** One row of a self-test, and the test of the noise, as a line for people. */
export function line({ part, output, error, band, pixels }) {
  const grey = pixels ? `, ${pixels.differing} pixels differ, ${pixels.unexplained} unexplained` : "";
  return `${part} ${output}: worst error ${error.toExponential(2)}, ${band.toExponential(2)} allowed${grey}`;
}

/** How many of the golden latents `sample` gives bit for bit, and of how many: rows 2 and up are `sample(n - 2)`. */
export function checkNoise(bundle) {
  const array = bundle.vectors.flatMap((part) => part.inputs).find((input) => input.tensor === "latent");
  if (!array) return { same: 0, of: 0 };
  const { data, dims } = bundle.golden(array);
  const size = data.length / dims[0];
  const [drawn, wanted] = [sample(dims[0] - 2, size), data.subarray(2 * size)];
  const rows = Array.from({ length: dims[0] - 2 }, (_, row) => row);
  const same = rows.filter((row) => {
    for (let i = row * size; i < (row + 1) * size; i++) if (!Object.is(drawn[i], wanted[i])) return false;
    return true;
  });
  return { same: same.length, of: rows.length };
}
