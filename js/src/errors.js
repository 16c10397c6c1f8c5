/** The bundle is damaged, is not what the specification says, or lacks what was asked for. The message names the place. */
export class BundleError extends Error {
  /** @override */
  name = "BundleError";
}

/** An argument does not fit the model: a wrong name, shape or type, a number out of range or not finite. */
export class InputError extends Error {
  /** @override */
  name = "InputError";
}

/**
 * Write an error message: what, where, what was expected, what was found.
 *
 * @param {string} what
 * @param {string | null} [where]
 * @param {unknown} [expected]
 * @param {unknown} [got]
 */
export function describe(what, where, expected, got) {
  const details = [
    ...(expected === undefined || expected === null ? [] : [`expected ${expected}`]),
    ...(got === undefined ? [] : [`got ${got}`]),
  ];
  return (where ? `${what}: ${where}` : what) + (details.length > 0 ? `; ${details.join(", ")}` : "");
}

/**
 * Throw a BundleError.
 *
 * @param {string} what
 * @param {string | null} [where]
 * @param {unknown} [expected]
 * @param {unknown} [got]
 * @returns {never}
 */
export function refuse(what, where, expected, got) {
  throw new BundleError(describe(what, where, expected, got));
}
