// Recommended settings (section 3): measured advice for one machine, which is followed only on a machine like it.

import { isTable } from "./contract.js";

/** @typedef {import("./manifest.js").Manifest} Manifest */
/** @typedef {import("./manifest.js").ModelFile} ModelFile */

/** @type {Record<string, Record<string, unknown>>} */
const SWITCHES = {
  "no-spinning": { extra: { session: { intra_op: { allow_spinning: "0" } } } },
  parallel: { executionMode: "parallel" },
  "no-arena": { enableCpuMemArena: false },
  "no-pattern": { enableMemPattern: false },
};
const LEVELS = ["disabled", "basic", "extended", "all"];
// Instruction sets by which engines choose their kernels, as Linux names them.
const FEATURES = [
  "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16",
  "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2",
];

/**
 * Return the file and the session options that a bundle recommends for a part, or the reason why they are not followed.
 * A recommendation that is not understood counts as none.
 *
 * @param {Manifest} manifest
 * @param {string} part
 * @param {Record<string, unknown> | null} machine this machine, see `describeMachine`
 * @returns {{file: ModelFile, options: Record<string, unknown>} | {reason: string} | null}
 */
export function recommendation({ recommended, files }, part, machine) {
  const advice = Array.isArray(recommended) ? recommended.find((item) => isTable(item) && item.part === part) : undefined;
  if (!advice) return null;
  const { file: name, sha256, provider, threads, optimisation, switches } = advice;
  const file = files.find((entry) => entry.name === name && entry.part === part && entry.format === "onnx" && entry.sha256 === sha256);
  const isKnown = file && !file.machine && provider === "CPUExecutionProvider" && Number.isSafeInteger(threads) && threads >= 0
    && LEVELS.includes(optimisation) && Array.isArray(switches) && switches.every((item) => Object.hasOwn(SWITCHES, item));
  if (!isKnown) return { reason: "recommendation not followed: it is not understood" };
  if (machine === null) return { reason: "recommendation not followed: this machine is not known" };
  for (const [key, here] of Object.entries(machine)) {
    if (JSON.stringify(advice.machine?.[key]) !== JSON.stringify(here)) {
      return { reason: `recommendation not followed: it was measured on another machine (${key})` };
    }
  }
  const level = { executionProviders: ["cpu"], graphOptimizationLevel: optimisation, ...(threads > 0 ? { intraOpNumThreads: threads } : {}) };
  return { file, options: Object.assign(level, ...switches.map((/** @type {string} */ item) => SWITCHES[item])) };
}

/**
 * Return the settings that a file needs on this machine: an x86-64 processor without VNNI adds two products of bytes in 16
 * bits, where they do not fit. WebAssembly is not affected.
 *
 * @param {ModelFile} file
 * @param {Record<string, unknown>} options of the session
 * @returns {Promise<Record<string, unknown>>} the options with those settings
 */
export async function withNeededEntries({ without_vnni: entries = {} }, options) {
  const { process } = /** @type {any} */ (globalThis);
  if (Object.keys(entries).length === 0 || !process?.versions?.node || process.arch !== "x64") return options;
  const features = /** @type {string[]} */ ((await describeMachine())?.features ?? []); // none where it cannot be known
  if (features.includes("avx512_vnni") || features.includes("avx_vnni")) return options;
  const isLow = options.graphOptimizationLevel === "disabled" || options.graphOptimizationLevel === "basic";
  const extra = { .../** @type {object} */ (options.extra ?? {}), ...entries };
  return { ...options, extra, ...(isLow ? { graphOptimizationLevel: "extended" } : {}) };
}

/**
 * Return the facts in which this machine and that of a recommendation must agree; null where they cannot be known.
 *
 * @returns {Promise<Record<string, unknown> | null>}
 */
export async function describeMachine() {
  const { process } = /** @type {any} */ (globalThis);
  if (process?.platform !== "linux" || !process.versions?.node) return null;
  const [{ readFile }, os] = await Promise.all([import("node:fs/promises"), import("node:os")]);
  const info = await readFile("/proc/cpuinfo", "utf8").catch(() => "");
  const line = (/** @type {string} */ name) => info.split("\n").find((text) => text.startsWith(name))?.split(":")[1]?.trim() ?? "";
  const flags = new Set(`${line("flags")} ${line("Features")}`.split(/\s+/));
  return {
    processor: line("model name") || "not stated",
    features: FEATURES.filter((name) => flags.has(name)).sort(),
    system: `Linux ${os.machine()}`,
    cores: os.cpus().length,
  };
}
