/** The page: which model and which view the address says, and what they have in common. */

import { Failure, describe, example, key, lives, models, useKey } from "./api.js";
import { button, fill, fresh, h, slider } from "./dom.js";
import { editorOf } from "./inputs.js";
import { VIEWS, read, written } from "./link.js";
import { live } from "./live.js";
import { modelView } from "./model.js";
import { predictView } from "./predict.js";
import { theatreView } from "./theatre.js";
import { trainingView } from "./training.js";
import { ofFailure } from "./words.js";

/**
 * @typedef {import("./api.js").Description} Description
 * @typedef {{element: HTMLElement, changed: () => void, leave: () => void}} Mounted
 *     A view that is looked at: `changed` when its input or its settings did, `leave` when another takes its place.
 * @typedef {{description: Description, editor: ReturnType<typeof editorOf>, controls: Controls,
 *     query: () => import("./api.js").Query, remember: () => void,
 *     succeeded: () => void, failed: (failure: Failure, place: HTMLElement) => void}} Context
 *     What a view has at hand: `remember` puts what is looked at into the address.
 * @typedef {ReturnType<typeof controlsOf>} Controls
 */

const AGAIN_MS = 1500;
const TITLES = { predict: "Predict", theatre: "Theatre", training: "Training", model: "Model" };

const place = /** @type {HTMLElement} */ (document.getElementById("content"));
const banner = /** @type {HTMLElement} */ (document.getElementById("banner"));
let link = read(location.hash);
/** @type {import("./api.js").Summary[]} */
let known = [];
/** @type {Context | null} */
let context = null;
/** @type {Mounted | null} */
let mounted = null;
let waiting = 0;
let again = 0;

/**
 * What a request asks beside its row.
 *
 * @param {Description} description
 * @param {() => void} changed
 */
function controlsOf(description, changed) {
  const most = Math.min(description.passes.maximum, 500);
  const passes = slider("Passes", { min: 2, max: most, step: 1, value: clamp(link.passes ?? description.passes.default, 2, most) }, changed);
  const { rates } = description;
  const [own] = description.sites.filter((site) => site.on && site.p !== null).map((site) => site.p ?? 0);
  let isOwn = link.p === null;
  const toOwn = button("Its own", () => {
    isOwn = true;
    toOwn.disabled = true;
    changed();
  });
  const p = rates && slider("p, for all sites", { min: rates.minimum, max: rates.maximum, step: 0.01, value: link.p ?? own ?? 0.5 }, () => {
    isOwn = false;
    toOwn.disabled = false;
    changed();
  }, (value) => value.toFixed(2));
  toOwn.disabled = isOwn;
  const id = fresh();
  const seed = h("input", { id, type: "number", min: "0", step: "1", required: true, oninput: () => seed.reportValidity() && changed() });
  seed.value = String(link.seed);
  const other = button("Another seed", () => {
    seed.value = String(Math.floor(Math.random() * 1e6));
    changed();
  });
  return {
    element: h(
      "div",
      { class: "controls" },
      passes.element,
      p && h("div", { class: "row" }, p.element, toOwn),
      h("div", { class: "row" }, h("label", { for: id }, "Seed "), seed, other),
    ),
    get passes() {
      return passes.value;
    },
    get seed() {
      return Number(seed.value) || 0;
    },
    get p() {
      return p && !isOwn ? p.value : null;
    },
  };
}

/** @param {number} value @param {number} low @param {number} high */
function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

/** @param {Description} description @param {any} body */
function contextOf(description, body) {
  const changed = () => mounted?.changed();
  const controls = controlsOf(description, changed);
  const editor = editorOf(description, body, changed);
  editor.restore(link.input, link.rotate);
  /** @type {Context} */
  const made = {
    description,
    editor,
    controls,
    query: () => ({ mc: controls.passes, seed: controls.seed, ...(controls.p === null ? {} : { p: controls.p }) }),
    remember() {
      link = { ...link, passes: controls.passes, seed: controls.seed, p: controls.p, rotate: editor.rotation, input: editor.text() };
      history.replaceState(null, "", written(link));
    },
    succeeded: back,
    failed(failure, where) {
      clearTimeout(again);
      if (failure.kind === "gone") {
        lost();
        return;
      }
      fill(where, ofFailure(failure), failure.kind === "denied" && keyForm());
      // What has too much to do, or loads yet, answers later.
      if (failure.kind === "slow") again = setTimeout(changed, 1000 * (failure.retryAfter ?? 2));
    },
  };
  return made;
}

