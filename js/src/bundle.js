// Opens a bundle and checks every byte of it before any is used (sections 1 to 3, and the golden numbers of section 5).

import { ascii, crc32, readArchive } from "./archive.js";
import { fits, isTable, tensorsOf } from "./contract.js";
import { BundleError, refuse } from "./errors.js";
import { ARRAYS, modelFiles, namedFiles, readManifest } from "./manifest.js";
import { dumpSpelled, isWhole, parseJson, parseSpelled } from "./strict-json.js";

/** @typedef {import("./contract.js").Contract} Contract */
/** @typedef {import("./contract.js").Dtype} Dtype */
/** @typedef {import("./contract.js").TensorSpec} TensorSpec */
/** @typedef {import("./manifest.js").GoldenArray} GoldenArray */
/** @typedef {import("./manifest.js").Manifest} Manifest */

/**
 * An array of numbers with its shape. The elements of int64 are BigInts.
 *
 * @typedef {{data: Float32Array | Int32Array | BigInt64Array | Uint8Array, dims: number[], dtype: Dtype}} Tensor
 */

/**
 * An opened bundle, of which every byte was checked.
 *
 * @typedef {object} Bundle
 * @property {string} identity SHA-256 of the list of hashes, which only bundles with equal contents share
 * @property {string | null} signedBy fingerprint of the key with which the signature was checked; null if no key was given
 * @property {Manifest} manifest
 * @property {Contract} contract shapes and ranges, in the form of version 2 of the format
 * @property {any} certificate
 * @property {string} card the model card
 * @property {Map<string, Uint8Array>} files every entry by name, as views of the bundle's bytes
 */

const CERTIFICATE_FORMATS = ["vae-export-certificate/1", "vae-export-certificate/2"];
const PROOFS = ["reproduced", "same structure"];
const [TEXT_LIMIT, CERTIFICATE_LIMIT] = [1 << 20, 64 << 20]; // bytes
const SUMS_LINE = 64 + 2 + 201 + 1; // bytes, with the longest name
const [SUMS, SIGNATURE, SIGNATURE_SIZE] = ["SHA256SUMS", "SHA256SUMS.sig", 64];
const [CERTIFICATE, PAGE, CARD, LICENCE] = ["certificate.json", "certificate.html", "MODEL_CARD.md", "LICENSE"];

/**
 * Open a bundle.
 *
 * @param {ArrayBuffer | ArrayBufferView} data the whole file
 * @param {{verifyKey?: string | null}} [options] `verifyKey` is the Ed25519 public key of whoever must have signed the
 *   bundle, as the text of a PEM file; without it, no signature is needed and none is checked
 * @returns {Promise<Bundle>}
 * @throws {BundleError} if any byte is not as the specification says; the message names the file
 */
export async function openBundle(data, { verifyKey = null } = {}) {
  if (!globalThis.crypto?.subtle) throw new BundleError("SHA-256 is not available; open this page on https:// or localhost");
  try {
    // A plain view even of Node's Buffer, whose slice() would not copy.
    const bytes = ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength) : new Uint8Array(data);
    return await readBundle(bytes, verifyKey);
  } catch (error) {
    // A forged manifest can hold any type in any place, which then fails as a TypeError.
    throw error instanceof BundleError ? error : new BundleError(`bundle cannot be read; got ${error instanceof Error ? error.message : error}`);
  }
}

/**
 * @param {Uint8Array} bytes
 * @param {string | null} verifyKey
 * @returns {Promise<Bundle>}
 */
async function readBundle(bytes, verifyKey) {
  const { files, checksums } = readArchive(bytes);
  const [first] = files.keys();
  if (first !== SUMS) refuse("not a bundle", "its first file", SUMS, first);
  const entry = (/** @type {string} */ name) => files.get(name) ?? refuse("file is missing", name);
  const sums = entry(SUMS);
  if (sums.length > SUMS_LINE * files.size) refuse("list of hashes is too long", SUMS);
  const signedBy = await checkSignature(sums, files.get(SIGNATURE), verifyKey);
  const hashes = await checkSums(ascii(sums), files);
  for (const [name, stated] of checksums) { // after SHA-256, whose message says more
    if (crc32(entry(name)) !== stated) refuse("file has another CRC-32 than its header", name);
  }
  const { manifest, contract } = readManifest(entry("manifest.json"));
  const named = namedFiles(manifest);
  checkEntries(named.map(({ name }) => name), [...files.keys()]);
  for (const { name, sha256, size } of named) {
    if (hashes.get(name) !== sha256) refuse("hash is not the manifest's", name, `SHA-256 ${sha256}`, hashes.get(name));
    if (size !== entry(name).length) refuse("wrong size", name, `${size} bytes`, entry(name).length);
  }
  const certificate = readCertificate(entry(CERTIFICATE), manifest);
  if (certificate.format !== CERTIFICATE_FORMATS[0]) await checkStatements(certificate, entry("manifest.json"));
  const card = readText(entry(CARD), CARD);
  readText(entry(LICENCE), LICENCE);
  const bundle = { identity: await digest(sums), signedBy, manifest, contract, certificate, card, files };
  checkGoldenNumbers(bundle);
  return bundle;
}

