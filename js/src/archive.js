// The container (section 1): a ZIP file in one canonical form. A header has one form: it is built, and compared.

import { refuse } from "./errors.js";

const NAME_PART = "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?";
export const NAME = new RegExp(`^${NAME_PART}(?:/${NAME_PART})?$`);
const [LOCAL, CENTRAL, END] = [0x04034b50, 0x02014b50, 0x06054b50]; // the first four bytes of each header
const [CENTRAL_SIZE, END_SIZE] = [46, 22]; // bytes of a header without its name
const MAX_ENTRIES = 0xffff;

/**
 * Return the files of an archive in order, as views of `bytes`, and the CRC-32 that its headers state for each.
 *
 * @param {Uint8Array} bytes
 */
export function readArchive(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const end = bytes.length - END_SIZE;
  if (end < 0 || view.getUint32(0, true) !== LOCAL) refuse("not a bundle", "this file", "a ZIP file made by vae-export bundle");
  const [count, size, start] = [view.getUint16(end + 10, true), view.getUint32(end + 12, true), view.getUint32(end + 16, true)];
  if (view.getUint32(end, true) !== END || start + size !== end || count >= MAX_ENTRIES) {
    refuse("bundle is cut off, or has bytes after its end");
  }
  /** @type {Map<string, Uint8Array>} */
  const files = new Map();
  /** @type {Map<string, number>} */
  const checksums = new Map();
  const folded = new Set();
  let [position, header] = [0, start];
  for (let number = 1; number <= count; number += 1) {
    if (header + CENTRAL_SIZE > end) refuse("bundle is cut off", `entry ${number}`);
    const entry = { crc: view.getUint32(header + 16, true), size: view.getUint32(header + 20, true), offset: position };
    const nameEnd = header + CENTRAL_SIZE + view.getUint16(header + 28, true);
    const name = ascii(bytes.subarray(header + CENTRAL_SIZE, Math.min(end, nameEnd)));
    if (!NAME.test(name)) refuse("file name is not allowed", JSON.stringify(name.slice(0, 120)));
    if (folded.has(name.toLowerCase())) refuse("two files have one name", name);
    folded.add(name.toLowerCase());
    const [central, local] = [centralHeader(name, entry), localHeader(name, entry)];
    const body = position + local.length;
    if (body + entry.size > start) refuse("file is not where it should be", name);
    if (!equal(bytes, header, central) || !equal(bytes, position, local)) refuse("header is not in the canonical form", name);
    files.set(name, bytes.subarray(body, body + entry.size));
    checksums.set(name, entry.crc);
    position = body + entry.size;
    header += central.length;
  }
  if (position !== start || header !== end || !equal(bytes, end, endRecord(count, size, start))) {
    refuse("bundle is not in the canonical form", "central directory");
  }
  return { files, checksums };
}

/**
 * @param {string} name
 * @param {{crc: number, size: number}} entry
 */
function localHeader(name, { crc, size }) {
  return packed("4 2 2 2 2 2 4 4 4 2 2", [LOCAL, 20, 0, 0, 0, 0x21, crc, size, size, name.length, 0], name);
}

/**
 * @param {string} name
 * @param {{crc: number, size: number, offset: number}} entry
 */
function centralHeader(name, { crc, size, offset }) {
  const sizes = [crc, size, size, name.length, 0, 0, 0, 0, 0x81a40000, offset];
  return packed("4 2 2 2 2 2 2 4 4 4 2 2 2 2 2 4 4", [CENTRAL, 0x0314, 20, 0, 0, 0, 0x21, ...sizes], name);
}

/**
 * @param {number} count
 * @param {number} size
 * @param {number} start
 */
function endRecord(count, size, start) {
  return packed("4 2 2 2 2 4 4 2", [END, 0, 0, count, count, size, start, 0], "");
}

/**
 * @param {string} widths in bytes
 * @param {number[]} values
 * @param {string} name
 */
function packed(widths, values, name) {
  /** @type {number[]} */
  const bytes = [];
  widths.split(" ").forEach((width, field) => {
    for (let shift = 0; shift < 8 * Number(width); shift += 8) bytes.push((values[field] >>> shift) & 0xff);
  });
  return Uint8Array.from([...bytes, ...[...name].map((letter) => letter.charCodeAt(0))]);
}

/** @param {Uint8Array} bytes */
export function ascii(bytes) {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

/**
 * @param {Uint8Array} bytes
 * @param {number} start
 * @param {Uint8Array} expected
 */
function equal(bytes, start, expected) {
  return expected.every((byte, index) => bytes[start + index] === byte);
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** @param {Uint8Array} bytes */
export function crc32(bytes) {
  let value = ~0;
  for (let index = 0; index < bytes.length; index += 1) value = CRC_TABLE[(value ^ bytes[index]) & 0xff] ^ (value >>> 8);
  return ~value >>> 0;
}