/** Nobody answers: say so, and look again until somebody does. */
function lost() {
  fill(banner, ofFailure(new Failure("gone", "")));
  if (waiting) return;
  waiting = setInterval(async () => {
    if (!(await lives())) return;
    back();
    if (context) mounted?.changed();
    else void go();
  }, AGAIN_MS);
}

function back() {
  clearTimeout(again);
  clearInterval(waiting);
  waiting = 0;
  fill(banner);
}

/** Where a key is asked for. */
function keyForm() {
  const id = fresh();
  const field = h("input", { id, type: "password", autocomplete: "off" });
  field.value = key();
  return h(
    "form",
    {
      class: "row",
      onsubmit: (/** @type {Event} */ event) => {
        event.preventDefault();
        useKey(field.value.trim());
        context = null;
        void go();
      },
    },
    h("label", { for: id }, "Key "),
    field,
    h("button", { type: "submit" }, "Use it"),
  );
}

/** Show what the address says. */
async function go() {
  link = read(location.hash);
  try {
    known = await models();
    const chosen = known.find((one) => one.name === link.model) ?? known.find((one) => one.default) ?? known[0];
    if (!chosen) throw new Failure("refused", "it serves no model");
    link.model = chosen.name;
    picker();
    views();
    if (chosen.state !== "ready") {
      leave();
      context = null;
      fill(place, h("p", { class: "problem" }, `The model ${chosen.name} is ${chosen.state}${chosen.error ? `: ${chosen.error}` : ""}.`), chosen.state === "loading" && h("p", {}, "The page goes on when it is ready."));
      if (chosen.state === "loading") setTimeout(go, AGAIN_MS);
      return;
    }
    if (context?.description.name !== chosen.name || context.description.version !== chosen.version) {
      leave();
      const [description, body] = await Promise.all([describe(chosen.name), example(chosen.name)]);
      context = contextOf(description, body);
    }
    back();
    show(context);
  } catch (error) {
    leave();
    if (!(error instanceof Failure)) throw error;
    if (error.kind === "gone") lost();
    else fill(place, h("p", { class: "problem", role: "alert" }, ofFailure(error)), error.kind === "denied" && keyForm());
  }
}

function leave() {
  mounted?.leave();
  mounted = null;
}

/** @param {Context} own */
function show(own) {
  leave();
  const make = { predict: predictView, theatre: theatreView, training: trainingView, model: modelView }[link.view] ?? predictView;
  mounted = make(own);
  document.title = `${TITLES[/** @type {keyof typeof TITLES} */ (link.view)]} · ${link.model} · mcdropout`;
  fill(place, mounted.element);
}

function picker() {
  const id = fresh();
  const select = h(
    "select",
    { id, onchange: () => (location.hash = written({ ...link, model: select.value, passes: null, p: null, rotate: 0, input: null })) },
    known.map((one) => h("option", { value: one.name }, one.state === "ready" ? one.name : `${one.name} (${one.state})`)),
  );
  select.value = link.model;
  fill(/** @type {HTMLElement} */ (document.getElementById("picker")), h("label", { for: id }, "Model "), select);
}

function views() {
  const all = VIEWS.map((view) => {
    const found = h("a", { href: written({ ...link, view }), onclick: () => (found.href = written({ ...link, view })) }, TITLES[/** @type {keyof typeof TITLES} */ (view)]);
    if (view === link.view) found.setAttribute("aria-current", "page");
    return found;
  });
  fill(/** @type {HTMLElement} */ (document.getElementById("views")), all);
}

addEventListener("hashchange", () => void go());
fill(/** @type {HTMLElement} */ (document.getElementById("live")), live());
void go();
