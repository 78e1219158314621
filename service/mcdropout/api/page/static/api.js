/** The service: what the page asks of it, and what may become of that. */

/**
 * @typedef {Record<string, any>} Row an answer to one row: its statistics, by name.
 * @typedef {{model: string, version: string, mc: number | string, seed: number, predictions: Row[],
 *     timing: {queue_seconds: number, compute_seconds: number}}} Answer
 * @typedef {{name: string, state: string, default: boolean, version: string | null, error: string | null}} Summary
 * @typedef {{name: string, shape: (number | string)[], dtype: string, minimum: number | null, maximum: number | null,
 *     missing: string, image: Record<string, any> | null, columns: string[] | null,
 *     categories: Record<string, Record<string, number>>}} Input
 * @typedef {{path: string, call: number, kind: string, p: number | null, on: boolean, reason: string | null,
 *     shape: (number | string)[] | null, scope: string | null, injected: boolean}} Site
 * @typedef {{name: string, version: string | null, state: string, default: boolean, error: string | null,
 *     description: string | null, task: string, inputs: Input[],
 *     sizes: Record<string, {minimum: number, maximum: number, multiple: number}>, output: Record<string, any>,
 *     passes: {default: number, maximum: number}, rates: {minimum: number, maximum: number} | null, sites: Site[],
 *     program: Record<string, any>, formats: string[], preprocess: string | null, training: Record<string, any> | null
 *     }} Description
 * @typedef {{path: string, call: number, name: string, kind: string, p: number | null, scope: string, shape: number[],
 *     units: number, shown: number[], kept: number[], masks: number[][]}} SiteMasks
 * @typedef {{model: string, seed: number, row: number, first: number, passes: number, sites: SiteMasks[]}} Masks
 * @typedef {Record<string, string | number | boolean>} Query
 */

const BASE = new URL("./", document.baseURI);
const LONGEST_MS = 60_000;
const KEY = "mcdropout.key";

/** Why there is no answer. */
export class Failure extends Error {
  /**
   * @param {"gone" | "refused" | "slow" | "denied" | "failed"} kind "gone": nobody answers; "refused": what was asked
   *     for cannot be given; "slow": it took too long; "denied": it takes a key, or another one; "failed": the server
   *     could not.
   * @param {string} message
   * @param {number | null} [retryAfter] in how many seconds to try again, where the server says so
   */
  constructor(kind, message, retryAfter = null) {
    super(message);
    this.kind = kind;
    this.retryAfter = retryAfter;
  }
}

/**
 * The address of what the service has, for people.
 *
 * @param {string} path
 * @param {Query} [query]
 */
export function address(path, query = {}) {
  const url = new URL(path, BASE);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, String(value));
  return url.href;
}

/** The key that is shown with every request; empty for none. It is forgotten with the tab. */
export function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** @param {string} value */
export function useKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/** @returns {Promise<Summary[]>} */
export async function models() {
  return (await json("models")).models;
}

/**
 * @param {string} name
 * @returns {Promise<Description>}
 */
export async function describe(name) {
  return json(`models/${encodeURIComponent(name)}`);
}

/**
 * A body that a model's prediction takes; null where its bundle has none.
 *
 * @param {string} name
 * @returns {Promise<{inputs: any} | null>}
 */
export async function example(name) {
  try {
    return await json(`models/${encodeURIComponent(name)}/example`);
  } catch (error) {
    if (error instanceof Failure && error.kind === "refused") return null;
    throw error;
  }
}

/**
 * Which units some passes keep.
 *
 * @param {string} name
 * @param {any} body that of the prediction, where sizes differ from row to row; else null
 * @param {Query} query
 * @param {AbortSignal} [signal]
 * @returns {Promise<Masks>}
 */
export async function masks(name, body, query, signal) {
  return json(`models/${encodeURIComponent(name)}/masks`, query, body === null ? { method: "POST", signal } : posting(body, signal));
}

