// JSON of unknown origin (section 3 of the specification). JSON.parse would accept what two parsers read differently: a key
// that occurs twice, a number that overflows, half a character; and it does not tell 20 from 20.0.

import { refuse } from "./errors.js";

export const MAX_DEPTH = 64;
export const MAX_VALUES = 1 << 22;
const INTEGER_LIMIT = 1n << 64n;

const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const SPACES = new Set([0x20, 0x09, 0x0a, 0x0d]);
const WORDS = /** @type {const} */ ([["true", true], ["false", false], ["null", null]]);
/** @type {Record<string, string>} */
const ESCAPES = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };

/** A number in the spelling of its document. */
class Spelled {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
  }
}

/**
 * The members of each object or array that were written with a fraction or an exponent.
 *
 * @type {WeakMap<object, Set<string | number>>}
 */
const fractions = new WeakMap();

/**
 * Parse JSON strictly.
 *
 * @param {Uint8Array} bytes
 * @param {string} name the file, for messages
 * @param {number} limit the largest size in bytes
 * @returns {any}
 */
export function parseJson(bytes, name, limit) {
  if (bytes.length > limit) refuse("file is too large", name, `${limit} bytes at most`, bytes.length);
  let values = 0;
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at];
    if (byte === 0x2c || byte === 0x5b || byte === 0x7b) values += 1;
  }
  if (values > MAX_VALUES) refuse("file is too large", name, `${MAX_VALUES} values at most`, values);
  try {
    return new Parser(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes)).document();
  } catch (error) {
    return refuse("JSON cannot be read", name, null, error instanceof Error ? error.message : error);
  }
}

/**
 * Parse JSON that `parseJson` accepts, with each number as its document spells it, for `dumpSpelled`.
 *
 * @param {Uint8Array} bytes
 * @returns {any}
 */
export const parseSpelled = (bytes) => new Parser(new TextDecoder().decode(bytes), true).document();

/**
 * Return what `parseSpelled` gave, or a part of it, as JSON in the one spelling that is hashed (section 2).
 *
 * @param {any} value
 * @returns {string}
 */
