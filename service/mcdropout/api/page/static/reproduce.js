/** For engineers: the same answer by curl and by Python, and the address of what is looked at. */

import { address } from "./api.js";
import { button, fill, h } from "./dom.js";

/** A box that is closed until somebody wants to know. */
export function reproduce() {
  const [shell, python, link] = [code(), code(), code()];
  const element = h(
    "details",
    { class: "reproduce" },
    h("summary", {}, "Reproduce this answer"),
    h("h3", {}, "curl"),
    shell.element,
    h("h3", {}, "Python"),
    python.element,
    h("h3", {}, "Permalink"),
    link.element,
  );
  return {
    element,
    /**
     * @param {string} model
     * @param {any} body
     * @param {import("./api.js").Query} query
     */
    update(model, body, query) {
      const base = new URL("./", document.baseURI).href.replace(/\/$/, "");
      const path = `models/${encodeURIComponent(model)}/predict`;
      shell.set(`curl '${address(path, query)}' \\\n  --json '${JSON.stringify(body).replaceAll("'", "'\\''")}'`);
      const wanted = Object.entries(query).map(([name, value]) => `${name}=${literal(value)}`);
      python.set(
        [
          "from mcdropout import Client",
          "",
          `inputs = ${literal(body.inputs)}`,
          `with Client(${literal(base)}) as client:`,
          `    found = client.predict(inputs, ${[...wanted, `model=${literal(model)}`].join(", ")})`,
          "print(found)",
        ].join("\n"),
      );
      link.set(location.href);
    },
  };
}

/** Text to copy. */
function code() {
  const text = h("code");
  const done = h("span", { role: "status" });
  const copy = button("Copy", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent ?? "");
      fill(done, "copied");
    } catch {
      getSelection()?.selectAllChildren(text);
      fill(done, "selected; copy it with the keyboard");
    }
  });
  return {
    element: h("div", { class: "code" }, h("pre", { tabIndex: 0 }, text), copy, done),
    /** @param {string} value */
    set(value) {
      fill(text, value);
      fill(done);
    },
  };
}

/**
 * A value as Python writes it.
 *
 * @param {any} value
 * @returns {string}
 */
export function literal(value) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}
