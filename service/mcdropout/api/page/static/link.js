/** The permalink: what is looked at, in the address, so that it can be sent to somebody else. */

/**
 * @typedef {{view: string, model: string, passes: number | null, seed: number, p: number | null, rotate: number,
 *     input: string | null}} Link
 *     `input` is what was drawn or filled in, as `encoded` makes it; null for an example.
 */

export const VIEWS = ["predict", "theatre", "training", "model"];

/**
 * What an address leads to.
 *
 * @param {string} hash
 * @returns {Link}
 */
export function read(hash) {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [view = "", model = ""] = path.split("/").map(decodeURIComponent);
  const given = new URLSearchParams(query);
  return {
    view: VIEWS.includes(view) ? view : "predict",
    model,
    passes: numberOf(given.get("passes")),
    seed: numberOf(given.get("seed")) ?? 1,
    p: numberOf(given.get("p")),
    rotate: numberOf(given.get("rotate")) ?? 0,
    input: given.get("input"),
  };
}

/**
 * The address that leads there.
 *
 * @param {Link} link
 */
export function written(link) {
  const query = new URLSearchParams();
  if (link.passes !== null) query.set("passes", String(link.passes));
  query.set("seed", String(link.seed));
  if (link.p !== null) query.set("p", String(link.p));
  if (link.rotate) query.set("rotate", String(link.rotate));
  if (link.input !== null) query.set("input", link.input);
  return `#/${link.view}/${encodeURIComponent(link.model)}?${query}`;
}

/**
 * Values of 0 to 255 as text, four bits each; what is 0 many times over takes little.
 *
 * @param {ArrayLike<number>} values
 */
export function encoded(values) {
  let text = "";
  for (let start = 0; start < values.length; ) {
    const digit = Math.round((values[start] ?? 0) / 17);
    let end = start;
    while (end < values.length && Math.round((values[end] ?? 0) / 17) === digit) end += 1;
    const count = end - start;
    text += digit.toString(16) + (count > 1 ? `.${count.toString(36)}.` : "");
    start = end;
  }
  return text;
}

/**
 * The values that `encoded` made a text of.
 *
 * @param {string} text
 */
export function decoded(text) {
  /** @type {number[]} */
  const values = [];
  for (const [, digit = "0", count] of text.matchAll(/([0-9a-f])(?:\.([0-9a-z]+)\.)?/g)) {
    const times = count === undefined ? 1 : Math.min(parseInt(count, 36), 1 << 20);
    for (let index = 0; index < times; index += 1) values.push(parseInt(digit, 16) * 17);
  }
  return values;
}

/** @param {string | null} text */
function numberOf(text) {
  if (text === null || text === "") return null;
  const value = Number(text);
  return Number.isFinite(value) ? value : null;
}
