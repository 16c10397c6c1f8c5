// Does this machine compute the right pixels? docs/bundle-format.md, sections 4 and 5, is the specification.

/** The byte that shows a pixel: floor((p - low) / (high - low) · 255 + 0.5), limited to 0 to 255; in float64. */
export function level(pixel, low, high) {
  const scaled = ((pixel - low) / (high - low)) * 255;
  return Math.floor(Math.min(255, Math.max(0, scaled)) + 0.5);
}

/**
 * Hold one output against its golden array.
 *
 * @param {Float32Array} got
 * @param {Float32Array} expected
 * @param {number} band the largest absolute error that is allowed
 * @param {[number, number] | null} range of a pixel; null for what is no image
 * @returns {{error: number, band: number, pixels: number, differing: number, unexplained: number, passed: boolean}}
 *   `error` is infinite where sizes differ or a number is not finite; `differing` pixels have another level than expected,
 *   `unexplained` ones have a level that no value within the band has.
 */
export function judge(got, expected, band, range) {
  let [error, differing, unexplained] = [got.length === expected.length ? 0 : Infinity, 0, 0];
  for (let index = 0; index < expected.length && error < Infinity; index += 1) {
    error = Number.isFinite(got[index]) ? Math.max(error, Math.abs(got[index] - expected[index])) : Infinity;
    if (range === null || error === Infinity) continue;
    const [low, high] = range;
    const shown = level(got[index], low, high);
    if (shown !== level(expected[index], low, high)) differing += 1;
    if (shown < level(expected[index] - band, low, high) || shown > level(expected[index] + band, low, high)) unexplained += 1;
  }
  const pixels = range === null ? 0 : expected.length;
  return { error, band, pixels, differing, unexplained, passed: error <= band && unexplained === 0 };
}
