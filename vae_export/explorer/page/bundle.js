// A bundle, read strictly: every byte of it is accounted for before any of it is used.
//
// docs/bundle-format.md of vae-export is the specification; sections 1 to 3 are what is checked here. The file needs
// nothing but a browser or Node 20: DataView for the ZIP file, WebCrypto for SHA-256. (Browsers offer WebCrypto to pages
// from https: and from this machine only.)

export class BundleError extends Error {
  name = "BundleError";
}

const FORMAT = "vae-export/1";
const CERTIFICATE_FORMAT = "vae-export-certificate/1";
const [LOCAL, CENTRAL, END] = [30, 46, 22]; // bytes of the headers, without their names
const PART = "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?";
const NAME = new RegExp(`^${PART}(?:/${PART})?$`);
// In the order of the specification: of a part's files, the first one is taken. Others are not known here.
const PRECISIONS = ["fp32", "fp16", "bf16", "int8", "int8-static", "int4-weights"];
const PRIOR = "standard normal";
const MANIFEST_LIMIT = 1 << 20;

/**
 * Open a bundle.
 *
 * @param {ArrayBuffer} data the whole file
 * @returns {Promise<{identity: string, manifest: object, certificate: object, card: string,
 *   files: Map<string, Uint8Array>}>} `files` has every entry, as views of `data`
 * @throws {BundleError} for any byte out of place; the message names the file
 */
export async function openBundle(data) {
  try {
    return await read(new Uint8Array(data));
  } catch (error) {
    // A forged manifest can have anything in any place.
    throw error instanceof BundleError ? error : new BundleError(`bundle cannot be read; got ${error.message}`);
  }
}

async function read(bytes) {
  const { files, crcs } = readArchive(bytes);
  const [first] = files.keys();
  if (first !== "SHA256SUMS") refuse("not a bundle", "its first file", "SHA256SUMS", first);
  const sums = files.get(first);
  const hashes = await checkSums(text(sums), files);
  for (const [name, stated] of crcs) { // after SHA-256, whose message says more
    const crc = crc32(files.get(name));
    if (crc !== stated) refuse("file has another CRC-32 than its header", name, hex(stated), hex(crc));
  }
  if (!files.has("manifest.json")) refuse("file is missing", "manifest.json");
  const manifest = readManifest(files.get("manifest.json"));
  checkContents(manifest, [...files.keys()]);
  for (const { name, sha256, size } of named(manifest)) {
    if (hashes.get(name) !== sha256) refuse("hash is not the manifest's", name, `SHA-256 ${sha256}`, hashes.get(name));
    if (size !== files.get(name).length) refuse("wrong size", name, `${size} bytes`, files.get(name).length);
  }
  for (const part of manifest.golden) checkGolden(part, manifest);
  const certificate = readCertificate(files.get("certificate.json"), manifest);
  return { identity: await digest(sums), manifest, certificate, card: text(files.get("MODEL_CARD.md")), files };
}

/**
 * The model file of a part as ONNX, that in float32 if there is one: its entry in the manifest, or undefined where the
 * bundle has none.
 */
export function onnxFile(manifest, part) {
  const files = manifest.files.filter((entry) => entry.part === part && entry.format === "onnx");
  const found = PRECISIONS.map((precision) => files.find((file) => precisionOf(file) === precision));
  return found.find((file) => file !== undefined);
}

/** The largest error of a golden output that this file may have; none where nothing is said of its precision. */
export function allowed(output, file) {
  const precision = precisionOf(file);
  return precision === "fp32" ? output.band : (output.bands?.[precision] ?? 0);
}

/** A golden array of the manifest → Float32Array, row-major. Files are little-endian, as is whatever runs a browser. */
export function goldenArray(bundle, item) {
  return new Float32Array(bundle.files.get(item.file).slice().buffer);
}

