// The contract (section 3): the tensors of every part, their shapes, ranges and types.

import { BundleError, refuse } from "./errors.js";
import { isWhole } from "./strict-json.js";

/**
 * A size is a number, or an expression in one symbol: "h", "8*h", "4*t+1". The first size of a shape is the batch.
 *
 * @typedef {"float32" | "int32" | "int64" | "uint8"} Dtype
 * @typedef {"encoder" | "decoder" | "autoencoder" | "decoder-uint8-hwc" | "decoder-uint8-chw"} Part
 * @typedef {{name: string, dtype: Dtype, shape: (number | string)[], range: [number, number] | null}} TensorSpec
 * @typedef {TensorSpec & {parts: ("encoder" | "decoder")[]}} Condition
 * @typedef {{min: number, max: number | null, usual: number | null}} SymbolBounds
 * @typedef {"bernoulli" | "gaussian" | "gaussian-fixed" | "discretised-logistic" | "discretised-logistic-colour"} LikelihoodName
 * @typedef {{name: LikelihoodName, scale?: number}} Likelihood
 */

/**
 * The contract of a bundle of either version, in the form of version 2.
 *
 * @typedef {object} Contract
 * @property {TensorSpec} data what the encoder takes
 * @property {TensorSpec | null} output what the decoder gives, where that differs from the data
 * @property {TensorSpec[]} latents
 * @property {Condition[]} conditions
 * @property {"gaussian" | "deterministic" | "codes"} encoding
 * @property {"standard normal" | "uniform" | "given by the user"} prior
 * @property {Record<string, SymbolBounds>} symbols
 * @property {Likelihood | null} likelihood
 * @property {number} scaling_factor
 * @property {number} shift_factor
 */

export const [FORMAT, EXTENDED_FORMAT] = ["vae-export/1", "vae-export/2"];
export const [NORMAL, UNIFORM, GIVEN] = /** @type {const} */ (["standard normal", "uniform", "given by the user"]);
/** @type {readonly Part[]} */
export const FLOAT_PARTS = ["encoder", "decoder", "autoencoder"];
/** @type {readonly Part[]} */
export const BYTE_PARTS = ["decoder-uint8-hwc", "decoder-uint8-chw"];

const HERE = "manifest.json, contract";
const NAME = /^[A-Za-z][A-Za-z0-9_]*$/;
const MOST_CODES = 2 ** 32;
/** @type {Record<string, string>} */
const SPREADS = { gaussian: "logvar", "discretised-logistic": "log_scale", "discretised-logistic-colour": "log_scale" };
const LIKELIHOODS = ["bernoulli", "gaussian-fixed", ...Object.keys(SPREADS)];

/**
 * Check the contract of a manifest and return it in the form of version 2.
 *
 * @param {any} manifest
 * @returns {Contract}
 */
export function readContract({ format, contract }) {
  if (!isTable(contract)) refuse("contract cannot be read", "manifest.json");
  const likelihood = readLikelihood(contract.likelihood ?? null);
  const found = format === FORMAT ? plainContract(contract, likelihood) : extendedContract(contract, likelihood);
  if (likelihood !== null && found.data.dtype !== "float32") refuse("likelihood does not fit integers", HERE, "null", likelihood.name);
  if (likelihood?.name === "bernoulli" && String(found.data.range) !== "0,1") {
    refuse("likelihood does not fit the range", HERE, "bernoulli on values in [0, 1]", found.data.range);
  }
  return found;
}

/**
 * @param {any} stated
 * @param {Likelihood | null} likelihood
 * @returns {Contract}
 */
