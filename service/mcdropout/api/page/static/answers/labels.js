/** Yes or no, once or for each label: the probability over the passes, and the threshold that decides. */

import { intervalOf, strip } from "../charts.js";
import { fill, h, number, percent, range, table } from "../dom.js";
import { ofEntropy } from "../words.js";
import { entropyBar } from "./classes.js";
import { namesOf } from "./view.js";

/**
 * @param {import("../api.js").Description} description
 * @param {import("../api.js").Row} first
 * @returns {import("./view.js").View}
 */
export function labels(description, first) {
  return description.task === "binary" ? one(description) : several(description, first);
}

/**
 * @param {import("../api.js").Description} description
 * @returns {import("./view.js").View}
 */
function one(description) {
  const [no = "0", yes = "1"] = namesOf(description, 2);
  const chart = strip();
  const split = entropyBar();
  const [title, text, compared, under] = [h("p", { class: "verdict" }), h("p"), h("p", { class: "compared" }), h("p")];
  const element = h(
    "div",
    {},
    title,
    text,
    compared,
    split.element,
    h("figure", {}, h("figcaption", {}, `Probability of ${yes} in each pass`), chart.element, h("div", { class: "ends" }, h("span", {}, no), h("span", {}, yes)), under),
  );
  return {
    element,
    update(row, baseline) {
      const p = row.mean;
      const interval = intervalOf(row.samples ?? [], p, row.variance);
      chart.update({ samples: row.samples ?? [], mean: p, interval, baseline: baseline ? baseline.mean : null });
      const [first, second] = String(row.label) === yes ? [yes, no] : [no, yes];
      const said = ofEntropy({ total: row.entropy, aleatoric: row.expected_entropy ?? row.entropy, most: Math.LN2 }, first, second);
      element.dataset["level"] = said.level;
      fill(title, said.title);
      fill(text, said.text);
      fill(under, `Mean ${percent(p)}`, interval && `; 90 % of the passes: ${range(interval)}`, `. The answer is ${row.label}: the threshold is ${percent(description.output.threshold ?? 0.5)}.`);
      if (baseline) fill(compared, "Without dropout the same network says ", h("strong", {}, `${baseline.label}, ${yes} ${percent(baseline.mean)}`), ".");
      split.update(row, Math.LN2);
      return `${said.title}, ${yes} ${percent(p)}`;
    },
  };
}

/**
 * @param {import("../api.js").Description} description
 * @param {import("../api.js").Row} first
 * @returns {import("./view.js").View}
 */
function several(description, first) {
  const names = namesOf(description, first.mean.length);
  const rows = names.map((name) => {
    const chart = strip();
    const cells = ["answer", "mean", "entropy", "epistemic", "without"].map(() => h("td"));
    return { chart, cells, element: h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "wide" }, chart.element), cells) };
  });
  const title = h("p", { class: "verdict" });
  const element = h(
    "div",
    {},
    title,
    table("Probability of each label", ["Label", "Each pass", "Answer", "Mean", "Entropy, nats", "Epistemic, nats", "Without dropout"], rows.map((row) => row.element), "classes"),
  );
  return {
    element,
    update(row, baseline) {
      /** @type {string[]} */
      const found = [];
      rows.forEach(({ chart, cells, element: line }, index) => {
        const samples = (row.samples ?? []).map((/** @type {number[]} */ pass) => pass[index] ?? 0);
        const p = row.mean[index];
        const without = baseline ? baseline.mean[index] : null;
        chart.update({ samples, mean: p, interval: intervalOf(samples, p, row.variance?.[index] ?? null), baseline: without });
        const isIn = Boolean(row.label[index]);
        if (isIn) found.push(names[index] ?? "");
        line.classList.toggle("best", isIn);
        const shown = [isIn ? "yes" : "no", percent(p), number(row.entropy[index]), number(row.mutual_information?.[index]), without === null ? "–" : percent(without)];
        cells.forEach((cell, place) => fill(cell, shown[place]));
      });
      const said = found.length ? `It finds ${found.join(", ")}` : "It finds none of the labels";
      fill(title, said);
      return said;
    },
  };
}
