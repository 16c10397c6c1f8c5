// node conformance.js FOLDER opens every bundle in a folder and writes a line for each: its name, and accept or refuse.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { BundleError, openBundle } from "../src/index.js";

const [, , folder, ...options] = process.argv;
for (const file of readdirSync(folder).filter((name) => name.endsWith(".zip")).sort()) {
  const error = await openBundle(readFileSync(join(folder, file))).then(() => null, (reason) => reason);
  const said = error === null ? "accept" : error instanceof BundleError ? "refuse" : "crash";
  console.log(`${file.slice(0, -4)} ${said}${options.includes("--why") && error ? ` ${error.message}` : ""}`);
}
