/** Which view shows a model's answer. A view is made once for a model, and updated with each answer. */

import { shapeOf } from "../numbers.js";
import { classes } from "./classes.js";
import { labels } from "./labels.js";
import { maps } from "./maps.js";
import { values } from "./values.js";

/**
 * @typedef {import("../api.js").Row} Row
 * @typedef {import("../api.js").Description} Description
 * @typedef {{element: HTMLElement, update: (row: Row, baseline: Row | null) => string}} View
 *     `update` shows an answer to one row, and beside it that of the network without dropout; it says in a sentence what
 *     is shown.
 */

/**
 * @param {Description} description
 * @param {Row} row its first answer
 * @returns {View}
 */
export function viewOf(description, row) {
  if (isDense(description, row)) return maps(description, row);
  if (description.task === "classification") return classes(description, row);
  if (description.task === "regression") return values(description, row);
  return labels(description, row);
}

/**
 * Whether an answer to one row has places, such as pixels or steps: an entropy for each.
 *
 * @param {Description} description
 * @param {Row} row
 */
export function isDense(description, row) {
  const places = { classification: 0, binary: 0, multilabel: 1, regression: 1 }[description.task] ?? 0;
  return shapeOf(description.task === "regression" ? row.mean : row.entropy).length > places;
}

/**
 * The labels of the classes, or their numbers.
 *
 * @param {Description} description
 * @param {number} count
 * @returns {string[]}
 */
export function namesOf(description, count) {
  return description.output.labels ?? Array.from({ length: count }, (_, index) => String(index));
}
