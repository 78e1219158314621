/** Statistics, as `docs` defines them; what the page computes itself of passes. */

/**
 * Mean, unbiased variance and standard error of the mean, updated with each value (Welford 1962).
 */
export class Running {
  constructor() {
    this.count = 0;
    this.mean = 0;
    this.squares = 0;
  }

  /** @param {number} value */
  add(value) {
    this.count += 1;
    const before = value - this.mean;
    this.mean += before / this.count;
    this.squares += before * (value - this.mean);
  }

  /** Unbiased; NaN of fewer than two values. */
  get variance() {
    return this.count < 2 ? NaN : this.squares / (this.count - 1);
  }

  get stdError() {
    return Math.sqrt(this.variance / this.count);
  }
}

/**
 * Entropy in nats.
 *
 * @param {number[]} probabilities
 */
export function entropy(probabilities) {
  return -probabilities.reduce((sum, p) => sum + (p > 0 ? p * Math.log(p) : 0), 0);
}

/**
 * The quantile at a level of some values, linear between them.
 *
 * @param {number[]} ascending
 * @param {number} level
 */
export function quantile(ascending, level) {
  const place = (ascending.length - 1) * level;
  const below = Math.floor(place);
  const low = ascending[below] ?? NaN;
  const high = ascending[Math.min(below + 1, ascending.length - 1)] ?? NaN;
  return low + (high - low) * (place - below);
}

/**
 * The index of the largest.
 *
 * @param {number[]} values
 */
export function argmax(values) {
  return values.reduce((best, value, index) => (value > (values[best] ?? -Infinity) ? index : best), 0);
}

/**
 * All numbers of nested lists.
 *
 * @param {any} nested
 * @returns {number[]}
 */
export function flat(nested) {
  return Array.isArray(nested) ? nested.flat(Infinity) : [nested];
}

/**
 * The sizes of nested lists.
 *
 * @param {any} nested
 * @returns {number[]}
 */
export function shapeOf(nested) {
  return Array.isArray(nested) ? [nested.length, ...shapeOf(nested[0])] : [];
}