function readArchive(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const end = bytes.length - END;
  if (end < 0 || view.getUint32(0) !== 0x504b0304) refuse("not a bundle", "this file", "a ZIP file made by vae-export bundle");
  const [count, size, start] = [view.getUint16(end + 10, true), view.getUint32(end + 12, true), view.getUint32(end + 16, true)];
  if (view.getUint32(end) !== 0x504b0506 || start + size !== end) refuse("bundle is cut off, or has bytes after its end");
  const [files, crcs, folded] = [new Map(), new Map(), new Set()];
  let [position, header] = [0, start];
  for (let number = 0; number < count; number += 1) {
    if (header + CENTRAL > end) refuse("bundle is cut off", `entry ${number + 1}`);
    const entry = { crc: view.getUint32(header + 16, true), size: view.getUint32(header + 20, true), offset: position };
    const name = ascii(bytes.subarray(header + CENTRAL, Math.min(end, header + CENTRAL + view.getUint16(header + 28, true))));
    if (!NAME.test(name)) refuse("file name is not allowed", JSON.stringify(name.slice(0, 120)));
    if (folded.has(name.toLowerCase())) refuse("two files have one name", name);
    folded.add(name.toLowerCase());
    const [central, local] = [centralHeader(name, entry), localHeader(name, entry)];
    const body = position + local.length;
    if (body + entry.size > start) refuse("file is not where it should be", name);
    if (!equal(bytes, header, central) || !equal(bytes, position, local)) refuse("file has a header out of form", name);
    const content = bytes.subarray(body, body + entry.size);
    files.set(name, content);
    crcs.set(name, entry.crc);
    position = body + entry.size;
    header += central.length;
  }
  if (position !== start || header !== end || !equal(bytes, end, endRecord(count, size, start))) {
    refuse("bundle is out of form", "central directory");
  }
  return { files, crcs };
}

// The headers in the one form that the specification allows: what the file has is compared with these, byte by byte.

function localHeader(name, { crc, size }) {
  return record("4 2 2 2 2 2 4 4 4 2 2", [0x04034b50, 20, 0, 0, 0, 0x21, crc, size, size, name.length, 0], name);
}

function centralHeader(name, { crc, size, offset }) {
  const sizes = [crc, size, size, name.length, 0, 0, 0, 0, 0x81a40000, offset];
  return record("4 2 2 2 2 2 2 4 4 4 2 2 2 2 2 4 4", [0x02014b50, 0x0314, 20, 0, 0, 0, 0x21, ...sizes], name);
}

function endRecord(count, size, start) {
  return record("4 2 2 2 2 4 4 2", [0x06054b50, 0, 0, count, count, size, start, 0], "");
}

function record(widths, values, name) {
  const bytes = [];
  widths.split(" ").forEach((width, field) => {
    for (let shift = 0; shift < 8 * width; shift += 8) bytes.push((values[field] >>> shift) & 0xff);
  });
  return Uint8Array.from([...bytes, ...[...name].map((letter) => letter.charCodeAt(0))]);
}

/** Hold every file against its line, and the list against its one spelling. */
async function checkSums(sums, files) {
  const names = [...files.keys()].slice(1);
  const hashes = new Map();
  for (const name of names) hashes.set(name, await digest(files.get(name)));
  const stated = new Map(sums.split("\n").slice(0, -1).map((line) => [line.slice(66), line.slice(0, 64)]));
  for (const [name, found] of hashes) {
    if (!stated.has(name)) refuse("extra file", name, "the files in SHA256SUMS");
    if (stated.get(name) !== found) refuse("file was altered", name, `SHA-256 ${stated.get(name)}`, found);
  }
  for (const name of stated.keys()) if (!hashes.has(name)) refuse("file is missing", name);
  if (sums !== names.map((name) => `${hashes.get(name)}  ${name}\n`).join("")) refuse("list of hashes is out of form", "SHA256SUMS");
  return hashes;
}

function readManifest(bytes) {
  if (bytes.length > MANIFEST_LIMIT) refuse("manifest is too large", "manifest.json", `${MANIFEST_LIMIT} bytes`, bytes.length);
  const manifest = json(bytes, "manifest.json");
  if (manifest?.format !== FORMAT) refuse("manifest of another version", "manifest.json", FORMAT, String(manifest?.format));
  const { contract, files, golden } = manifest;
  const sizes = (shape) => Array.isArray(shape) && shape.length > 0 && shape.every((size) => Number.isSafeInteger(size) && size > 0);
  const range = contract?.image_range;
  if (!sizes(contract?.image_shape) || contract.image_shape.length !== 3 || !sizes(contract.latent_shape)) {
    refuse("shapes cannot be read", "manifest.json, contract");
  }
  if (!Array.isArray(range) || !range.every(Number.isFinite) || !(range[0] < range[1])) {
    refuse("range of pixels cannot be read", "manifest.json, contract");
  }
  if (contract.prior !== PRIOR) refuse("prior is not known", "manifest.json, contract", PRIOR, String(contract.prior));
  if (manifest.precision !== "float32") {
    refuse("inputs and outputs of another precision", "manifest.json", "float32", String(manifest.precision));
  }
  if (![files, golden].every((list) => Array.isArray(list) && list.length > 0)) {
    refuse("bundle has no model or no golden vectors", "manifest.json");
  }
  for (const part of golden) {
    for (const item of [...part.inputs, ...part.outputs]) {
      if (!sizes(item.shape)) refuse("shape cannot be read", String(item.file));
      if (item.shape[0] < 2 || item.shape[0] > 16) refuse("wrong number of rows", String(item.file), "2 to 16", item.shape[0]);
    }
    for (const item of part.outputs) if (!(Number.isFinite(item.band) && item.band > 0)) refuse("band cannot be read", String(item.file));
  }
  return manifest;
}

