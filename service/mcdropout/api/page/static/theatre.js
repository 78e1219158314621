/** The theatre: dropout at work, pass by pass, with the masks that the service itself uses for this seed. */

import { Failure, masks, predict } from "./api.js";
import { isDense, namesOf } from "./answers/view.js";
import { lines } from "./charts.js";
import { button, fill, h, number, percent, slider } from "./dom.js";
import { Running, argmax, flat } from "./numbers.js";
import { reproduce } from "./reproduce.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").SiteMasks} SiteMasks
 */

const UNITS = 256;
const AT_ONCE = 20;
const SPEEDS = [1, 2, 5, 10, 25];
const CELL = 12;

/**
 * @param {Context} context
 * @returns {import("./main.js").Mounted}
 */
export function theatreView(context) {
  const { description } = context;
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const problem = h("p", { class: "problem", role: "alert" });
  const said = h("p", { role: "status", class: "verdict" });
  const stage = h("div", { class: "sites" });
  const votes = h("ol", { class: "votes", "aria-label": "Votes so far" });
  const chart = lines(["running", "vote"]);
  const chartEnds = h("div", { class: "ends" });
  const figures = h("dl", { class: "figures" });
  const follow = h("select", { onchange: () => show() });
  const again = reproduce();
  const play = button(isStill ? "Play slowly" : "Play", () => (timer ? pause() : begin()), { class: "primary" });
  const speed = slider("Speed", { min: 0, max: SPEEDS.length - 1, step: 1, value: isStill ? 0 : 2 }, () => timer && begin(), (index) => `${SPEEDS[index]} passes/s`);
  const controls = h(
    "div",
    { class: "row", role: "group", "aria-label": "Play" },
    play,
    button("Step", () => {
      pause();
      void go(at + 1);
    }),
    button("Back", () => {
      pause();
      void go(at - 1);
    }),
    button("To the end", () => {
      pause();
      void go(total);
    }),
    button("Start again", () => {
      pause();
      void go(0);
    }),
    speed.element,
  );
  const element = h(
    "div",
    { class: "columns" },
    h("section", { class: "given", "aria-label": "Input" }, context.editor.element),
    h(
      "section",
      { class: "found", "aria-label": "Theatre" },
      h("p", {}, "Each pass drops other units, at random: it is a thinned network of its own, and votes. What the votes have in common is the prediction; how far they lie apart is how little the network knows."),
      problem,
      controls,
      said,
      h("figure", {}, h("figcaption", {}, "The running mean and, around it, twice its standard error; the thin line is what each pass says"), chart.element, chartEnds),
      h("div", { class: "row" }, h("label", {}, "Of ", follow)),
      figures,
      h("h3", {}, "Votes"),
      votes,
      h("h3", {}, "Units kept in this pass"),
      stage,
      again.element,
    ),
    h("section", { class: "chosen", "aria-label": "Settings" }, context.controls.element),
  );

  let at = 0;
  let total = 0;
  let asked = 0;
  let isDone = false;
  let timer = 0;
  /** @type {number[][]} what each pass says, of each that can be followed */
  let samples = [];
  /** @type {string[]} */
  let names = [];
  /** @type {Map<number, Promise<import("./api.js").Masks>>} */
  let drawn = new Map();
  /** @type {ReturnType<typeof board>[]} */
  let boards = [];

  async function load() {
    pause();
    asked += 1;
    const mine = asked;
    try {
      const body = context.editor.body();
      const query = context.query();
      const answer = await predict(description.name, body, { ...query, samples: true });
      if (mine !== asked || isDone) return;
      const row = answer.predictions[0];
      if (!row) return;
      const dense = isDense(description, row);
      const own = /** @type {any[]} */ (row["samples"]);
      samples = own.map((pass) => (dense ? [mean(flat(pass))] : flat(pass)));
      names = dense ? ["the mean over all places"] : followed(row);
      total = samples.length;
      drawn = new Map();
      boards = [];
      fill(stage);
      const before = follow.value;
      fill(follow, names.map((name, index) => h("option", { value: String(index) }, name)));
      follow.value = names[Number(before)] && before !== "" ? before : String(description.task === "classification" && !dense ? argmax(row.mean) : 0);
      again.update(description.name, body, { ...query, samples: true });
      context.remember();
      context.succeeded();
      fill(problem);
      await go(Math.min(Math.max(at, 1), total));
    } catch (error) {
      failed(error);
    }
  }

  /** What each pass says, by name. @param {import("./api.js").Row} row */
  function followed(row) {
    if (description.task === "classification") return namesOf(description, row.mean.length);
    if (description.task === "binary") return [namesOf(description, 2)[1] ?? "1"];
    const count = flat(row.mean).length;
    if (description.task === "multilabel") return namesOf(description, count);
    return count === 1 ? ["the value"] : Array.from({ length: count }, (_, index) => `target ${index}`);
  }

  /** @param {number} pass how many passes are to be shown as done */
  async function go(pass) {
    at = Math.min(total, Math.max(0, pass));
    show();
    if (at === 0) return;
    const mine = asked;
    try {
      const found = await masksOf(at - 1);
      if (mine !== asked || isDone) return;
      if (!boards.length) {
        boards = found.sites.map(board);
        fill(stage, boards.map((one) => one.element));
      }
      const offset = at - 1 - found.first;
      if (offset >= 0 && offset < found.passes) found.sites.forEach((site, index) => boards[index]?.show(site, offset));
    } catch (error) {
      pause();
      failed(error);
    }
  }

  /** @param {number} pass */
  function masksOf(pass) {
    const first = Math.floor(pass / AT_ONCE) * AT_ONCE;
    const known = drawn.get(first);
    if (known) return known;
    const { seed, p } = /** @type {{seed: number, p?: number}} */ (context.query());
    const query = { seed, row: 0, first, passes: Math.min(AT_ONCE, Math.max(1, total - first)), units: UNITS, ...(p === undefined ? {} : { p }) };
    const asking = masks(description.name, Object.keys(description.sizes).length ? context.editor.body() : null, query);
    drawn.set(first, asking);
    asking.catch(() => drawn.delete(first));
    return asking;
  }

  function show() {
    const which = Number(follow.value) || 0;
    const running = new Running();
    /** @type {number[]} */
    const means = [];
    /** @type {{low: number[], high: number[]}} */
    const around = { low: [], high: [] };
    const own = samples.slice(0, at).map((pass) => pass[which] ?? NaN);
    for (const value of own) {
      running.add(value);
      means.push(running.mean);
      const reach = Number.isFinite(running.stdError) ? 2 * running.stdError : 0;
      around.low.push(running.mean - reach);
      around.high.push(running.mean + reach);
    }
    const all = samples.map((pass) => pass[which] ?? NaN);
    const isShare = description.task !== "regression";
    const [low, high] = isShare ? [0, 1] : [Math.min(...all), Math.max(...all)];
    chart.update([means, own], { low, high, count: total, around });
    fill(chartEnds, h("span", {}, "pass 1"), h("span", {}, `${number(low)} below, ${number(high)} above`), h("span", {}, `pass ${total}`));
    fill(
      figures,
      ...entry("Passes", `${at}`, "count"),
      ...entry("Mean", at ? full(running.mean) : "–", "mean"),
      ...entry("Variance", at > 1 ? full(running.variance) : "–", "variance"),
      ...entry("Standard error", at > 1 ? full(running.stdError) : "–", "std-error"),
    );
    const last = samples[at - 1];
    fill(said, at === 0 || !last ? `${total} passes are ready; none is shown yet` : `Pass ${at} of ${total} votes ${vote(last)}`);
    fill(votes, count().map(([name, times]) => h("li", {}, `${name} × ${times}`)));
  }

  /** What a pass says, in words. @param {number[]} pass */
  function vote(pass) {
    if (description.task === "classification" && pass.length > 1) {
      const best = argmax(pass);
      return `${names[best]} (${percent(pass[best] ?? 0)})`;
    }
    if (description.task === "multilabel" && pass.length > 1) return names.filter((_, index) => (pass[index] ?? 0) >= 0.5).join(", ") || "none";
    return `${names[0]}: ${description.task === "regression" ? number(pass[0]) : percent(pass[0] ?? 0)}`;
  }

  /** @returns {[string, number][]} */
  function count() {
    if (description.task === "regression" || names.length < 2) return [];
    /** @type {Map<string, number>} */
    const found = new Map();
    for (const pass of samples.slice(0, at)) {
      const name = description.task === "classification" ? (names[argmax(pass)] ?? "") : vote(pass);
      found.set(name, (found.get(name) ?? 0) + 1);
    }
    return [...found].sort((a, b) => b[1] - a[1]).slice(0, 8);
  }

  function begin() {
    pause();
    if (at >= total) at = 0;
    fill(play, "Pause");
    timer = setInterval(() => {
      if (at >= total) pause();
      else void go(at + 1);
    }, 1000 / (SPEEDS[speed.value] ?? 5));
  }

  function pause() {
    clearInterval(timer);
    timer = 0;
    fill(play, isStill ? "Play slowly" : "Play");
  }

  /** @param {unknown} error */
  function failed(error) {
    if (error instanceof Failure) context.failed(error, problem);
    else fill(problem, error instanceof Error ? error.message : String(error));
  }

  void load();
  let waiting = 0;
  return {
    element,
    changed() {
      clearTimeout(waiting);
      waiting = setTimeout(() => void load(), 120);
    },
    leave() {
      isDone = true;
      clearTimeout(waiting);
      pause();
    },
  };
}

