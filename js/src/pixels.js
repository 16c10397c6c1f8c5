// Pixels: levels of 0 to 255 (section 4), grids of images, and PNG files.

import { crc32 } from "./archive.js";
import { InputError } from "./errors.js";

/** @typedef {import("./bundle.js").Tensor} Tensor */

/**
 * Return the byte that shows a pixel of the range [low, high].
 *
 * @param {number} pixel
 * @param {readonly [number, number]} range
 */
export function toLevel(pixel, [low, high]) {
  return Math.floor(Math.min(255, Math.max(0, ((pixel - low) / (high - low)) * 255)) + 0.5);
}

/**
 * Round images to bytes.
 *
 * @param {Tensor} images float32 (N, C, H, W)
 * @param {readonly [number, number]} range of a pixel
 * @param {"hwc" | "chw"} [layout]
 * @returns {Tensor & {data: Uint8Array}} uint8 (N, H, W, C), or (N, C, H, W) for "chw"
 */
export function toPixels({ data, dims }, range, layout = "hwc") {
  const [rows, channels, height, width] = dims;
  const plane = height * width;
  const bytes = new Uint8Array(data.length);
  for (let row = 0; row < rows; row += 1) {
    for (let channel = 0; channel < channels; channel += 1) {
      const from = (row * channels + channel) * plane;
      const [to, step] = layout === "chw" ? [from, 1] : [row * channels * plane + channel, channels];
      for (let pixel = 0; pixel < plane; pixel += 1) bytes[to + step * pixel] = toLevel(Number(data[from + pixel]), range);
    }
  }
  return { data: bytes, dims: layout === "chw" ? dims : [rows, height, width, channels], dtype: "uint8" };
}

/**
 * Return pixels in the other layout.
 *
 * @param {Tensor} pixels uint8 (N, C, H, W) for "hwc", (N, H, W, C) for "chw"
 * @param {"hwc" | "chw"} layout of the result
 * @returns {Tensor & {data: Uint8Array}}
 */
export function toLayout({ data, dims }, layout) {
  const [rows, channels, height, width] = layout === "hwc" ? dims : [dims[0], dims[3], dims[1], dims[2]];
  const plane = height * width;
  const bytes = new Uint8Array(data.length);
  for (let index = 0; index < data.length; index += 1) {
    const [row, channel, pixel] = [Math.floor(index / (channels * plane)), Math.floor(index / plane) % channels, index % plane];
    const last = (row * plane + pixel) * channels + channel;
    if (layout === "hwc") bytes[last] = Number(data[index]);
    else bytes[index] = Number(data[last]);
  }
  return { data: bytes, dims: layout === "hwc" ? [rows, height, width, channels] : [rows, channels, height, width], dtype: "uint8" };
}

/**
 * Arrange images in a grid.
 *
 * @param {Tensor} pixels uint8 (N, H, W, C)
 * @param {number} [columns]
 * @returns {Tensor & {data: Uint8Array}} uint8 (1, H', W', C); places without an image are 0
 */
export function toGrid({ data, dims: [rows, height, width, channels] }, columns = Math.ceil(Math.sqrt(rows))) {
  const [across, down] = [columns * width, Math.ceil(rows / columns) * height];
  const grid = new Uint8Array(across * down * channels);
  for (let row = 0; row < rows; row += 1) {
    const [top, left] = [Math.floor(row / columns) * height, (row % columns) * width];
    for (let y = 0; y < height; y += 1) {
      const from = (row * height + y) * width * channels;
      const line = /** @type {Uint8Array} */ (data).subarray(from, from + width * channels);
      grid.set(line, ((top + y) * across + left) * channels);
    }
  }
  return { data: grid, dims: [1, down, across, channels], dtype: "uint8" };
}

/**
 * Return an image as the bytes of a canvas: red, green, blue, opacity. One or two channels: the first is grey. The last of
 * 2 or 4 channels is opacity.
 *
 * @param {Tensor} pixels uint8 (N, H, W, C)
 * @param {number} [row] which image
 * @returns {Uint8ClampedArray<ArrayBuffer>} H · W · 4 bytes, for `new ImageData(bytes, width)`
 */
export function toRgba({ data, dims: [, height, width, channels] }, row = 0) {
  requireChannels(channels);
  const shown = new Uint8ClampedArray(height * width * 4);
  const first = row * height * width * channels;
  for (let pixel = 0; pixel < height * width; pixel += 1) {
    const at = first + pixel * channels;
    for (let colour = 0; colour < 3; colour += 1) shown[4 * pixel + colour] = Number(data[at + (channels < 3 ? 0 : colour)]);
    shown[4 * pixel + 3] = channels % 2 === 0 ? Number(data[at + channels - 1]) : 255;
  }
  return shown;
}

// The kind of image that PNG has for each number of channels: grey, grey with opacity, colour, colour with opacity.
const PNG_KINDS = [0, 4, 2, 6];

/**
 * Write an image as a PNG file. Several images are arranged in a grid.
 *
 * @param {Tensor} pixels uint8 (N, H, W, C) of 1 to 4 channels
 * @param {number} [columns] of the grid
 * @returns {Promise<Uint8Array>} the bytes of the file
 */
export async function encodePng(pixels, columns) {
  const { data, dims: [, height, width, channels] } = pixels.dims[0] === 1 ? pixels : toGrid(pixels, columns);
  requireChannels(channels);
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, PNG_KINDS[channels - 1]], 8); // eight bits; then the usual compression, filters and order
  const size = width * channels;
  const lines = new Uint8Array(height * (size + 1)); // before each line a filter: none
  for (let y = 0; y < height; y += 1) lines.set(/** @type {Uint8Array} */ (data).subarray(y * size, (y + 1) * size), y * (size + 1) + 1);
  const stream = new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  const chunks = [signature, chunk("IHDR", header), chunk("IDAT", packed), chunk("IEND", new Uint8Array(0))];
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

/**
 * @param {string} kind
 * @param {Uint8Array} content
 */
function chunk(kind, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, crc32(bytes.subarray(4, 8 + content.length)));
  return bytes;
}

/** @param {number} channels */
function requireChannels(channels) {
  if (![1, 2, 3, 4].includes(channels)) throw new InputError(`no image that can be shown: ${channels} channels; expected 1 to 4`);
}
