/** A classification: each class as a distribution over passes, and the entropy in its two parts. */

import { intervalOf, stacked, strip } from "../charts.js";
import { fill, h, number, percent, range, table } from "../dom.js";
import { argmax } from "../numbers.js";
import { ofEntropy } from "../words.js";
import { namesOf } from "./view.js";

const MOST_CLASSES = 12;

/**
 * @param {import("../api.js").Description} description
 * @param {import("../api.js").Row} first
 * @returns {import("./view.js").View}
 */
export function classes(description, first) {
  const count = first.mean.length;
  const names = namesOf(description, count);
  const rows = Array.from({ length: Math.min(count, MOST_CLASSES) }, () => {
    const chart = strip();
    const [name, mean, range, without] = [h("th"), h("td"), h("td"), h("td")];
    name.scope = "row";
    return { chart, name, mean, range, without, element: h("tr", {}, name, h("td", { class: "wide" }, chart.element), mean, range, without) };
  });
  const title = h("p", { class: "verdict" });
  const text = h("p");
  const compared = h("p", { class: "compared" });
  const split = entropyBar();
  const element = h(
    "div",
    {},
    title,
    text,
    compared,
    split.element,
    table(
      count > MOST_CLASSES ? `The ${MOST_CLASSES} most probable of ${count} classes` : "Probability of each class",
      ["Class", "Each pass", "Mean", "90 % of passes", "Without dropout"],
      rows.map((row) => row.element),
      "classes",
    ),
  );
  return {
    element,
    update(row, baseline) {
      /** @type {number[]} */
      const mean = row.mean;
      const order = mean.map((_, index) => index).sort((a, b) => (mean[b] ?? 0) - (mean[a] ?? 0));
      const shown = count > MOST_CLASSES ? order.slice(0, MOST_CLASSES) : mean.map((_, index) => index);
      shown.forEach((which, place) => {
        const at = rows[place];
        if (!at) return;
        const samples = (row.samples ?? []).map((/** @type {number[]} */ pass) => pass[which] ?? 0);
        const p = mean[which] ?? 0;
        const interval = intervalOf(samples, p, row.variance ? row.variance[which] : null);
        const without = baseline ? baseline.mean[which] : null;
        at.chart.update({ samples, mean: p, interval, baseline: without });
        fill(at.name, names[which]);
        fill(at.mean, percent(p));
        fill(at.range, interval ? range(interval) : "–");
        fill(at.without, without === null ? "–" : percent(without));
        at.element.classList.toggle("best", which === order[0]);
      });
      const best = names[order[0] ?? 0] ?? "";
      const said = ofEntropy(
        { total: row.entropy, aleatoric: row.expected_entropy ?? row.entropy, most: Math.log(count) },
        best,
        names[order[1] ?? 0] ?? "",
      );
      element.dataset["level"] = said.level;
      fill(title, said.title);
      fill(text, said.text);
      split.update(row, Math.log(count));
      if (baseline) {
        const its = argmax(baseline.mean);
        fill(compared, "Without dropout the same network says ", h("strong", {}, `${names[its]}, ${percent(baseline.mean[its])}`), ", and nothing about how far to trust that.");
      }
      return `${said.title}, ${percent(mean[order[0] ?? 0] ?? 0)}`;
    },
  };
}

/** The entropy of an answer as a bar in two parts, with its numbers. */
export function entropyBar() {
  const bar = stacked(["aleatoric", "epistemic"]);
  const [total, aleatoric, epistemic] = [h("output"), h("output"), h("output")];
  const element = h(
    "div",
    { class: "entropy" },
    h("p", {}, "Entropy ", total, " nats, of which"),
    bar.element,
    h("p", {}, h("span", { class: "key aleatoric" }), "aleatoric ", aleatoric, " – the input is ambiguous; ", h("span", { class: "key epistemic" }), "epistemic ", epistemic, " – the network does not know"),
  );
  epistemic.setAttribute("data-name", "epistemic");
  return {
    element,
    /**
     * @param {import("../api.js").Row} row
     * @param {number} most that of an even guess, in nats
     */
    update(row, most) {
      const expected = row.expected_entropy ?? row.entropy;
      const mutual = row.mutual_information ?? 0;
      bar.update([expected / most, mutual / most]);
      fill(total, `${number(row.entropy)} of ${number(most)}`);
      fill(aleatoric, number(expected));
      fill(epistemic, number(mutual));
    },
  };
}