function plainContract({ image_shape: imageShape, image_range: range, latent_shape: latentShape, prior }, likelihood) {
  if (!isShape(imageShape) || imageShape.length !== 3 || !isShape(latentShape)) refuse("shapes cannot be read", HERE);
  if (!isRange(range) || range[0] === range[1]) refuse("range of pixels cannot be read", HERE);
  if (prior !== NORMAL) refuse("prior is not known", HERE, NORMAL, String(prior));
  return {
    data: { name: "image", dtype: "float32", shape: ["N", ...imageShape], range },
    output: null,
    latents: [{ name: "latent", dtype: "float32", shape: ["N", ...latentShape], range: null }],
    conditions: [],
    encoding: "gaussian",
    prior,
    symbols: {},
    likelihood,
    scaling_factor: 1,
    shift_factor: 0,
  };
}

/**
 * @param {any} stated
 * @param {Likelihood | null} likelihood
 * @returns {Contract}
 */
function extendedContract(stated, likelihood) {
  if (!isTable(stated.data)) refuse("contract is not of this version of the format", "manifest.json", null, EXTENDED_FORMAT);
  const { data, output, latents, conditions, encoding, prior, symbols } = stated;
  if (!isTable(symbols) || ![latents, conditions].every(Array.isArray)) refuse("contract cannot be read", "manifest.json");
  for (const [name, bounds] of Object.entries(symbols)) checkBounds(name, bounds);
  const tensors = [data, ...(output === null ? [] : [output]), ...latents, ...conditions];
  tensors.forEach((tensor) => checkTensor(tensor, symbols));
  if (![stated.scaling_factor, stated.shift_factor].every(Number.isFinite)) refuse("scaling cannot be read", HERE);
  checkData(data, output);
  checkLatents(latents, encoding, prior);
  conditions.forEach(checkCondition);
  const used = new Set(tensors.flatMap(({ shape }) => shape.slice(1)).filter((size) => typeof size === "string").map((size) => parseSize(size).symbol));
  const unused = Object.keys(symbols).filter((name) => name !== "N" && !used.has(name));
  if (unused.length > 0) refuse("symbol is in no shape", HERE, null, unused[0]);
  const pick = (/** @type {TensorSpec} */ { name, dtype, shape, range }) => ({ name, dtype, shape, range });
  /** @type {Contract} */
  const contract = {
    data: pick(data),
    output: output === null ? null : pick(output),
    latents: latents.map(pick),
    conditions: conditions.map((/** @type {Condition} */ item) => ({ ...pick(item), parts: item.parts })),
    encoding,
    prior,
    symbols: Object.fromEntries(Object.entries(symbols).map(([name, { min, max, usual }]) => [name, { min, max, usual }])),
    likelihood,
    scaling_factor: stated.scaling_factor,
    shift_factor: stated.shift_factor,
  };
  if (isPlain(contract)) refuse("contract is not of this version of the format", "manifest.json", FORMAT, EXTENDED_FORMAT);
  for (const part of FLOAT_PARTS) {
    const names = Object.values(tensorsOf(part, contract)).flat().map(({ name }) => name);
    if (new Set(names).size !== names.length) refuse("two tensors have one name", HERE, null, names);
  }
  return contract;
}

/**
 * @param {string} name
 * @param {any} bounds
 */
function checkBounds(name, bounds) {
  const isOpen = (/** @type {string} */ key) => bounds[key] === null || isWhole(bounds, key);
  const isRight = isTable(bounds) && isWhole(bounds, "min") && isOpen("max") && isOpen("usual");
  const high = bounds?.max ?? Infinity;
  if (!isRight || bounds.min < 1 || high < bounds.min || (bounds.usual !== null && (bounds.usual < bounds.min || bounds.usual > high))) {
    refuse("bounds cannot be read", `${HERE}, ${name}`);
  }
}

/**
 * @param {any} tensor
 * @param {Record<string, SymbolBounds>} symbols
 */