/**
 * A prediction.
 *
 * @param {string} name
 * @param {any} body
 * @param {Query} query
 * @param {AbortSignal} [signal]
 * @returns {Promise<Answer>}
 */
export async function predict(name, body, query, signal) {
  return json(`models/${encodeURIComponent(name)}/predict`, query, posting(body, signal));
}

/**
 * A prediction, and what there is of it while it is made.
 *
 * @param {string} name
 * @param {any} body
 * @param {Query} query
 * @param {(estimate: Answer) => void} estimated
 * @param {AbortSignal} [signal]
 * @returns {Promise<Answer>}
 */
export async function stream(name, body, query, estimated, signal) {
  const response = await ask(`models/${encodeURIComponent(name)}/predict/stream`, query, posting(body, signal));
  let rest = "";
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  for (;;) {
    const { done, value } = await guarded(() => reader.read(), signal);
    if (done) throw new Failure("gone", "The server hung up before it had answered.");
    rest += decoder.decode(value, { stream: true });
    for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
      const lines = rest.slice(0, end).split("\n");
      rest = rest.slice(end + 2);
      const event = lines[0]?.slice("event: ".length);
      const data = JSON.parse((lines[1] ?? "").slice("data: ".length));
      if (event === "answer") return data;
      if (event === "problem") throw failureOf(data.status, data.detail, null);
      estimated(data);
    }
  }
}

/** The metrics, as text. @returns {Promise<string>} */
export async function metrics() {
  return (await ask("metrics")).text();
}

/** Whether the server answers at all. */
export async function lives() {
  try {
    await ask("health/live");
    return true;
  } catch {
    return false;
  }
}

/**
 * @param {any} body
 * @param {AbortSignal} [signal]
 * @returns {RequestInit}
 */
function posting(body, signal) {
  return { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal };
}

/**
 * @param {string} path
 * @param {Query} [query]
 * @param {RequestInit} [init]
 * @returns {Promise<any>}
 */
async function json(path, query = {}, init = {}) {
  const response = await ask(path, query, init);
  return guarded(() => response.json(), init.signal);
}

/**
 * @param {string} path
 * @param {Query} [query]
 * @param {RequestInit} [init]
 */
async function ask(path, query = {}, init = {}) {
  const headers = new Headers(init.headers);
  if (key()) headers.set("authorization", `Bearer ${key()}`);
  const late = AbortSignal.timeout(LONGEST_MS);
  const signal = init.signal ? AbortSignal.any([init.signal, late]) : late;
  const response = await guarded(() => fetch(address(path, query), { ...init, headers, signal }), init.signal);
  if (response.ok) return response;
  const seconds = Number(response.headers.get("retry-after"));
  let detail = response.statusText;
  try {
    detail = (await response.json()).detail ?? detail;
  } catch {
    // What stands before the server says it in its own way.
  }
  throw failureOf(response.status, detail, Number.isFinite(seconds) && seconds > 0 ? seconds : null);
}

/**
 * @param {number} status
 * @param {string} detail
 * @param {number | null} retryAfter
 */
function failureOf(status, detail, retryAfter) {
  if (status === 401 || status === 403) return new Failure("denied", detail, retryAfter);
  if (status === 503 || status === 429 || status === 504) return new Failure("slow", detail, retryAfter);
  return new Failure(status < 500 ? "refused" : "failed", detail, retryAfter);
}

/**
 * What a promise gives; what the browser raises becomes a `Failure`, but for what was given up on purpose.
 *
 * @template T
 * @param {() => Promise<T>} begin
 * @param {AbortSignal | null} [signal]
 * @returns {Promise<T>}
 */
async function guarded(begin, signal) {
  try {
    return await begin();
  } catch (error) {
    if (signal?.aborted || error instanceof Failure) throw error;
    if (error instanceof DOMException && error.name === "TimeoutError") {
      throw new Failure("slow", `The server has not answered for ${LONGEST_MS / 1000} seconds.`);
    }
    throw new Failure("gone", "The server does not answer.");
  }
}
