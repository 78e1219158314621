/** The page of a model: what it is, what is random in it, how it runs, what was checked, and what training measured. */

import { stacked, lines } from "./charts.js";
import { h, number, percent, table } from "./dom.js";

/**
 * @param {import("./main.js").Context} context
 * @returns {import("./main.js").Mounted}
 */
export function modelView({ description }) {
  return {
    element: h("div", { class: "prose" }, about(description), sites(description), program(description), checks(description), training(description)),
    changed() {},
    leave() {},
  };
}

/** @typedef {import("./api.js").Description} Description */

/** @param {Description} model */
function about(model) {
  const entries = [
    ["Task", model.task],
    ["Version", model.version],
    ["Inputs", model.inputs.map((input) => `${input.name} [${input.shape.join(", ")}] ${input.dtype}`).join("; ")],
    ["Classes", model.output["labels"]?.join(", ")],
    ["Passes", `${model.passes.default} where a request names none, ${model.passes.maximum} at most`],
    ["Rates", model.rates ? `requests may have p from ${model.rates.minimum} to ${model.rates.maximum}` : "its own alone; rates in model.yaml allows others"],
    ["Bodies", model.formats.join(", ")],
  ];
  return h("section", {}, h("h2", {}, model.name), h("p", {}, model.description), list(entries));
}

/** @param {(string | null | undefined)[][]} entries */
function list(entries) {
  return h("dl", {}, entries.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/** @param {Description} model */
function sites(model) {
  return h(
    "section",
    {},
    h("h2", {}, "Sites"),
    h("p", {}, "Where a pass draws at random. All else stays as it is in prediction: batch norm, too, is not moved by one bit."),
    table(
      "What is random in it, and what could be and is not",
      ["Site", "Kind", "p", "Mask", "Drawn for", "On"],
      model.sites.map((site) => line([
        `${site.path || "(network)"}${site.call ? `#${site.call}` : ""}${site.injected ? " (added)" : ""}`,
        site.kind,
        number(site.p),
        site.shape ? `[${site.shape.join(", ")}]` : "–",
        site.scope === "pass" ? "each pass" : site.scope ? "each row and pass" : "–",
        site.on ? "yes" : `no: ${site.reason}`,
      ])),
    ),
  );
}

/** @param {Description} model */
function program(model) {
  const { program: run } = model;
  const bar = stacked(["aleatoric", "epistemic"]);
  const { prefix, suffix } = run["cost"];
  const whole = prefix + suffix || 1;
  bar.update([prefix / whole, suffix / whole]);
  return h(
    "section",
    {},
    h("h2", {}, "How it runs"),
    bar.element,
    h("p", {}, h("span", { class: "key aleatoric" }), `once a row: ${percent(prefix / whole)} of the arithmetic; `, h("span", { class: "key epistemic" }), `once a pass: ${percent(suffix / whole)}`),
    list([
      ["Strategy", run["strategy"]],
      ["Runtime", `${run["runtime"]} on ${run["device"]}`],
      ["Why nothing faster", run["reason"]],
    ]),
  );
}

/** @param {Description} model */
function checks(model) {
  return h(
    "section",
    {},
    h("h2", {}, "Checks when it was loaded"),
    h("ul", { class: "checks" }, model.program["checks"].map((/** @type {{name: string, passed: boolean, detail: string}} */ check) => h("li", { class: check.passed ? "passed" : "failed" }, h("strong", {}, check.passed ? "passed: " : "failed: "), check.name, check.detail && h("small", {}, ` – ${check.detail}`)))),
  );
}

/** @param {Description} model */
function training(model) {
  const found = model.training;
  if (!found) return h("section", {}, h("h2", {}, "What training measured"), h("p", {}, "The bundle does not say: it holds no results.json."));
  const figures = Object.entries(found).filter(([, value]) => typeof value === "number" || typeof value === "string");
  const curve = Array.isArray(found["curve"]) ? found["curve"] : [];
  const known = ["train_loss", "test_nll"].filter((name) => typeof curve[0]?.[name] === "number");
  const chart = lines(known.map((_, index) => (index ? "vote" : "running")));
  const series = known.map((name) => curve.map((/** @type {Record<string, number>} */ at) => at[name] ?? NaN));
  if (known.length) chart.update(series, { low: Math.min(0, ...series.flat()), high: Math.max(...series.flat()) });
  return h(
    "section",
    {},
    h("h2", {}, "What training measured"),
    known.length > 0 && h("figure", {}, h("figcaption", {}, known.map((name, index) => [h("span", { class: `key ${index ? "vote" : "running"}` }), `${name.replaceAll("_", " ")} `]).flat(), `over ${curve.length} epochs`), chart.element),
    h("dl", {}, figures.flatMap(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, typeof value === "number" ? number(value) : String(value))])),
  );
}

/** A row of a table, whose first cell is its head. @param {string[]} cells */
function line([first = "", ...rest]) {
  return h("tr", {}, h("th", { scope: "row" }, first), rest.map((cell) => h("td", {}, cell)));
}