function checkTensor(tensor, symbols) {
  if (!isTable(tensor) || !NAME.test(tensor.name) || typeof tensor.name !== "string") refuse("tensor cannot be read", HERE);
  const { name, shape, range } = tensor;
  if (!["float32", "int32", "int64"].includes(tensor.dtype)) refuse("type is not known", `${HERE}, ${name}`, null, String(tensor.dtype));
  const { min = 1, max = null } = symbols.N ?? {};
  const batch = min === max ? min : "N";
  const isSize = (/** @type {unknown} */ size, /** @type {number} */ index) => {
    if (index === 0) return size === batch && (typeof size === "string" || isWhole(shape, 0));
    if (typeof size !== "string") return isWhole(shape, index) && Number(size) > 0;
    const { factor, symbol, offset } = parseSize(size);
    return symbol !== "N" && Object.hasOwn(symbols, symbol) && size === writeSize(factor, symbol, offset);
  };
  if (!Array.isArray(shape) || shape.length === 0 || !shape.every(isSize)) refuse("shapes cannot be read", `${HERE}, ${name}`);
  if (range !== null && !isRange(range)) refuse("range cannot be read", `${HERE}, ${name}`);
  const isHeld = (/** @type {number} */ bound) => (tensor.dtype === "int32" ? bound === (bound | 0) : Number.isSafeInteger(bound));
  if (tensor.dtype !== "float32" && !(range && range.every(isHeld))) refuse("integers have no range", `${HERE}, ${name}`);
}

/**
 * @param {TensorSpec} data
 * @param {TensorSpec | null} output
 */
function checkData(data, output) {
  const isFloat = data.dtype === "float32";
  for (const { name, shape, range } of output === null ? [data] : [data, output]) {
    if (shape.length < 2 || (range !== null && range[0] >= range[1])) refuse("data cannot be read", `${HERE}, ${name}`);
  }
  const [low, high] = data.range ?? [0, 0];
  if (!isFloat && (output === null || high - low >= MOST_CODES)) refuse("integers as data cannot be read", `${HERE}, ${data.name}`);
  if (output !== null && output.dtype !== "float32") refuse("output is no float32", `${HERE}, ${output.name}`);
  if (output === null) return;
  const hasSameShape = isFloat && String(output.shape) === String(data.shape);
  if (output.name !== (hasSameShape ? data.name : "output") || (hasSameShape && String(output.range) === String(data.range))) {
    refuse("output does not fit the data", HERE, hasSameShape ? data.name : "output", output.name);
  }
}

/**
 * @param {TensorSpec[]} latents
 * @param {string} encoding
 * @param {string} prior
 */
function checkLatents(latents, encoding, prior) {
  /** @type {[string, string, string[]][]} */
  const known = [["encoding", encoding, ["gaussian", "deterministic", "codes"]], ["prior", prior, [NORMAL, UNIFORM, GIVEN]]];
  for (const [key, value, values] of known) {
    if (!values.includes(value)) refuse(`${key} is not known`, HERE, values.join(" | "), String(value));
  }
  const isCodes = encoding === "codes";
  if (latents.length === 0 || prior === (isCodes ? NORMAL : UNIFORM)) {
    refuse("latents and prior do not fit", HERE, null, `${latents.length} latents, ${prior}`);
  }
  const [first] = latents;
  for (const { name, dtype, shape, range } of latents) {
    const areCodes = dtype !== "float32" && dtype === first.dtype && range && range[0] === 0 && range[1] < MOST_CODES && range[1] === first.range?.[1];
    if (shape.length < 2 || !(isCodes ? areCodes : dtype === "float32" && range === null)) refuse("latent cannot be read", `${HERE}, ${name}`);
  }
}

/** @param {any} condition */
function checkCondition({ name, parts }) {
  const isRight = Array.isArray(parts) && parts.length > 0 && parts.every((part) => part === "encoder" || part === "decoder");
  if (!isRight) refuse("parts cannot be read", `${HERE}, ${name}`);
}

/**
 * @param {any} stated
 * @returns {Likelihood | null}
 */
