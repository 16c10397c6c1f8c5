// manifest.json (section 3): the contract, the model files, the golden vectors and the recommendations.

import { NAME } from "./archive.js";
import { BYTE_PARTS, EXTENDED_FORMAT, FLOAT_PARTS, FORMAT, batchBounds, fits, isShape, isTable, readContract, tensorsOf } from "./contract.js";
import { refuse } from "./errors.js";
import { isWhole, parseJson } from "./strict-json.js";

/** @typedef {import("./contract.js").Contract} Contract */
/** @typedef {import("./contract.js").Part} Part */
/** @typedef {import("./contract.js").TensorSpec} TensorSpec */

/**
 * @typedef {"fp32" | "fp16" | "bf16" | "int8" | "int8-static" | "int4-weights"} Precision
 * @typedef {{name: string, size: number, sha256: string}} StoredFile
 * @typedef {{part: Part, format: string, precision?: Precision, machine?: string, beside?: StoredFile[],
 *   without_vnni?: Record<string, string>,
 *   inputs: TensorSpec[], outputs: TensorSpec[]} & StoredFile} ModelFile
 * @typedef {{tensor: string, file: string, shape: number[], sha256: string, dtype?: "float32" | "int32" | "int64"}} GoldenArray
 * @typedef {GoldenArray & {band: number, bands?: Record<string, number>}} GoldenOutput
 * @typedef {{part: Part, inputs: GoldenArray[], outputs: GoldenOutput[]}} GoldenPart
 */

/**
 * A checked manifest. Its `contract` is as it is written: `Bundle.contract` has the form of version 2.
 *
 * @typedef {object} Manifest
 * @property {"vae-export/1" | "vae-export/2"} format
 * @property {any} contract
 * @property {ModelFile[]} files
 * @property {GoldenPart[]} golden
 * @property {unknown} [recommended]
 * @property {number} opset
 * @property {Record<string, string>} versions
 * @property {Record<string, unknown>} provenance
 */

const LIMIT = 1 << 20; // bytes
const HERE = "manifest.json";
/** @type {Record<string, Float32ArrayConstructor | Int32ArrayConstructor | BigInt64ArrayConstructor | Uint8ArrayConstructor>} */
export const ARRAYS = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array, uint8: Uint8Array };
const GOLDEN_TYPES = ["float32", "int32", "int64"];
/**
 * A reader takes the first of these that a part has, and ignores files of any other precision.
 *
 * @type {readonly Precision[]}
 */
export const PRECISIONS = ["fp32", "fp16", "bf16", "int8", "int8-static", "int4-weights"];

/**
 * Check a manifest.
 *
 * @param {Uint8Array} bytes
 * @returns {{manifest: Manifest, contract: Contract}}
 */
export function readManifest(bytes) {
  const manifest = parseJson(bytes, HERE, LIMIT);
  const found = manifest?.format;
  if (found !== FORMAT && found !== EXTENDED_FORMAT) {
    refuse("manifest of another version", HERE, `${FORMAT} or ${EXTENDED_FORMAT}`, String(found));
  }
  if (manifest.precision !== "float32") {
    refuse("inputs and outputs of another precision", HERE, "float32", String(manifest.precision));
  }
  const contract = readContract(manifest);
  if (![manifest.files, manifest.golden].every((list) => Array.isArray(list) && list.length > 0)) {
    refuse("bundle has no model or no golden vectors", HERE);
  }
  checkTypes(manifest);
  checkFiles(manifest.files, contract);
  checkGolden(manifest, contract);
  return { manifest, contract };
}

/**
 * Return every file that a manifest names, each once: model files, each followed by its sidecars, then golden arrays.
 *
 * @param {Manifest} manifest
 * @returns {StoredFile[]}
 */
export function namedFiles(manifest) {
  const arrays = manifest.golden.flatMap(({ inputs, outputs }) => [...inputs, ...outputs]).map(({ file, sha256, shape, dtype }) => {
    return { name: file, sha256, size: ARRAYS[dtype ?? "float32"].BYTES_PER_ELEMENT * shape.reduce((a, b) => a * b, 1) };
  });
  return [...modelFiles(manifest), ...arrays];
}