export function dumpSpelled(value) {
  if (value instanceof Spelled) return value.text;
  if (Array.isArray(value)) return `[${value.map(dumpSpelled).join(", ")}]`;
  if (value !== null && typeof value === "object") {
    const members = Object.keys(value).sort(byCodePoints).map((key) => `${dumpSpelled(key)}: ${dumpSpelled(value[key])}`);
    return `{${members.join(", ")}}`;
  }
  const text = JSON.stringify(value);
  return text.replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/**
 * Compare texts by their code points. Strings compare by UTF-16 code units, of which surrogates are not the highest.
 *
 * @param {string} one
 * @param {string} other
 */
function byCodePoints(one, other) {
  const [left, right] = [Array.from(one), Array.from(other)];
  const place = left.findIndex((letter, index) => letter !== right[index]);
  const at = (/** @type {string[]} */ letters) => letters[place]?.codePointAt(0) ?? -1;
  return place < 0 ? left.length - right.length : at(left) - at(right);
}

/**
 * Return whether a member of a parsed object or array is a whole number, written as one, that a float64 holds exactly.
 *
 * @param {any} parent
 * @param {string | number} key
 */
export function isWhole(parent, key) {
  return Number.isSafeInteger(parent[key]) && !fractions.get(parent)?.has(key);
}

class Parser {
  /**
   * @param {string} text
   * @param {boolean} spells whether numbers become `Spelled`
   */
  constructor(text, spells = false) {
    this.text = text;
    this.spells = spells;
    this.at = 0;
    this.depth = 0;
  }

  document() {
    this.space();
    const value = this.value(null, "");
    this.space();
    if (this.at < this.text.length) this.fail();
    return value;
  }

  /**
   * @param {any} parent
   * @param {string | number} key
   * @returns {any}
   */
  value(parent, key) {
    const letter = this.text[this.at];
    if (letter === '"') return this.string();
    if (letter === "{") return this.object();
    if (letter === "[") return this.array();
    for (const [word, value] of WORDS) {
      if (letter === word[0] && this.text.startsWith(word, this.at)) {
        this.at += word.length;
        return value;
      }
    }
    return this.number(parent, key);
  }

  object() {
    /** @type {Record<string, any>} */
    const found = {};
    this.open();
    if (!this.closes("}")) {
      do {
        this.space();
        if (this.text[this.at] !== '"') this.fail();
        const key = this.string();
        if (Object.hasOwn(found, key)) throw new Error(`duplicate key ${JSON.stringify(key)}`);
        this.space();
        if (this.text[this.at++] !== ":") this.fail(-1);
        this.space();
        const value = this.value(found, key);
        // Not by assignment, which would set the prototype for the key "__proto__".
        Object.defineProperty(found, key, { value, configurable: true, enumerable: true, writable: true });
      } while (this.continues("}"));
    }
    this.depth -= 1;
    return found;
  }

  array() {
    /** @type {any[]} */
    const found = [];
    this.open();
    if (!this.closes("]")) {
      do {
        this.space();
        found.push(this.value(found, found.length));
      } while (this.continues("]"));
    }
    this.depth -= 1;
    return found;
  }

  string() {
    let found = "";
    for (this.at += 1; ; ) {
      found += this.match(PLAIN);
      const letter = this.text[this.at++];
      if (letter === '"') break;
      if (letter !== "\\") this.fail(-1);
      const escape = this.text[this.at++];
      if (escape === "u") {
        const digits = this.text.slice(this.at, this.at + 4);
        if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.fail();
        found += String.fromCharCode(parseInt(digits, 16));
        this.at += 4;
      } else {
        found += ESCAPES[escape] ?? this.fail(-1);
      }
    }
    if (/\p{Surrogate}/u.test(found)) throw new Error("half a character");
    return found;
  }

  /**
   * @param {any} parent
   * @param {string | number} key
   * @returns {number | Spelled}
   */
  number(parent, key) {
    NUMBER.lastIndex = this.at;
    const match = NUMBER.exec(this.text);
    if (match === null) return this.fail();
    const [token, fraction, exponent] = match;
    this.at += token.length;
    if (this.spells) return new Spelled(token === "-0" ? "0" : token);
    const value = Number(token);
    if (fraction !== undefined || exponent !== undefined) {
      if (!Number.isFinite(value)) throw new Error(`number is too large: ${token.slice(0, 40)}`);
      if (parent !== null && Number.isInteger(value)) fractions.set(parent, (fractions.get(parent) ?? new Set()).add(key));
    } else if (!Number.isSafeInteger(value)) {
      const whole = token.length > 24 ? INTEGER_LIMIT : BigInt(token);
      if (whole >= INTEGER_LIMIT || whole <= -INTEGER_LIMIT) throw new Error(`number is too large: ${token.slice(0, 40)}`);
    }
    return value;
  }

  open() {
    this.at += 1;
    this.depth += 1;
    if (this.depth > MAX_DEPTH) throw new Error(`more than ${MAX_DEPTH} levels`);
  }

  /** @param {string} bracket */
  closes(bracket) {
    this.space();
    if (this.text[this.at] !== bracket) return false;
    this.at += 1;
    return true;
  }

  /** @param {string} bracket */
  continues(bracket) {
    if (this.closes(bracket)) return false;
    if (this.text[this.at++] !== ",") this.fail(-1);
    return true;
  }

  space() {
    while (SPACES.has(this.text.charCodeAt(this.at))) this.at += 1;
  }

  /**
   * Take what a sticky pattern matches here.
   *
   * @param {RegExp} pattern
   */
  match(pattern) {
    pattern.lastIndex = this.at;
    const start = this.at;
    pattern.test(this.text);
    this.at = pattern.lastIndex;
    return this.text.slice(start, this.at);
  }

  /** @returns {never} */
  fail(offset = 0) {
    const place = this.at + offset;
    const found = place < this.text.length ? JSON.stringify(this.text[place]) : "the end";
    throw new Error(`unexpected ${found} at character ${place}`);
  }
}
