/**
 * Dropout in training, small enough to be seen whole: masks, both scalings, and a network of one hidden layer with its
 * gradients. Nothing here asks the service.
 *
 * Inverted dropout divides what is kept by 1 - p in training, and leaves prediction as it is. Classic dropout (Srivastava
 * et al. 2014) multiplies by 1 - p in prediction instead.
 */

/**
 * @typedef {{w1: number[][], b1: number[], w2: number[][], b2: number[]}} Weights
 *     `w1` [hidden, inputs], `w2` [classes, hidden]
 * @typedef {{hidden: number[], dropped: number[], probabilities: number[]}} Forward
 */

/**
 * Numbers from 0 to 1 that a seed gives again (mulberry32).
 *
 * @param {number} seed
 */
export function generator(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Which of some units are kept: 1 or 0 each.
 *
 * @param {number} count
 * @param {number} p the probability that one is dropped
 * @param {() => number} random
 */
export function draw(count, p, random) {
  return Array.from({ length: count }, () => (random() >= p ? 1 : 0));
}

/**
 * What a layer passes on: x m / (1 - p). Its gradient is the same function of the gradient that comes back.
 *
 * @param {number[]} x
 * @param {number[]} mask
 * @param {number} p
 */
export function inverted(x, mask, p) {
  return x.map((value, index) => (p >= 1 ? 0 : (value * (mask[index] ?? 0)) / (1 - p)));
}

/**
 * The same with classic scaling: x m in training; its gradient likewise.
 *
 * @param {number[]} x
 * @param {number[]} mask
 */
export function classic(x, mask) {
  return x.map((value, index) => value * (mask[index] ?? 0));
}

/**
 * What classic scaling passes on in prediction: x (1 - p).
 *
 * @param {number[]} x
 * @param {number} p
 */
export function classicPrediction(x, p) {
  return x.map((value) => value * (1 - p));
}

/**
 * softmax(w2 d(relu(w1 x + b1)) + b2), d being inverted dropout under a mask.
 *
 * @param {Weights} weights
 * @param {number[]} x
 * @param {number[]} mask of the hidden units
 * @param {number} p
 * @returns {Forward}
 */
export function forward({ w1, b1, w2, b2 }, x, mask, p) {
  const hidden = w1.map((row, index) => Math.max(0, dot(row, x) + (b1[index] ?? 0)));
  const dropped = inverted(hidden, mask, p);
  return { hidden, dropped, probabilities: softmax(w2.map((row, index) => dot(row, dropped) + (b2[index] ?? 0))) };
}

/**
 * The gradient of -log p(label) by the weights, of one forward pass under the same mask.
 *
 * @param {Weights} weights
 * @param {number[]} x
 * @param {number} label
 * @param {number[]} mask
 * @param {number} p
 * @returns {Weights}
 */
export function backward(weights, x, label, mask, p) {
  const { hidden, dropped, probabilities } = forward(weights, x, mask, p);
  const atOutput = probabilities.map((value, index) => value - (index === label ? 1 : 0));
  const atDropped = hidden.map((_, unit) => atOutput.reduce((sum, value, index) => sum + value * (weights.w2[index]?.[unit] ?? 0), 0));
  const atHidden = inverted(atDropped, mask, p).map((value, unit) => ((hidden[unit] ?? 0) > 0 ? value : 0));
  return {
    w1: atHidden.map((value) => x.map((one) => value * one)),
    b1: atHidden,
    w2: atOutput.map((value) => dropped.map((one) => value * one)),
    b2: atOutput,
  };
}

/**
 * All 2^n masks of n units, each with its probability.
 *
 * @param {number} count
 * @param {number} p
 */
export function everyMask(count, p) {
  return Array.from({ length: 2 ** count }, (_, code) => {
    const mask = Array.from({ length: count }, (_, unit) => (code >> unit) & 1);
    const kept = mask.reduce((sum, one) => sum + one, 0);
    return { mask, probability: (1 - p) ** kept * p ** (count - kept) };
  });
}

/**
 * What all thinned networks say together: the mean of their probabilities and its variance over them, exactly; and beside
 * it what weight scaling says, the one network with all its units.
 *
 * @param {Weights} weights
 * @param {number[]} x
 * @param {number} p
 */
export function enumerate(weights, x, p) {
  const all = everyMask(weights.w1.length, p).map(({ mask, probability }) => ({ probability, probabilities: forward(weights, x, mask, p).probabilities }));
  const classes = weights.w2.length;
  const mean = Array.from({ length: classes }, (_, index) => all.reduce((sum, one) => sum + one.probability * (one.probabilities[index] ?? 0), 0));
  const variance = mean.map((middle, index) => all.reduce((sum, one) => sum + one.probability * ((one.probabilities[index] ?? 0) - middle) ** 2, 0));
  return { all, mean, variance, scaled: forward(weights, x, Array.from({ length: weights.w1.length }, () => 1), 0).probabilities };
}

/**
 * One step of gradient descent on some rows, each under a mask of its own.
 *
 * @param {Weights} weights
 * @param {{x: number[], label: number}[]} rows
 * @param {number} p
 * @param {number} rate
 * @param {() => number} random
 * @returns {Weights}
 */
export function step(weights, rows, p, rate, random) {
  const gradients = rows.map(({ x, label }) => backward(weights, x, label, draw(weights.w1.length, p, random), p));
  /** @param {(of: Weights) => number} of */
  const mean = (of) => gradients.reduce((sum, one) => sum + of(one), 0) / rows.length;
  return {
    w1: weights.w1.map((row, i) => row.map((value, j) => value - rate * mean((one) => one.w1[i]?.[j] ?? 0))),
    b1: weights.b1.map((value, i) => value - rate * mean((one) => one.b1[i] ?? 0)),
    w2: weights.w2.map((row, i) => row.map((value, j) => value - rate * mean((one) => one.w2[i]?.[j] ?? 0))),
    b2: weights.b2.map((value, i) => value - rate * mean((one) => one.b2[i] ?? 0)),
  };
}

/**
 * Mean of -log p(label) over rows, with all units.
 *
 * @param {Weights} weights
 * @param {{x: number[], label: number}[]} rows
 */
export function loss(weights, rows) {
  const kept = weights.w1.map(() => 1);
  return rows.reduce((sum, { x, label }) => sum - Math.log(Math.max(1e-12, forward(weights, x, kept, 0).probabilities[label] ?? 0)), 0) / rows.length;
}

/**
 * Weights to begin with (He et al. 2015).
 *
 * @param {number} inputs
 * @param {number} hidden
 * @param {number} classes
 * @param {() => number} random
 * @returns {Weights}
 */
export function fresh(inputs, hidden, classes, random) {
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  /** @param {number} rows @param {number} columns */
  const matrix = (rows, columns) => Array.from({ length: rows }, () => Array.from({ length: columns }, () => normal() * Math.sqrt(2 / columns)));
  return { w1: matrix(hidden, inputs), b1: Array.from({ length: hidden }, () => 0), w2: matrix(classes, hidden), b2: Array.from({ length: classes }, () => 0) };
}

/**
 * @param {number[]} a
 * @param {number[]} b
 */
function dot(a, b) {
  return a.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0);
}

/** @param {number[]} logits */
function softmax(logits) {
  const most = Math.max(...logits);
  const powers = logits.map((value) => Math.exp(value - most));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}