function checkContents(manifest, names) {
  const models = named(manifest).map((item) => item.name);
  const wanted = ["SHA256SUMS", "manifest.json", ...models, "certificate.json", "certificate.html", "MODEL_CARD.md", "LICENSE"];
  for (const name of names) if (!wanted.includes(name)) refuse("extra file", name, "what manifest.json names");
  for (const name of wanted) if (!names.includes(name) && name !== "certificate.html") refuse("file is missing", name);
  if (wanted.filter((name) => names.includes(name)).join() !== names.join()) refuse("files are out of order");
}

/** Golden arrays have the names and shapes of the tensors of each file of their part. */
function checkGolden(part, manifest) {
  const rows = part.inputs[0].shape[0];
  for (const file of manifest.files.filter((entry) => entry.part === part.part)) {
    for (const kind of ["inputs", "outputs"]) {
      const wanted = file[kind].map((tensor) => [tensor.name, rows, ...tensor.shape.slice(1)]).join(" | ");
      const found = part[kind].map((item) => [item.tensor, ...item.shape]).join(" | ");
      if (wanted !== found) refuse("golden vectors are not those of the contract", part.part, wanted, found);
    }
  }
}

/** Every model file, each followed by what must lie beside it. */
function stored(manifest) {
  return manifest.files.flatMap((entry) => [entry, ...(entry.beside ?? [])]);
}

/** What the manifest names: model files, then golden arrays, each once, as {name, sha256, size}. */
function named(manifest) {
  const arrays = manifest.golden.flatMap((part) => [...part.inputs, ...part.outputs]).map((item) => {
    return { name: item.file, sha256: item.sha256, size: 4 * item.shape.reduce((a, b) => a * b) };
  });
  const items = [...stored(manifest), ...arrays];
  return items.filter((item, index) => items.findIndex((other) => other.name === item.name) === index);
}

function readCertificate(bytes, manifest) {
  const certificate = json(bytes, "certificate.json");
  if (certificate?.format !== CERTIFICATE_FORMAT) {
    refuse("certificate of another version", "certificate.json", CERTIFICATE_FORMAT, String(certificate?.format));
  }
  if (certificate.verdict !== "pass") refuse("certificate did not pass", "certificate.json", "pass", String(certificate.verdict));
  for (const entry of stored(manifest)) {
    if (certificate.files?.[entry.name] !== entry.sha256) refuse("certificate is of another file", entry.name);
  }
  return certificate;
}

function json(bytes, name) {
  try {
    return JSON.parse(text(bytes));
  } catch (error) {
    return refuse("JSON cannot be read", name, null, error.message);
  }
}

const precisionOf = (file) => file.precision ?? "fp32";
const text = (bytes) => new TextDecoder().decode(bytes);
const ascii = (bytes) => String.fromCharCode(...bytes);
const hex = (number) => number.toString(16).padStart(8, "0");
const equal = (bytes, start, expected) => expected.every((byte, index) => bytes[start + index] === byte);

async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = ~0;
  for (let index = 0; index < bytes.length; index += 1) value = CRC[(value ^ bytes[index]) & 0xff] ^ (value >>> 8);
  return ~value >>> 0;
}

function refuse(what, where, expected, got) {
  const wanted = expected ? `; expected ${expected}` : "";
  const found = got === undefined ? "" : `${wanted ? "," : ";"} got ${got}`;
  throw new BundleError((where ? `${what}: ${where}` : what) + wanted + found);
}