/**
 * Return a golden array as a tensor. Files are little-endian, and so is every machine that runs a browser.
 *
 * @param {Pick<Bundle, "files">} bundle
 * @param {GoldenArray} item
 * @returns {Tensor}
 */
export function goldenArray(bundle, { file, shape, dtype = "float32" }) {
  const bytes = bundle.files.get(file) ?? refuse("file is missing", file);
  return { data: new ARRAYS[dtype](bytes.slice().buffer), dims: shape, dtype };
}

/**
 * Return the values that the symbols of a contract have in the golden vectors.
 *
 * @param {Pick<Bundle, "manifest" | "contract">} bundle
 * @returns {Record<string, number>}
 */
export function goldenSizes({ manifest, contract }) {
  /** @type {Record<string, number>} */
  const values = {};
  for (const { part, inputs } of manifest.golden) {
    const tensors = tensorsOf(part, contract).inputs;
    inputs.forEach(({ shape: [, ...sizes] }, index) => fits(sizes, tensors[index], values));
  }
  return values;
}

/**
 * Refuse golden numbers that are not finite, and golden integers that are out of their range.
 *
 * @param {Bundle} bundle
 */
function checkGoldenNumbers(bundle) {
  for (const { part, ...golden } of bundle.manifest.golden) {
    const tensors = tensorsOf(part, bundle.contract);
    for (const kind of /** @type {const} */ (["inputs", "outputs"])) {
      golden[kind].forEach((item, index) => {
        const { data, dtype } = goldenArray(bundle, item);
        const [low, high] = tensors[kind][index].range ?? [-Infinity, Infinity];
        const isRight = dtype === "float32"
          ? /** @type {Float32Array} */ (data).every(Number.isFinite)
          : /** @type {Int32Array} */ (data).every((value) => value >= low && value <= high);
        if (!isRight) refuse("golden number is not finite or out of range", item.file);
      });
    }
  }
}

/**
 * Check that the owner of a key has signed the list of hashes; return the fingerprint of the key, or null without a key.
 *
 * @param {Uint8Array} sums
 * @param {Uint8Array | undefined} signature
 * @param {string | null} verifyKey
 */
async function checkSignature(sums, signature, verifyKey) {
  if (signature && signature.length !== SIGNATURE_SIZE) {
    refuse("signature cannot be read", SIGNATURE, `${SIGNATURE_SIZE} bytes`, signature.length);
  }
  if (verifyKey === null) return null;
  const base64 = /^\s*-----BEGIN PUBLIC KEY-----([\sA-Za-z0-9+/=]+)-----END PUBLIC KEY-----\s*$/.exec(verifyKey)?.[1];
  if (!base64) return refuse("key cannot be read", "verifyKey", "an Ed25519 public key in PEM");
  const der = Uint8Array.from(atob(base64.replace(/\s/g, "")), (letter) => letter.charCodeAt(0));
  const key = await crypto.subtle.importKey("spki", der, "Ed25519", false, ["verify"]);
  const fingerprint = await digest(der);
  if (!signature) return refuse("not signed", null, `a signature by the key ${fingerprint}`);
  if (!(await crypto.subtle.verify("Ed25519", key, buffered(signature), buffered(sums)))) {
    refuse("signature is not valid", null, `a signature by the key ${fingerprint}`, "one by another key, or of other contents");
  }
  return fingerprint;
}

/**
 * Check the hash of every file, and that the list of hashes is in its only valid spelling.
 *
 * @param {string} sums
 * @param {Map<string, Uint8Array>} files
 */
async function checkSums(sums, files) {
  const listed = [...files].filter(([name]) => name !== SUMS && name !== SIGNATURE);
  const stated = new Map(sums.split("\n").slice(0, -1).map((line) => [line.slice(66), line.slice(0, 64)]));
  const hashes = new Map();
  for (const [name, data] of listed) {
    const found = await digest(data);
    if (!stated.has(name)) refuse("extra file", name, "the files in SHA256SUMS");
    if (stated.get(name) !== found) refuse("file was altered", name, `SHA-256 ${stated.get(name)}`, found);
    hashes.set(name, found);
  }
  for (const name of stated.keys()) if (!hashes.has(name)) refuse("file is missing", name);
  const canonical = listed.map(([name]) => `${hashes.get(name)}  ${name}\n`).join("");
  if (sums !== canonical) refuse("list of hashes is malformed", SUMS);
  return hashes;
}

/**
 * Check that the archive holds exactly the files of section 2, in that order.
 *
 * @param {string[]} named
 * @param {string[]} names
 */
function checkEntries(named, names) {
  const wanted = [...new Set([SUMS, SIGNATURE, "manifest.json", ...named, CERTIFICATE, PAGE, CARD, LICENCE])];
  for (const name of names) if (!wanted.includes(name)) refuse("extra file", name, "the files that manifest.json names");
  for (const name of wanted) if (!names.includes(name) && name !== SIGNATURE && name !== PAGE) refuse("file is missing", name);
  const ordered = wanted.filter((name) => names.includes(name));
  const place = ordered.findIndex((name, index) => name !== names[index]);
  if (place >= 0) refuse("files are out of order", null, ordered[place], names[place]);
}