function readLikelihood(stated) {
  if (stated === null) return null;
  const isKnown = LIKELIHOODS.includes(stated?.name);
  const isFixed = stated?.name === "gaussian-fixed";
  const scale = isFixed || (isTable(stated) && "scale" in stated) ? stated.scale : 1;
  if (!isTable(stated) || !isKnown || !Number.isFinite(scale) || !(isFixed ? scale > 0 : scale === 1)) {
    refuse("likelihood cannot be read", HERE);
  }
  return isFixed ? { name: stated.name, scale } : { name: stated.name };
}

/**
 * Return whether version 1 can express a contract: images of one size, and one latent with a mean and a logvar.
 *
 * @param {Contract} contract
 */
function isPlain({ data, output, latents, conditions, encoding, prior, symbols, scaling_factor: scaling, shift_factor: shift }) {
  const isImage = data.name === "image" && data.shape.length === 4 && data.range !== null && output === null;
  const isOne = latents.length === 1 && latents[0].name === "latent" && encoding === "gaussian" && prior === NORMAL;
  return isImage && isOne && conditions.length === 0 && Object.keys(symbols).length === 0 && scaling === 1 && shift === 0;
}

/**
 * Return the inputs and outputs of a part, in order.
 *
 * @param {string} part
 * @param {Contract} contract
 * @returns {{inputs: TensorSpec[], outputs: TensorSpec[]}}
 */
export function tensorsOf(part, contract) {
  const { data, latents, conditions, encoding, likelihood } = contract;
  const [output, [batch]] = [outputOf(contract), data.shape];
  const isAlone = latents.length === 1 && latents[0].name === (encoding === "codes" ? "codes" : "latent");
  const perLatent = (/** @type {string} */ name) => latents.map((latent) => ({ ...latent, name: isAlone ? name : `${latent.name}_${name}` }));
  const [means, logvars, noise] = ["mean", "logvar", "noise"].map(perLatent);
  const isGaussian = encoding === "gaussian";
  const encoded = isGaussian ? means.flatMap((mean, index) => [mean, logvars[index]]) : latents;
  const suffix = SPREADS[likelihood?.name ?? ""];
  /** @returns {TensorSpec[]} */
  const spread = (/** @type {string} */ name) => (suffix ? [{ name: `${name}_${suffix}`, dtype: "float32", shape: output.shape, range: null }] : []);
  const given = (/** @type {"encoder" | "decoder" | "autoencoder"} */ module) => conditions
    .filter(({ parts }) => module === "autoencoder" || parts.includes(module))
    .map(({ name, dtype, shape, range }) => ({ name, dtype, shape, range }));
  const [channels, ...sizes] = output.shape.slice(1);
  /** @returns {{inputs: TensorSpec[], outputs: TensorSpec[]}} */
  const pixels = (/** @type {(number | string)[]} */ ...shape) => ({
    inputs: [...latents, ...given("decoder")],
    outputs: [{ name: "pixels", dtype: "uint8", shape: [batch, ...shape], range: [0, 255] }],
  });
  switch (part) {
    case "encoder":
      return { inputs: [data, ...given(part)], outputs: encoded };
    case "decoder":
      return { inputs: [...latents, ...given(part)], outputs: [output, ...spread(output.name)] };
    case "autoencoder":
      return {
        inputs: [data, ...(isGaussian ? noise : []), ...given(part)],
        outputs: [{ ...output, name: "reconstruction" }, ...encoded, ...(isGaussian ? latents : []), ...spread("reconstruction")],
      };
    case "decoder-uint8-hwc":
      return pixels(...sizes, channels);
    case "decoder-uint8-chw":
      return pixels(channels, ...sizes);
    default:
      throw new BundleError(`part is not known: ${part}`);
  }
}

/**
 * Return the tensor that the decoder gives.
 *
 * @param {Contract} contract
 */
export const outputOf = (contract) => contract.output ?? contract.data;

/**
 * Return the range of the pixels that are shown; null for data without a range.
 *
 * @param {Contract} contract
 */
export const pixelRange = (contract) => outputOf(contract).range ?? contract.data.range;

