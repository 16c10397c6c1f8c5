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

const MOST_SHOWN = 240;

/**
 * Return a stranger's text in a form that a terminal or a page can show: characters that move a cursor or turn the text are
 * escaped, and a long text is cut.
 *
 * @param {unknown} text
 */
function printable(text) {
  return String(text).slice(0, MOST_SHOWN).replace(/(?! )[\p{C}\p{Z}]/gu, (letter) => `\\u{${letter.codePointAt(0)?.toString(16)}}`);
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
    ...(expected === undefined || expected === null ? [] : [`expected ${printable(expected)}`]),
    ...(got === undefined ? [] : [`got ${printable(got)}`]),
  ];
  return (where ? `${what}: ${printable(where)}` : what) + (details.length > 0 ? `; ${details.join(", ")}` : "");
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
