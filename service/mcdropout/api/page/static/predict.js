/** The view of predictions: a row is made on the left, and answered on the right while it is made. */

import { Failure, predict, stream } from "./api.js";
import { isDense, viewOf } from "./answers/view.js";
import { fill, h } from "./dom.js";
import { reproduce } from "./reproduce.js";

/**
 * @typedef {import("./main.js").Context} Context
 * @typedef {import("./api.js").Row} Row
 */

// A request that has taken longer than this is given up for a newer one.
const PATIENCE_MS = 150;
const SETTLED_MS = 400;

/**
 * @param {Context} context
 * @returns {import("./main.js").Mounted}
 */
export function predictView(context) {
  const { description } = context;
  const said = h("p", { class: "visually-hidden", role: "status" });
  const took = h("p", { class: "took" });
  const place = h("div", { class: "answer" }, h("p", {}, "Waiting for the first answer …"));
  const problem = h("p", { class: "problem", role: "alert" });
  const again = reproduce();
  /** @type {import("./answers/view.js").View | null} */
  let view = null;
  /** @type {Row | null} */
  let baseline = null;
  /** @type {AbortController | null} */
  let current = null;
  let since = 0;
  let isWanted = false;
  let isDone = false;
  let settling = 0;

  const element = h(
    "div",
    { class: "columns" },
    h("section", { class: "given", "aria-label": "Input" }, context.editor.element),
    h("section", { class: "found", "aria-label": "Answer" }, problem, place, took, said, again.element),
    h("section", { class: "chosen", "aria-label": "Settings" }, context.controls.element),
  );

  function changed() {
    isWanted = true;
    if (!current) void run();
    else if (performance.now() - since > PATIENCE_MS) current.abort();
  }

  async function run() {
    while (isWanted && !isDone) {
      isWanted = false;
      current = new AbortController();
      since = performance.now();
      try {
        await once(current.signal);
        fill(problem);
        context.succeeded();
      } catch (error) {
        if (!current.signal.aborted) failed(error);
      }
    }
    current = null;
  }

  /** @param {AbortSignal} signal */
  async function once(signal) {
    const body = context.editor.body();
    const query = context.query();
    const asked = performance.now();
    if (!view) {
      const first = (await predict(description.name, body, { mc: 0 }, signal)).predictions[0];
      if (!first || isDone) return;
      view = viewOf(description, first);
      fill(place, view.element);
    }
    const shown = view;
    const dense = baseline !== null && isDense(description, baseline);
    const plain = predict(description.name, body, { mc: 0 }, signal).then((answer) => (baseline = answer.predictions[0] ?? null));
    plain.catch(() => {}); // what comes of the other says it
    let isFirst = true;
    const answer = await stream(
      description.name,
      body,
      dense ? query : { ...query, samples: true },
      (estimate) => {
        const row = estimate.predictions[0];
        if (row) show(row, isFirst ? asked : null);
        isFirst = false;
      },
      signal,
    );
    await plain;
    const row = answer.predictions[0];
    if (!row) return;
    show(row, isFirst ? asked : null);
    const seconds = (performance.now() - asked) / 1000;
    fill(took, `${row["passes"]} passes in ${seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`}; version ${answer.version}, seed ${answer.seed}.`);
    context.remember();
    again.update(description.name, body, query);

    /** @param {Row} found @param {number | null} began */
    function show(found, began) {
      const sentence = shown.update(found, baseline);
      if (began !== null) performance.measure("mcdropout.first-estimate", { start: began, end: performance.now() });
      clearTimeout(settling);
      settling = setTimeout(() => fill(said, sentence), SETTLED_MS);
    }
  }

  /** @param {unknown} error */
  function failed(error) {
    if (error instanceof Failure) context.failed(error, problem);
    else fill(problem, `This cannot be sent: ${error instanceof Error ? error.message : String(error)}.`);
  }

  changed();
  return {
    element,
    changed,
    leave() {
      isDone = true;
      current?.abort();
      clearTimeout(settling);
    },
  };
}