/** @param {number[]} values */
function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
}

/** @param {number} value */
function full(value) {
  return value.toPrecision(6);
}

/**
 * @param {string} name
 * @param {string} value
 * @param {string} data
 */
function entry(name, value, data) {
  return [h("dt", {}, name), h("dd", { "data-name": data }, value)];
}

/**
 * The units of a site, a cell each.
 *
 * @param {SiteMasks} site
 */
function board(site) {
  const count = site.shown.length;
  const wide = Math.min(count, Math.max(8, Math.ceil(Math.sqrt(count * 2))));
  const canvas = h("canvas", { width: wide * CELL, height: Math.ceil(count / wide) * CELL });
  canvas.setAttribute("role", "img");
  const under = h("p", { class: "took" });
  const element = h(
    "section",
    { class: "site" },
    h("h4", {}, site.name, h("small", {}, ` ${site.kind}${site.p === null ? "" : `, p = ${number(site.p)}`}, [${site.shape.join(", ")}]`)),
    canvas,
    under,
  );
  return {
    element,
    /** @param {SiteMasks} found @param {number} pass */
    show(found, pass) {
      const values = found.masks[pass] ?? [];
      const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
      const style = getComputedStyle(canvas);
      const [on, off] = [style.getPropertyValue("--kept"), style.getPropertyValue("--dropped")];
      context.clearRect(0, 0, canvas.width, canvas.height);
      const isRaw = found.p === null;
      values.forEach((value, index) => {
        const [x, y] = [(index % wide) * CELL, Math.floor(index / wide) * CELL];
        context.globalAlpha = isRaw ? Math.min(1, Math.max(0.06, Math.abs(value) / (found.kind === "normal" ? 3 : 1))) : 1;
        if (value || isRaw) {
          context.fillStyle = on;
          context.fillRect(x + 1, y + 1, CELL - 2, CELL - 2);
        } else {
          context.strokeStyle = off;
          context.strokeRect(x + 2.5, y + 2.5, CELL - 5, CELL - 5);
        }
      });
      context.globalAlpha = 1;
      const kept = found.kept[pass] ?? 0;
      const sentence = isRaw ? `${found.units} numbers of the network's own` : `${kept} of ${found.units} units kept, ${percent(kept / found.units)}`;
      fill(under, sentence, found.units > count && `; ${count} of them are shown`);
      canvas.setAttribute("aria-label", `${found.name}: ${sentence}`);
    },
  };
}
