/** Small drawings. Each is hidden from screen readers: the numbers stand beside it, or in its `aria-label`. */

import { s } from "./dom.js";
import { quantile } from "./numbers.js";

const GOLDEN = 0.618034;

/**
 * Values of passes on a line from `low` to `high`: a dot for each, their interval, their mean, and the baseline.
 */
export function strip() {
  const interval = s("rect", { class: "interval", y: 0.2, height: 0.6 });
  const passes = s("path", { class: "passes" });
  const mean = s("path", { class: "mean" });
  const baseline = s("path", { class: "baseline" });
  const element = s(
    "svg",
    { class: "strip", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { class: "axis", d: "M0 1H1" }),
    interval,
    passes,
    mean,
    baseline,
  );
  return {
    element,
    /**
     * @param {{samples: number[], mean: number, interval: [number, number] | null, baseline: number | null,
     *     low?: number, high?: number}} shown
     */
    update({ samples, mean: middle, interval: bounds, baseline: without, low = 0, high = 1 }) {
      /** @param {number} value */
      const x = (value) => Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
      passes.setAttribute("d", samples.map((value, index) => `M${x(value).toFixed(4)} ${((index * GOLDEN) % 1) * 0.7 + 0.15}h0`).join(""));
      mean.setAttribute("d", `M${x(middle)} 0V1`);
      baseline.setAttribute("d", without === null ? "" : `M${x(without)} .1V.9`);
      interval.setAttribute("x", String(bounds ? x(bounds[0]) : 0));
      interval.setAttribute("width", String(bounds ? Math.max(0.002, x(bounds[1]) - x(bounds[0])) : 0));
    },
  };
}

/**
 * The interval that holds a share of some values; of their mean and variance, as if they were normal, where there are none.
 *
 * @param {number[]} samples
 * @param {number} mean
 * @param {number | null} variance
 * @param {number} [share]
 * @returns {[number, number] | null}
 */
export function intervalOf(samples, mean, variance, share = 0.9) {
  if (samples.length > 1) {
    const ascending = [...samples].sort((a, b) => a - b);
    return [quantile(ascending, (1 - share) / 2), quantile(ascending, (1 + share) / 2)];
  }
  if (variance === null) return null;
  const reach = 1.645 * Math.sqrt(variance);
  return [mean - reach, mean + reach];
}

/**
 * Parts of a whole, side by side.
 *
 * @param {string[]} classes of the parts, for their colours
 */
export function stacked(classes) {
  const parts = classes.map((name) => s("rect", { class: name, y: 0, height: 1 }));
  const element = s(
    "svg",
    { class: "stacked", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "ground", width: 1, height: 1 }),
    ...parts,
  );
  return {
    element,
    /** @param {number[]} shares of the whole, in the order of the parts */
    update(shares) {
      let x = 0;
      parts.forEach((part, index) => {
        const width = Math.max(0, Math.min(1 - x, shares[index] ?? 0));
        part.setAttribute("x", String(x));
        part.setAttribute("width", String(width));
        x += width;
      });
    },
  };
}

/**
 * Lines over the same steps, and a band around one of them.
 *
 * @param {string[]} classes of the lines, for their colours
 */
export function lines(classes) {
  const band = s("path", { class: "band" });
  const paths = classes.map((name) => s("path", { class: name }));
  const element = s(
    "svg",
    { class: "lines", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { class: "axis", d: "M0 1H1" }),
    band,
    ...paths,
  );
  return {
    element,
    /**
     * @param {number[][]} series of each line
     * @param {{low: number, high: number, count?: number, around?: {low: number[], high: number[]}}} scale
     */
    update(series, { low, high, count, around }) {
      const most = Math.max(1, (count ?? Math.max(...series.map((one) => one.length))) - 1);
      /** @param {number} value @param {number} index */
      const at = (value, index) => `${(index / most).toFixed(4)} ${(1 - Math.min(1, Math.max(0, (value - low) / (high - low || 1)))).toFixed(4)}`;
      paths.forEach((path, which) => {
        const points = (series[which] ?? []).map((value, index) => (Number.isFinite(value) ? at(value, index) : null));
        path.setAttribute("d", joined(points));
      });
      if (!around) return;
      const [above, below] = [around.high.map(at), around.low.map(at).reverse()];
      band.setAttribute("d", above.length > 1 ? `M${above.join("L")}L${below.join("L")}Z` : "");
    },
  };
}

/** @param {(string | null)[]} points of a line; null where it has a gap */
function joined(points) {
  let isDown = false;
  return points
    .map((point) => {
      const step = point === null ? "" : `${isDown ? "L" : "M"}${point}`;
      isDown = point !== null;
      return step;
    })
    .join("");
}

/**
 * A density as an area, with marks on its axis.
 */
export function density() {
  const area = s("path", { class: "density" });
  const inner = s("path", { class: "inner" });
  const interval = s("path", { class: "bounds" });
  const mean = s("path", { class: "mean" });
  const baseline = s("path", { class: "baseline" });
  const passes = s("path", { class: "passes" });
  const element = s(
    "svg",
    { class: "curve", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { class: "axis", d: "M0 .9H1" }),
    area,
    inner,
    interval,
    passes,
    mean,
    baseline,
  );
  return {
    element,
    /**
     * @param {{outer: (x: number) => number, inner: ((x: number) => number) | null, low: number, high: number, mean: number,
     *     interval: number[] | null, baseline: number | null, samples: number[]}} shown densities, and where they are
     */
    update(shown) {
      const steps = 160;
      const xs = Array.from({ length: steps + 1 }, (_, index) => shown.low + ((shown.high - shown.low) * index) / steps);
      const outer = xs.map(shown.outer);
      const own = shown.inner ? xs.map(shown.inner) : [];
      /** @param {number} value */
      const x = (value) => Math.min(1, Math.max(0, (value - shown.low) / (shown.high - shown.low || 1)));
      /** @param {number[]} values */
      const drawn = (values) => {
        const top = Math.max(...values);
        return values.length ? `M0 .9${values.map((value, index) => `L${index / steps} ${0.9 - (0.85 * value) / (top || 1)}`).join("")}L1 .9Z` : "";
      };
      area.setAttribute("d", drawn(outer));
      inner.setAttribute("d", drawn(own));
      mean.setAttribute("d", `M${x(shown.mean)} .02V.9`);
      baseline.setAttribute("d", shown.baseline === null ? "" : `M${x(shown.baseline)} .02V.9`);
      interval.setAttribute("d", shown.interval ? shown.interval.map((bound) => `M${x(bound)} .3V.9`).join("") : "");
      passes.setAttribute("d", shown.samples.map((value) => `M${x(value)} .95h0`).join(""));
    },
  };
}
