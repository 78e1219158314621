/** A regression: the predictive distribution, and its variance in two parts. */

import { density, stacked } from "../charts.js";
import { fill, h, number } from "../dom.js";
import { flat } from "../numbers.js";

const MOST_TARGETS = 12;

/**
 * @param {import("../api.js").Description} description
 * @param {import("../api.js").Row} first
 * @returns {import("./view.js").View}
 */
export function values(description, first) {
  const names = description.output.targets ?? null;
  const count = Math.min(MOST_TARGETS, flat(first.mean).length);
  const targets = Array.from({ length: count }, (_, index) => target(count > 1 ? (names?.[index] ?? `Target ${index}`) : null));
  const element = h("div", {}, targets.map((one) => one.element));
  return {
    element,
    update(row, baseline) {
      const said = targets.map((one, index) => {
        /** @param {string} name @param {import("../api.js").Row | null} of */
        const of = (name, of = row) => (of?.[name] === null || of?.[name] === undefined ? null : (flat(of[name])[index] ?? null));
        return one.update({
          mean: of("mean") ?? NaN,
          epistemic: of("epistemic_variance"),
          aleatoric: of("aleatoric_variance"),
          interval: intervalAt(row.interval, index, flat(first.mean).length),
          samples: (row.samples ?? []).map((/** @type {any} */ pass) => flat(pass)[index] ?? NaN),
          baseline: of("mean", baseline),
        });
      });
      return said.join("; ");
    },
  };
}

/**
 * @param {any} interval `[2]`, or `[targets, 2]`
 * @param {number} index
 * @param {number} count
 * @returns {number[] | null}
 */
function intervalAt(interval, index, count) {
  if (!interval) return null;
  const all = flat(interval);
  if (all.length !== 2 * count) return null;
  return all.slice(2 * index, 2 * index + 2);
}

/** @param {string | null} name */
function target(name) {
  const curve = density();
  const bar = stacked(["aleatoric", "epistemic"]);
  const [title, ends, parts, compared] = [h("p", { class: "verdict" }), h("div", { class: "ends" }), h("p"), h("p", { class: "compared" })];
  const element = h("section", {}, name && h("h3", {}, name), title, compared, h("figure", {}, h("figcaption", {}, "Predictive distribution; below it the mean of each pass"), curve.element, ends), bar.element, parts);
  return {
    element,
    /**
     * @param {{mean: number, epistemic: number | null, aleatoric: number | null, interval: number[] | null,
     *     samples: number[], baseline: number | null}} shown
     */
    update({ mean, epistemic, aleatoric, interval, samples, baseline }) {
      const [own, noise] = [epistemic ?? 0, aleatoric ?? 0];
      const std = Math.sqrt(own + noise) || Math.abs(mean) * 0.01 || 1;
      const centres = samples.length ? samples : [mean];
      const noiseStd = Math.sqrt(samples.length ? noise : own + noise) || std * 0.15;
      const bounds = [...(interval ?? []), mean - 3 * std, mean + 3 * std, ...(baseline === null ? [] : [baseline])];
      const [low, high] = [Math.min(...bounds), Math.max(...bounds)];
      curve.update({
        outer: (x) => centres.reduce((sum, centre) => sum + normal(x, centre, noiseStd), 0) / centres.length,
        inner: own > 0 ? (x) => normal(x, mean, Math.sqrt(own)) : null,
        low,
        high,
        mean,
        interval,
        baseline,
        samples,
      });
      fill(ends, h("span", {}, number(low)), h("span", {}, number(high)));
      const said = interval ? `${number(mean)}, between ${number(interval[0])} and ${number(interval[1])}` : `${number(mean)} ± ${number(std)}`;
      fill(title, said);
      bar.update(own + noise > 0 ? [noise / (own + noise), own / (own + noise)] : [0, 0]);
      fill(
        parts,
        "Variance ",
        h("output", {}, number(own + noise)),
        ": ",
        h("span", { class: "key aleatoric" }),
        "aleatoric ",
        h("output", {}, number(aleatoric)),
        " – the noise of the data; ",
        h("span", { class: "key epistemic" }),
        "epistemic ",
        h("output", { "data-name": "epistemic" }, number(epistemic)),
        " – the network does not know",
      );
      if (baseline !== null) fill(compared, "Without dropout the same network says ", h("strong", {}, number(baseline)), ".");
      return said;
    },
  };
}

/**
 * @param {number} x
 * @param {number} mean
 * @param {number} std
 */
function normal(x, mean, std) {
  const z = (x - mean) / std;
  return Math.exp(-0.5 * z * z) / std;
}