/**
 * @param {Uint8Array} bytes
 * @param {Manifest} manifest
 */
function readCertificate(bytes, manifest) {
  const certificate = parseJson(bytes, CERTIFICATE, CERTIFICATE_LIMIT);
  if (!CERTIFICATE_FORMATS.includes(certificate?.format)) {
    refuse("certificate of another version", CERTIFICATE, CERTIFICATE_FORMATS.join(" | "), String(certificate?.format));
  }
  const { verdict, files, rows, findings = [], tolerance = null, environment = {} } = certificate;
  const isNew = certificate.format !== CERTIFICATE_FORMATS[0];
  const unstated = isNew ? undefined : {}; // every later format states them
  const { reproduction = unstated, manifest: statements = unstated, unreproduced_allowed: isAllowed = false } = certificate;
  const areTexts = (/** @type {any} */ table) => isTable(table) && Object.values(table).every((text) => typeof text === "string");
  const isRight = areTexts(files) && areTexts(statements) && typeof isAllowed === "boolean"
    && isTable(reproduction) && Object.values(reproduction).every((item) => isTable(item) && typeof item.state === "string")
    && Array.isArray(rows) && rows.every(isTable)
    && Array.isArray(findings) && findings.every((finding) => typeof finding?.severity === "string")
    && (tolerance === null || (isTable(tolerance) && Object.values(tolerance).every(Number.isFinite)))
    && isTable(environment)
    && isWhole(certificate, "planned_rows") && isWhole(certificate, "failed_rows");
  if (!isRight) refuse("certificate cannot be read", CERTIFICATE);
  if (verdict !== "pass") refuse("certificate did not pass", CERTIFICATE, "pass", String(verdict));
  for (const { name, sha256 } of modelFiles(manifest)) {
    const found = Object.hasOwn(files, name) ? files[name] : undefined;
    if (found !== sha256) refuse("certificate belongs to another file", `${CERTIFICATE}, ${name}`, sha256, String(found));
  }
  const isComplete = rows.length > 0 && certificate.planned_rows === rows.length && certificate.failed_rows === 0;
  if (isNew) {
    const file = manifest.files.find(({ name }) => !Object.hasOwn(reproduction, name));
    if (file) refuse("certificate is incomplete", CERTIFICATE, file.name);
  }
  if (isNew && !isAllowed && !Object.values(reproduction).every(({ state }) => PROOFS.includes(state))) {
    refuse("certificate contradicts itself", CERTIFICATE, "every file reproduced");
  }
  if (!isComplete || !rows.every(hasPassed) || findings.some(({ severity }) => severity === "error")) {
    refuse("certificate contradicts itself", CERTIFICATE, "as many rows as planned, all passed, and no error");
  }
  return certificate;
}

/**
 * Check that a certificate has the hash of each thing that the manifest says.
 *
 * @param {any} certificate
 * @param {Uint8Array} bytes the manifest, which was read
 */
async function checkStatements({ manifest: statements }, bytes) {
  const { contract, opset, versions, provenance, files, golden } = parseSpelled(bytes);
  const stated = Object.entries({ contract, opset, versions, provenance });
  for (const { inputs, outputs, ...file } of files) stated.push([`file ${file.name}`, file]);
  for (const part of golden) stated.push([`golden vectors of ${part.part}`, part]);
  for (const [subject, value] of stated) {
    const [expected, found] = [await digest(new TextEncoder().encode(dumpSpelled(value))), statements[subject]];
    if (found !== expected) refuse("certificate belongs to another manifest", `${CERTIFICATE}, ${subject}`, expected, String(found));
  }
}

/**
 * Return whether a row of a certificate has passed, and has the figures of one that did.
 *
 * @param {any} row
 */
function hasPassed({ passed, fault = null, outside = null, grey = null, error, band, mean_error: meanError, mean_band: meanBand }) {
  const pairs = meanError === undefined && meanBand === undefined ? [[error, band]] : [[error, band], [meanError, meanBand]];
  const figures = pairs.every(([found, allowed]) => [found, allowed].every(Number.isFinite) && found <= allowed);
  const isNone = (/** @type {unknown} */ count) => count === null || count === 0;
  const isExplained = grey === null || (isTable(grey) && isNone(grey.unexplained ?? null));
  return passed === true && figures && fault === null && isNone(outside) && isExplained;
}

/**
 * Return a text for people, which is UTF-8 and short.
 *
 * @param {Uint8Array} bytes
 * @param {string} name
 */
function readText(bytes, name) {
  if (bytes.length > TEXT_LIMIT) refuse("text is too long", name, `${TEXT_LIMIT} bytes at most`, bytes.length);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return refuse("not a text", name, "UTF-8");
  }
}

/** @param {Uint8Array} bytes */
async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", buffered(bytes)));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The functions of `crypto.subtle` take no view of memory that threads share, and nobody passes one.
 *
 * @param {Uint8Array} bytes
 */
const buffered = (bytes) => /** @type {Uint8Array<ArrayBuffer>} */ (bytes);