/**
 * Return every model file, each followed by its sidecars.
 *
 * @param {Manifest} manifest
 * @returns {StoredFile[]}
 */
export function modelFiles({ files }) {
  return files.flatMap((file) => [file, ...(file.beside ?? [])]);
}

/**
 * Return the file of a part with the highest precision, or with the given one; undefined if there is none. Files that were
 * compiled for one kind of machine are passed over, since nothing here can tell whether this machine is one.
 *
 * @param {Pick<Manifest, "files">} manifest
 * @param {string} part
 * @param {Precision | null} [precision]
 * @returns {ModelFile | undefined}
 */
export function findModel({ files }, part, precision = null) {
  const have = files.filter((file) => file.part === part && file.format === "onnx" && !file.machine);
  const wanted = precision === null ? PRECISIONS : [precision];
  return wanted.map((one) => have.find((file) => precisionOf(file) === one)).find((file) => file !== undefined);
}

/**
 * Return the largest error that the specification allows a model file in a golden output; 0 if its precision has none.
 *
 * @param {Pick<GoldenOutput, "band" | "bands">} output
 * @param {Pick<ModelFile, "precision">} file
 */
export function toleranceOf(output, file) {
  const precision = precisionOf(file);
  return precision === "fp32" ? output.band : (output.bands?.[precision] ?? 0);
}

/**
 * @param {Pick<ModelFile, "precision">} file
 * @returns {Precision}
 */
export const precisionOf = (file) => file.precision ?? "fp32";

/** @param {any} manifest */
function checkTypes(manifest) {
  const { versions, provenance, opset, files } = manifest;
  if (![versions, provenance].every(isTable) || !isWhole(manifest, "opset")) refuse("manifest cannot be read", HERE);
  if (opset < 0 || (opset === 0 && files.some((/** @type {any} */ file) => file?.format === "onnx"))) refuse("opset cannot be read", HERE, null, opset);
  if (!Object.entries(versions).flat().every(isLabel)) refuse("text cannot be shown", `${HERE}, versions`);
}

/** @param {any} text */
function isLabel(text) {
  return typeof text === "string" && !/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u.test(text);
}

/**
 * Check the types of the files, that their tensors follow from the contract, and that none is listed twice.
 *
 * @param {any[]} files
 * @param {Contract} contract
 */
function checkFiles(files, contract) {
  const [kinds, names] = [new Set(), new Set(["sha256sums", "sha256sums.sig", "manifest.json", "certificate.json", "certificate.html", "model_card.md", "license"])];
  for (const file of files) {
    checkStored(file, names);
    const { name, part, format, precision = "fp32", machine = "", beside, without_vnni: entries = {} } = file;
    if (![format, precision, machine].every(isLabel)) refuse("text cannot be shown", `${HERE}, ${name}`);
    if (!isTable(entries) || !Object.entries(entries).flat().every(isLabel)) refuse("settings cannot be read", `${HERE}, ${name}`);
    if (beside !== undefined && !(Array.isArray(beside) && beside.length > 0)) refuse("sidecars cannot be read", `${HERE}, ${name}`);
    for (const sidecar of beside ?? []) {
      checkStored(sidecar, names);
      const [stem, own] = [name, sidecar.name].map((text) => text.replace(/\.[^.]*$/, ""));
      if (own !== stem || own === sidecar.name) refuse("name of a sidecar does not match its file", sidecar.name, null, name);
    }
    if (![...FLOAT_PARTS, ...BYTE_PARTS].includes(part)) refuse("part is not known", name, null, String(part));
    for (const [kind, expected] of Object.entries(tensorsOf(part, contract))) {
      const stated = file[kind];
      const isRight = Array.isArray(stated) && stated.length === expected.length && expected.every((tensor, index) => isTensor(stated[index], tensor));
      if (!isRight) refuse(`${kind} do not match the contract`, name);
    }
    const kind = JSON.stringify([part, format, precision]);
    if (kinds.has(kind)) refuse("manifest lists a part twice in one format and precision", name);
    kinds.add(kind);
  }
}

/**
 * @param {any} file
 * @param {Set<string>} names all names so far, in lower case
 */
