/** What a row is made in: a pad for pictures, a form for tables, a field for texts, and JSON for what is none of these. */

import { STROKES } from "./digits.js";
import { button, fill, fresh, h, slider } from "./dom.js";
import { decoded, encoded } from "./link.js";
import { flat } from "./numbers.js";
import { layoutOf, pad, thumbnail } from "./pad.js";

/**
 * @typedef {import("./api.js").Input} Input
 * @typedef {import("./api.js").Description} Description
 * @typedef {{element: HTMLElement, row: () => any, choose: (row: any) => void, text: () => string,
 *     restore: (text: string) => void, rotate?: (degrees: number) => void, isPicture: boolean,
 *     draw?: (strokes: number[][][]) => void,
 *     thumbnail?: (row: any) => HTMLElement | null}} Editor
 *     `row` is what a client would send, and raises where that cannot be made; `text` is for a permalink.
 */

const MOST_FIELDS = 64;
const MOST_NUMBERS = 8192;
const USUAL_SIDE = 256;

/**
 * The editor of all inputs of a model.
 *
 * @param {Description} description
 * @param {any} example a body of it, or null
 * @param {() => void} changed
 */
export function editorOf(description, example, changed) {
  const several = description.inputs.length > 1;
  const rowsOf = (/** @type {Input} */ input) => examplesOf(example, several ? input.name : null);
  const editors = description.inputs.map((input) => editor(description, input, rowsOf(input), changed));
  const [first] = editors;
  if (!first) throw new Error("a model has no inputs");
  const count = Math.min(...description.inputs.map((input) => rowsOf(input).length));
  const samples = Array.from({ length: count }, (_, index) => {
    const picture = several ? null : first.thumbnail?.(rowsOf(/** @type {Input} */ (description.inputs[0]))[index]);
    const chosen = () => editors.forEach((one, which) => one.choose(rowsOf(/** @type {Input} */ (description.inputs[which]))[index]));
    return h("button", { type: "button", class: "sample", "aria-label": `Example ${index + 1}`, onclick: chosen }, picture ?? `Example ${index + 1}`);
  });
  const strokes = Object.entries(several || !first.draw ? {} : STROKES).map(([name, drawing]) => button(name, () => first.draw?.(drawing), { class: "sample", "aria-label": `Draw ${name}` }));
  const turn = slider("Rotate", { min: -180, max: 180, step: 5, value: 0 }, (degrees) => first.rotate?.(degrees), (degrees) => `${degrees}°`);
  const element = h(
    "div",
    { class: "editor" },
    editors.map((one, index) => (several ? h("fieldset", {}, h("legend", {}, description.inputs[index]?.name), one.element) : one.element)),
    first.rotate && !several && turn.element,
    strokes.length + samples.length > 0 && h("div", { class: "samples", role: "group", "aria-label": "Examples" }, samples, strokes),
  );
  return {
    element,
    isPicture: first.isPicture && !several,
    /** What a client would send for the row. */
    body() {
      if (!several) return { inputs: [first.row()] };
      return { inputs: Object.fromEntries(editors.map((one, index) => [description.inputs[index]?.name, [one.row()]])) };
    },
    text: () => JSON.stringify(editors.map((one) => one.text())),
    /** @param {string | null} text @param {number} degrees */
    restore(text, degrees) {
      try {
        if (text === null) throw new Error("nothing is given");
        const texts = JSON.parse(text);
        editors.forEach((one, index) => one.restore(texts[index]));
      } catch {
        if (samples.length) editors.forEach((one, which) => one.choose(rowsOf(/** @type {Input} */ (description.inputs[which]))[0]));
      }
      turn.set(degrees);
      first.rotate?.(degrees);
    },
    /** @param {number} degrees */
    rotate(degrees) {
      turn.set(degrees);
      first.rotate?.(degrees);
    },
    get rotation() {
      return first.rotate && !several ? turn.value : 0;
    },
  };
}

/**
 * @param {any} body
 * @param {string | null} name of the input, where there are several
 * @returns {any[]}
 */
