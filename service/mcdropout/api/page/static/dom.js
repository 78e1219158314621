/** The document: elements are made and filled here. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @typedef {Record<string, any>} Properties by name: `on…` are listeners, `class`, `for`, `role`, `aria-…` and `data-…`
 *     attributes, and the others properties of the element.
 * @typedef {Node | string | number | null | undefined | false} Child
 */

/**
 * An element.
 *
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Properties} [properties]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (/^(class|for|role|list|aria-.*|data-.*)$/.test(name)) made.setAttribute(name, String(value));
    else /** @type {any} */ (made)[name] = value;
  }
  return fill(made, ...children);
}

/**
 * An element of a drawing.
 *
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string | number>} [attributes]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[T]}
 */
export function s(tag, attributes = {}, ...children) {
  const made = /** @type {SVGElementTagNameMap[T]} */ (document.createElementNS(SVG, tag));
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  return fill(made, ...children);
}

/**
 * Give an element other children than it has.
 *
 * @template {Element} E
 * @param {E} element
 * @param {...(Child | Child[])} children
 * @returns {E}
 */
export function fill(element, ...children) {
  const nodes = children.flat().filter((child) => child !== null && child !== undefined && child !== false);
  element.replaceChildren(.../** @type {(Node | string)[]} */ (nodes.map((child) => (child instanceof Node ? child : String(child)))));
  return element;
}

let names = 0;

/** A name that no other element has. */
export function fresh() {
  names += 1;
  return `e${names}`;
}

/**
 * A slider with its name and its value beside it.
 *
 * @param {string} name
 * @param {{min: number, max: number, step: number, value: number}} range
 * @param {(value: number) => void} changed
 * @param {(value: number) => string} [shown]
 */
export function slider(name, range, changed, shown = String) {
  const id = fresh();
  const output = h("output", { for: id }, shown(range.value));
  const input = h("input", { type: "range", id, min: String(range.min), max: String(range.max), step: String(range.step) });
  input.value = String(range.value);
  input.setAttribute("aria-valuetext", shown(range.value));
  const show = () => {
    fill(output, shown(Number(input.value)));
    input.setAttribute("aria-valuetext", shown(Number(input.value)));
  };
  input.addEventListener("input", () => {
    show();
    changed(Number(input.value));
  });
  return {
    element: h("div", { class: "slider" }, h("label", { for: id }, name), input, output),
    /** @param {number} value */
    set(value) {
      input.value = String(value);
      show();
    },
    get value() {
      return Number(input.value);
    },
  };
}

/**
 * A table that scrolls sideways by itself where it is wider than the page.
 *
 * @param {string} caption
 * @param {string[]} heads of its columns
 * @param {HTMLTableRowElement[] | HTMLTableSectionElement} rows or, where these change, the body that holds them
 * @param {string} [name] its class
 */
export function table(caption, heads, rows, name) {
  const head = h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text))));
  const body = Array.isArray(rows) ? h("tbody", {}, rows) : rows;
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": caption }, h("table", { class: name }, h("caption", {}, caption), head, body));
}

/**
 * A button.
 *
 * @param {string} name
 * @param {() => void} pressed
 * @param {Properties} [properties]
 */
export function button(name, pressed, properties = {}) {
  return h("button", { type: "button", onclick: pressed, ...properties }, name);
}

/**
 * A number as people read it: three significant digits.
 *
 * @param {number | null | undefined} value
 */
export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3)) return value.toExponential(1);
  return Number(value.toPrecision(3)).toString();
}

/**
 * An interval of probabilities in percent.
 *
 * @param {[number, number]} interval
 */
export function range([low, high]) {
  const [from, to] = [percent(Math.max(0, low)), percent(Math.min(1, high))];
  return from === to ? from : `${from} – ${to}`;
}

/**
 * A probability in percent.
 *
 * @param {number} value
 */
export function percent(value) {
  if (value > 0.9995 && value < 1) return "> 99.9 %";
  if (value < 0.0005 && value > 0) return "< 0.1 %";
  return `${(value * 100).toFixed(1)} %`;
}