function checkStored(file, names) {
  const name = file?.name;
  if (typeof name !== "string" || !NAME.test(name) || name.includes("/")) refuse("file name is not allowed", JSON.stringify(name));
  if (names.has(name.toLowerCase())) refuse("two files have one name", name);
  names.add(name.toLowerCase());
  if (!isWhole(file, "size") || typeof file.sha256 !== "string") refuse("size or hash cannot be read", `${HERE}, ${name}`);
}

/**
 * @param {any} stated
 * @param {TensorSpec} expected
 */
function isTensor(stated, { name, dtype, shape, range }) {
  if (!isTable(stated) || stated.name !== name || stated.dtype !== dtype || !Array.isArray(stated.shape)) return false;
  const hasShape = stated.shape.length === shape.length
    && shape.every((size, index) => stated.shape[index] === size && (typeof size === "string" || isWhole(stated.shape, index)));
  const hasRange = range === null ? stated.range === null : Array.isArray(stated.range) && stated.range.length === 2 && range.every((bound, index) => stated.range[index] === bound);
  return hasShape && hasRange;
}

/**
 * Check that there are golden vectors for each part that does not give bytes, with the tensors of that part.
 *
 * @param {any} manifest
 * @param {Contract} contract
 */
function checkGolden({ files, golden }, contract) {
  const parts = new Set(files.map((/** @type {ModelFile} */ { part }) => (BYTE_PARTS.includes(part) ? "decoder" : part)));
  const found = golden.map((/** @type {any} */ item) => String(item?.part));
  if ([...parts].sort().join() !== found.sort().join()) {
    refuse("golden vectors do not match the files", HERE, [...parts], found);
  }
  const { low, high } = batchBounds(contract);
  const [fewest, most] = [Math.max(low, Math.min(2, high)), Math.max(16, low)];
  for (const { part, inputs, outputs } of golden) {
    const expected = tensorsOf(part, contract);
    /** @type {Record<string, number>} */
    const values = {};
    const rows = inputs?.[0]?.shape?.[0];
    for (const [items, tensors] of [[inputs, expected.inputs], [outputs, expected.outputs]]) {
      if (!Array.isArray(items) || items.length !== tensors.length) refuse("golden vectors do not match the contract", part);
      items.forEach((item, index) => checkArray(item, tensors[index], { part, rows, fewest, most, values }));
    }
    outputs.forEach(checkBands);
  }
}

/**
 * @param {any} item
 * @param {TensorSpec} tensor
 * @param {{part: string, rows: number, fewest: number, most: number, values: Record<string, number>}} context
 */
function checkArray(item, tensor, { part, rows, fewest, most, values }) {
  const { tensor: name, file, shape, sha256 } = item;
  const dtype = item.dtype === undefined ? "float32" : item.dtype;
  if (typeof file !== "string" || !NAME.test(file) || !file.startsWith("golden/")) refuse("golden vector is not in golden/", String(file));
  if (typeof sha256 !== "string" || !GOLDEN_TYPES.includes(dtype)) refuse("golden vector cannot be read", file);
  if (!isShape(shape)) refuse("shape cannot be read", file);
  if (shape[0] < fewest || shape[0] > most) refuse("wrong number of rows", file, `${fewest} to ${most}`, shape[0]);
  if (name !== tensor.name || dtype !== tensor.dtype || shape[0] !== rows || !fits(shape.slice(1), tensor, values)) {
    const [wanted, got] = [[tensor.name, tensor.dtype, rows, ...tensor.shape.slice(1)], [name, dtype, ...shape]];
    refuse("golden vectors do not match the contract", part, wanted.join(" "), got.join(" "));
  }
}

/** @param {any} output */
function checkBands(output) {
  const { bands = {}, dtype = "float32", file } = output;
  const isRight = (/** @type {any} */ parent, /** @type {string} */ key) => {
    return dtype === "float32" ? Number.isFinite(parent[key]) && parent[key] > 0 : isWhole(parent, key) && parent[key] >= 0;
  };
  if (!isTable(bands) || !isRight(output, "band") || !Object.keys(bands).every((key) => isRight(bands, key))) {
    refuse("tolerance cannot be read", file);
  }
}