function examplesOf(body, name) {
  const inputs = body?.inputs;
  if (inputs === undefined || inputs === null) return [];
  const rows = name === null ? (Array.isArray(inputs) ? inputs : Object.values(inputs)[0]) : inputs[name];
  return Array.isArray(rows) ? rows.slice(0, 8) : [];
}

/**
 * @param {Description} description
 * @param {Input} input
 * @param {any[]} examples
 * @param {() => void} changed
 * @returns {Editor}
 */
function editor(description, input, examples, changed) {
  const shape = input.shape.map((size) => (typeof size === "number" ? size : usual(description.sizes[size])));
  const layout = description.preprocess ? null : layoutOf(shape);
  if (layout) return picture(input, layout, changed);
  if (!description.preprocess && input.shape.length === 1 && typeof shape[0] === "number" && input.shape[0] === shape[0] && shape[0] <= MOST_FIELDS) {
    return form(input, shape[0], examples[0], changed);
  }
  return text(description, input, examples[0], changed);
}

/** @param {{minimum: number, maximum: number, multiple: number} | undefined} size */
function usual(size) {
  if (!size) return 1;
  const multiple = size.multiple || 1;
  return Math.max(size.minimum, Math.floor(Math.min(size.maximum, USUAL_SIDE) / multiple) * multiple);
}

/**
 * @param {Input} input
 * @param {import("./pad.js").Layout} layout
 * @param {() => void} changed
 * @returns {Editor}
 */
function picture(input, layout, changed) {
  const drawn = pad(layout, changed);
  const [low, high] = [input.minimum ?? 0, input.maximum ?? 1];
  const isWhole = /int/.test(input.dtype);
  const isDigit = layout.channels === 1 && layout.height === 28 && layout.width === 28;
  const id = fresh();
  const problem = h("p", { role: "alert" });
  const file = h("input", {
    type: "file",
    id,
    accept: "image/*",
    onchange: async () => {
      const [chosen] = file.files ?? [];
      fill(problem);
      try {
        if (chosen) await drawn.upload(chosen);
      } catch {
        fill(problem, "That file is no picture that this browser reads; PNG, JPEG and WebP are.");
      }
    },
  });
  const own = [...drawn.element.children];
  fill(drawn.element, ...own, h("div", { class: "row" }, h("label", { for: id }, "Or a picture "), file), problem);

  /** @param {number} value of 0 to 255 */
  const scaled = (value) => {
    const found = low + ((high - low) * value) / 255;
    return isWhole || (low === 0 && high === 255) ? Math.round(found) : Number(found.toPrecision(6));
  };

  /** What a row's numbers are as values of 0 to 255, a channel after another. @param {any} row */
  function valuesOf(row) {
    const numbers = flat(row).map((value) => (255 * (value - low)) / (high - low));
    if (layout.channelsFirst !== false) return numbers;
    const count = layout.width * layout.height;
    return Array.from({ length: numbers.length }, (_, at) => numbers[(at % count) * layout.channels + Math.floor(at / count)] ?? 0);
  }

  return {
    element: drawn.element,
    isPicture: true,
    ...(isDigit ? { draw: drawn.draw } : {}),
    row() {
      const numbers = layout.channels * layout.width * layout.height;
      if (input.image && numbers > MOST_NUMBERS) return { b64: drawn.png() };
      const values = drawn.pixels();
      const [rows, columns, channels] = [layout.height, layout.width, layout.channels];
      /** @param {number} channel @param {number} y @param {number} x */
      const at = (channel, y, x) => scaled(values[(channel * rows + y) * columns + x] ?? 0);
      /** @template T @param {number} length @param {(index: number) => T} each */
      const list = (length, each) => Array.from({ length }, (_, index) => each(index));
      if (layout.channelsFirst === null) return list(rows, (y) => list(columns, (x) => at(0, y, x)));
      if (layout.channelsFirst) return list(channels, (c) => list(rows, (y) => list(columns, (x) => at(c, y, x))));
      return list(rows, (y) => list(columns, (x) => list(channels, (c) => at(c, y, x))));
    },
    choose(row) {
      if (Array.isArray(row)) drawn.choose(valuesOf(row));
      else if (typeof row?.b64 === "string") void fetch(`data:image/png;base64,${row.b64}`).then((response) => response.blob()).then(drawn.upload);
    },
    text: () => (drawn.isEmpty ? "" : encoded(drawn.upright())),
    restore(text) {
      if (text) drawn.choose(decoded(text));
    },
    rotate: drawn.rotate,
    thumbnail: (row) => (Array.isArray(row) ? thumbnail(valuesOf(row), layout) : null),
  };
}

