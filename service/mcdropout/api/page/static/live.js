/** Live: how long the service's predictions take, and how many there are, by its own metrics. */

import { Failure, metrics } from "./api.js";
import { lines } from "./charts.js";
import { fill, h, number } from "./dom.js";

const EVERY_MS = 2000;
const MOST = 60;

/**
 * Of a model, what its histogram of durations says so far.
 *
 * @typedef {{count: number, buckets: Map<number, number>}} Counted
 */

/** A box with two small charts, which asks only while it is open and the page is looked at. */
export function live() {
  const [latency, rate] = [lines(["running", "vote"]), lines(["running"])];
  const [latencyText, rateText, problem] = [h("p"), h("p"), h("p", { class: "problem" })];
  /** @type {{p50: number[], p95: number[], rate: number[]}} */
  const seen = { p50: [], p95: [], rate: [] };
  /** @type {{at: number, counted: Counted} | null} */
  let before = null;
  let timer = 0;
  const element = h(
    "details",
    {
      class: "live",
      ontoggle: () => {
        clearInterval(timer);
        if (!element.open) return;
        void look();
        timer = setInterval(look, EVERY_MS);
      },
    },
    h("summary", {}, "Live"),
    problem,
    h("div", { class: "columns" }, h("figure", {}, h("figcaption", {}, "Latency, p50 and p95"), latency.element, latencyText), h("figure", {}, h("figcaption", {}, "Predictions a second"), rate.element, rateText)),
  );

  async function look() {
    if (document.hidden) return;
    try {
      const now = { at: performance.now(), counted: durations(await metrics()) };
      fill(problem);
      if (before) {
        const seconds = (now.at - before.at) / 1000;
        const found = between(before.counted, now.counted);
        push(seen.rate, found.count / seconds);
        push(seen.p50, quantileOf(found, 0.5));
        push(seen.p95, quantileOf(found, 0.95));
        const most = Math.max(1e-3, ...seen.p95.filter(Number.isFinite));
        latency.update([seen.p50, seen.p95], { low: 0, high: most, count: MOST });
        rate.update([seen.rate], { low: 0, high: Math.max(1, ...seen.rate), count: MOST });
        const [p50, p95] = [seen.p50.at(-1) ?? NaN, seen.p95.at(-1) ?? NaN];
        fill(latencyText, Number.isFinite(p50) ? `p50 at most ${number(p50 * 1000)} ms, p95 at most ${number(p95 * 1000)} ms` : "nothing was asked of late");
        fill(rateText, `${number(seen.rate.at(-1))} a second`);
      }
      before = now;
    } catch (error) {
      before = null;
      fill(problem, error instanceof Failure && error.kind === "denied" ? "The metrics take a key for them, or are at a port of their own." : "The metrics cannot be had.");
    }
  }

  return element;
}

/** @param {number[]} values @param {number} value */
function push(values, value) {
  values.push(value);
  if (values.length > MOST) values.shift();
}

/**
 * What `mcdropout_request_duration_seconds` says, of all models.
 *
 * @param {string} text in Prometheus's format
 * @returns {Counted}
 */
export function durations(text) {
  /** @type {Map<number, number>} */
  const buckets = new Map();
  let count = 0;
  for (const [, kind, labels = "", value] of text.matchAll(/^mcdropout_request_duration_seconds_(bucket|count)\{(.*)\} (\S+)$/gm)) {
    if (kind === "count") {
      count += Number(value);
      continue;
    }
    const bound = Number(/le="([^"]*)"/.exec(labels)?.[1]?.replace("+Inf", "Infinity"));
    buckets.set(bound, (buckets.get(bound) ?? 0) + Number(value));
  }
  return { count, buckets };
}

/**
 * @param {Counted} before
 * @param {Counted} after
 * @returns {Counted}
 */
function between(before, after) {
  const buckets = new Map([...after.buckets].map(([bound, count]) => [bound, count - (before.buckets.get(bound) ?? 0)]));
  return { count: after.count - before.count, buckets };
}

/**
 * The bound below which at least a share of the durations lies, in seconds; NaN where there are none.
 *
 * @param {Counted} counted
 * @param {number} share
 */
export function quantileOf({ count, buckets }, share) {
  if (count <= 0) return NaN;
  return [...buckets].sort(([a], [b]) => a - b).find(([, within]) => within >= share * count)?.[0] ?? NaN;
}