/**
 * Return whether the decoder gives images of 1 to 4 channels, which can be shown.
 *
 * @param {Contract} contract
 */
export function isImage(contract) {
  const { name, shape } = outputOf(contract);
  return name === "image" && shape.length === 4 && pixelRange(contract) !== null && [1, 2, 3, 4].includes(Number(shape[1]));
}

/**
 * Return the reason why no new images can be drawn from a contract, or null.
 *
 * @param {Contract} contract
 */
export function whyNotDrawable(contract) {
  const { name, shape } = outputOf(contract);
  if (!isImage(contract)) return `${name} (${shape.join(", ")}) is no image of 1 to 4 channels`;
  return contract.prior === GIVEN ? "the prior of the latents is not in the bundle" : null;
}

/**
 * Return the sizes of a tensor without the batch in numbers; symbols that are not in `values` have their usual value.
 *
 * @param {TensorSpec} tensor
 * @param {Contract} contract
 * @param {Record<string, number>} [values]
 */
export function sizesAt({ shape }, { symbols }, values = {}) {
  return shape.slice(1).map((size) => {
    if (typeof size === "number") return size;
    const { factor, symbol, offset } = parseSize(size);
    const chosen = Object.hasOwn(values, symbol) ? values[symbol] : null; // a symbol may be called "constructor"
    return factor * (chosen ?? usualValue(symbols[symbol])) + offset;
  });
}

/**
 * Return the value of a symbol that applications use most.
 *
 * @param {SymbolBounds} bounds
 */
export function usualValue({ min, max, usual }) {
  return usual ?? Math.max(min, Math.min(8, max ?? 8));
}

/** @param {string} text */
function parseSize(text) {
  const [, factor = "1", symbol, offset = "0"] =
    /^(?:([1-9]\d*)\*)?([A-Za-z][A-Za-z0-9_]*)([+-]\d+)?$/.exec(text) ?? refuse("size cannot be read", "manifest.json", null, text);
  const found = { factor: Number(factor), symbol, offset: Number(offset) };
  const isHeld = Number.isSafeInteger(found.factor) && Number.isSafeInteger(found.offset);
  return isHeld ? found : refuse("size cannot be read", "manifest.json", "numbers below 2^53", text);
}

/**
 * @param {number} factor
 * @param {string} symbol
 * @param {number} offset
 */
function writeSize(factor, symbol, offset) {
  return (factor === 1 ? "" : `${factor}*`) + symbol + (offset > 0 ? `+${offset}` : offset < 0 ? `${offset}` : "");
}

/**
 * Return whether sizes without the batch fit a tensor, and enter the values of its symbols.
 *
 * @param {number[]} sizes
 * @param {TensorSpec} tensor
 * @param {Record<string, number>} values
 */
export function fits(sizes, { shape }, values) {
  return sizes.length === shape.length - 1 && sizes.every((found, index) => {
    const size = shape[index + 1];
    if (typeof size === "number") return size === found;
    const { factor, symbol, offset } = parseSize(size);
    const value = (found - offset) / factor;
    if (!Object.hasOwn(values, symbol)) values[symbol] = value;
    return Number.isInteger(value) && value >= 1 && values[symbol] === value;
  });
}

/**
 * Return the lowest and the highest number of rows that the graphs take at a time.
 *
 * @param {Contract} contract
 */
export function batchBounds({ symbols }) {
  return { low: symbols.N?.min ?? 1, high: symbols.N?.max ?? Infinity };
}

/**
 * @param {any} shape
 * @returns {shape is number[]}
 */
export const isShape = (shape) => Array.isArray(shape) && shape.length > 0 && shape.every((size, index) => isWhole(shape, index) && size > 0);

/**
 * @param {any} range
 * @returns {range is [number, number]}
 */
export const isRange = (range) => Array.isArray(range) && range.length === 2 && range.every(Number.isFinite) && range[0] <= range[1];

/**
 * @param {any} value
 * @returns {value is Record<string, any>}
 */
export const isTable = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