/**
 * @param {Input} input
 * @param {number} count
 * @param {any} example
 * @param {() => void} changed
 * @returns {Editor}
 */
function form(input, count, example, changed) {
  const names = input.columns ?? Array.from({ length: count }, (_, index) => (count === 1 ? input.name : `${input.name} ${index}`));
  /** @param {any} row @param {number} index */
  const of = (row, index) => (Array.isArray(row) ? row[index] : row?.[names[index] ?? ""]);
  const fields = names.map((name, index) => {
    const id = fresh();
    const kinds = input.categories[name];
    const given = of(example, index);
    const field = kinds
      ? h("select", { id, onchange: changed }, Object.keys(kinds).map((kind) => h("option", { value: kind }, kind)))
      : h("input", { id, type: "number", step: "any", required: input.missing !== "allowed", oninput: changed });
    if (!kinds) {
      if (input.minimum !== null) field.setAttribute("min", String(input.minimum));
      if (input.maximum !== null) field.setAttribute("max", String(input.maximum));
    }
    set(field, kinds, given ?? 0);
    return { name, kinds, field, element: h("div", { class: "field" }, h("label", { for: id }, name), field) };
  });
  return {
    element: h("div", { class: "form" }, fields.map((field) => field.element)),
    isPicture: false,
    row() {
      const values = fields.map(({ name, kinds, field }) => {
        if (kinds) return input.columns ? field.value : kinds[field.value];
        if (field.value === "") {
          if (input.missing === "allowed") return null;
          throw new Error(`${name} is empty; a number is accepted`);
        }
        return Number(field.value);
      });
      return input.columns ? Object.fromEntries(fields.map(({ name }, index) => [name, values[index]])) : values;
    },
    choose(row) {
      fields.forEach(({ kinds, field }, index) => set(field, kinds, of(row, index)));
      changed();
    },
    text: () => JSON.stringify(fields.map(({ field }) => field.value)),
    restore(text) {
      const values = JSON.parse(text);
      fields.forEach(({ field }, index) => (field.value = String(values[index] ?? "")));
      changed();
    },
  };
}

/**
 * @param {HTMLInputElement | HTMLSelectElement} field
 * @param {Record<string, number> | undefined} kinds
 * @param {any} value a number, or the name of a category
 */
function set(field, kinds, value) {
  const named = kinds && typeof value === "number" ? Object.keys(kinds).find((name) => kinds[name] === value) : value;
  field.value = named === null || named === undefined ? "" : String(named);
}

/**
 * @param {Description} description
 * @param {Input} input
 * @param {any} example
 * @param {() => void} changed
 * @returns {Editor}
 */
function text(description, input, example, changed) {
  const id = fresh();
  const takesText = description.preprocess !== null;
  const area = h("textarea", { id, rows: takesText ? 4 : 8, spellcheck: takesText, oninput: changed });
  area.value = typeof example === "string" ? example : example === undefined ? "" : JSON.stringify(example);
  const about = takesText ? "A text, or what else the bundle's hook takes, as JSON" : `A row of the shape [${input.shape.join(", ")}], as JSON`;
  return {
    element: h("div", { class: "field" }, h("label", { for: id }, about), area, takesText && button("Empty", () => ((area.value = ""), area.focus()))),
    isPicture: false,
    row() {
      const given = area.value.trim();
      if (takesText && !/^[[{"]/.test(given)) return given;
      try {
        return JSON.parse(given);
      } catch {
        if (takesText) return given;
        throw new Error(`what is written is no JSON; a row of the shape [${input.shape.join(", ")}] is accepted`);
      }
    },
    choose(row) {
      area.value = typeof row === "string" ? row : JSON.stringify(row);
      changed();
    },
    text: () => area.value,
    restore(text) {
      area.value = text;
      changed();
    },
  };
}
