/** A dense answer: a map of what is at each place, with how uncertain that is laid over it. */

import { fill, h, number, slider } from "../dom.js";
import { flat, shapeOf } from "../numbers.js";
import { namesOf } from "./view.js";

/**
 * @param {import("../api.js").Description} description
 * @param {import("../api.js").Row} first
 * @returns {import("./view.js").View}
 */
export function maps(description, first) {
  const isRegression = description.task === "regression";
  const perLabel = description.task === "multilabel";
  const places = shapeOf(isRegression ? first.mean : first.entropy).slice(perLabel ? 1 : 0);
  const [height, width] = places.length > 1 ? places.slice(-2) : [1, places[0] ?? 1];
  const [tall = 1, wide = 1] = [height, width];
  const names = description.task === "classification" || perLabel ? namesOf(description, 0) : ["no", "yes"];
  const what = h("canvas", { width: wide, height: tall });
  const unsure = h("canvas", { width: wide, height: tall });
  what.setAttribute("role", "img");
  unsure.setAttribute("aria-hidden", "true");
  const measures = isRegression ? ["variance", "epistemic_variance", "aleatoric_variance"] : ["entropy", "mutual_information", "expected_entropy"];
  const select = h("select", { "aria-label": "What is laid over", onchange: () => shown && draw(shown) }, measures.map((name) => h("option", { value: name }, name.replaceAll("_", " "))));
  const opacity = slider("Overlay", { min: 0, max: 1, step: 0.05, value: 0.6 }, (value) => (unsure.style.opacity = String(value)), (value) => `${Math.round(value * 100)} %`);
  const label = perLabel ? h("select", { "aria-label": "Label", onchange: () => shown && draw(shown) }, names.map((name, index) => h("option", { value: String(index) }, name))) : null;
  const [title, legend, under] = [h("p", { class: "verdict" }), h("ul", { class: "legend" }), h("p")];
  unsure.style.opacity = "0.6";
  const stack = h("div", { class: "map" }, what, unsure);
  stack.style.aspectRatio = `${wide} / ${Math.max(tall, wide / 16)}`;
  const element = h("div", {}, title, h("div", { class: "row" }, label, select, opacity.element), stack, under, legend);
  /** @type {import("../api.js").Row | null} */
  let shown = null;

  stack.addEventListener("pointermove", (event) => {
    if (!shown) return;
    const box = stack.getBoundingClientRect();
    const x = Math.min(wide - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * wide)));
    const y = Math.min(tall - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * tall)));
    const index = y * wide + x;
    const found = placesOf(shown, isRegression ? "mean" : "label");
    fill(under, `Row ${y}, column ${x}: ${shownValue(found[index])}; ${select.value.replaceAll("_", " ")} ${number(placesOf(shown, select.value)[index])}`);
  });

  /**
   * @param {import("../api.js").Row} row
   * @param {string} name
   */
  function placesOf(row, name) {
    let value = row[name];
    if (value === null || value === undefined) return [];
    if (label && Array.isArray(value)) value = value[Number(label.value)];
    const all = flat(value);
    return all.slice(0, tall * wide);
  }

  /** @param {any} value */
  function shownValue(value) {
    return typeof value === "number" ? number(value) : String(value);
  }

  /** @param {import("../api.js").Row} row */
  function draw(row) {
    const found = placesOf(row, isRegression ? "mean" : "label");
    const over = placesOf(row, select.value);
    const most = Math.max(1e-12, ...over);
    if (isRegression) {
      const [low, high] = [Math.min(...found), Math.max(...found)];
      paint(what, found.map((value) => grey((value - low) / (high - low || 1))));
      fill(legend, h("li", {}, `dark ${number(low)}, light ${number(high)}`));
    } else {
      /** @param {any} value */
      const which = (value) => (typeof value === "boolean" ? Number(value) : Math.max(0, names.indexOf(String(value))));
      paint(what, found.map((value) => colour(which(value))));
      const kinds = [...new Set(found.map(which))].sort((a, b) => a - b);
      fill(legend, kinds.map((kind) => h("li", {}, swatch(colour(kind)), perLabel ? (kind ? "yes" : "no") : names[kind])));
    }
    paint(unsure, over.map((value) => [255, 64, 129, Math.round((255 * value) / most)]));
  }

  return {
    element,
    update(row) {
      shown = row;
      draw(row);
      const over = placesOf(row, select.value);
      const mean = over.reduce((sum, value) => sum + value, 0) / Math.max(1, over.length);
      const said = `${tall} × ${wide} places; ${select.value.replaceAll("_", " ")} ${number(mean)} on average, ${number(Math.max(...over))} at most`;
      fill(title, said);
      what.setAttribute("aria-label", `Map of the answer: ${said}`);
      return said;
    },
  };
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number[][]} colours red, green, blue and opacity of each place
 */
function paint(canvas, colours) {
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(canvas.width, canvas.height);
  colours.forEach((one, index) => image.data.set(one, 4 * index));
  context.putImageData(image, 0, 0);
}

/** @param {number} share */
function grey(share) {
  const value = Math.round(255 * share);
  return [value, value, value, 255];
}

/** The colour of a class, far from those of its neighbours; the first is dark. @param {number} index */
function colour(index) {
  if (index === 0) return [32, 34, 40, 255];
  const hue = (index * 137.5) % 360;
  /** @param {number} n */
  const part = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.6 - 0.32 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [part(0), part(8), part(4), 255];
}

/** @param {number[]} rgb */
function swatch(rgb) {
  const made = h("span", { class: "key" });
  made.style.background = `rgb(${rgb.slice(0, 3).join(" ")})`;
  return made;
}
