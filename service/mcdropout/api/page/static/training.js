/** What dropout does in training, run by the page itself on a network of six hidden units. */

import { lines, strip } from "./charts.js";
import { button, fill, h, number, percent, slider, table } from "./dom.js";
import { classic, classicPrediction, draw, enumerate, forward, fresh, generator, inverted, loss, step } from "./dropout.js";
import { Running } from "./numbers.js";

const LAYER = [0.9, -1.4, 2.1, 0.3, 1.2, -0.6];
const COMING_BACK = [0.2, 0.5, -0.3, 0.8, -0.1, 0.4];
const HIDDEN = 6;
const CLASSES = ["left", "right"];
const STEPS = 400;
const AT_ONCE = 10;

/** @returns {import("./main.js").Mounted} */
export function trainingView() {
  const [one, ensemble, learning] = [layer(), thinned(), descent()];
  return {
    element: h(
      "div",
      { class: "prose" },
      h("p", {}, "In training dropout drops units at random, so that none can rely on another. Prediction as usual switches it off; Monte Carlo dropout leaves it on, and asks the many networks that it makes."),
      one,
      ensemble,
      learning.element,
      rules(),
    ),
    changed() {},
    leave: learning.leave,
  };
}

function layer() {
  const random = generator(7);
  let p = 0.5;
  let mask = draw(LAYER.length, p, random);
  let sums = { count: 0, inverted: LAYER.map(() => 0), classic: LAYER.map(() => 0) };
  const body = h("tbody");
  const drawn = h("p", { role: "status" });
  const control = slider("p, dropped", { min: 0, max: 0.9, step: 0.05, value: p }, (value) => {
    p = value;
    sums = { count: 0, inverted: LAYER.map(() => 0), classic: LAYER.map(() => 0) };
    again(1);
  }, percent);

  /** @param {number} times */
  function again(times) {
    for (let index = 0; index < times; index += 1) {
      mask = draw(LAYER.length, p, random);
      inverted(LAYER, mask, p).forEach((value, unit) => (sums.inverted[unit] = (sums.inverted[unit] ?? 0) + value));
      classic(LAYER, mask).forEach((value, unit) => (sums.classic[unit] = (sums.classic[unit] ?? 0) + value));
      sums.count += 1;
    }
    show();
  }

  function show() {
    const columns = [
      LAYER,
      mask,
      inverted(LAYER, mask, p),
      sums.inverted.map((sum) => sum / sums.count),
      LAYER,
      classic(LAYER, mask),
      sums.classic.map((sum) => sum / sums.count),
      classicPrediction(LAYER, p),
      inverted(COMING_BACK, mask, p),
    ];
    fill(body, LAYER.map((_, unit) => h("tr", { class: mask[unit] ? "" : "off" }, h("th", { scope: "row" }, unit + 1), columns.map((values) => h("td", {}, (values[unit] ?? 0).toFixed(2))))));
    fill(drawn, `${sums.count === 1 ? "1 draw" : `${sums.count} draws`}. Both scalings make the mean of training equal what prediction passes on; inverted scaling (PyTorch's, and this service's) leaves prediction untouched. The gradient goes back through the same mask.`);
  }

  again(1);
  const heads = ["Unit", "Input", "Mask", "Inverted, training", "its mean so far", "Inverted, prediction", "Classic, training", "its mean so far", "Classic, prediction", "Gradient, inverted"];
  return h(
    "section",
    {},
    h("h2", {}, "One layer: inverted and classic scaling"),
    h("div", { class: "row" }, control.element, button("Draw again", () => again(1)), button("Draw 100 times", () => again(100))),
    table("Six units of a layer", heads, body),
    drawn,
  );
}

function thinned() {
  const weights = fresh(2, HIDDEN, 2, generator(12));
  const x = [1.2, -0.7];
  let p = 0.5;
  let random = generator(3);
  let running = new Running();
  /** @type {number[]} */
  let samples = [];
  const chart = strip();
  const path = lines(["running"]);
  const text = h("p", { role: "status" });
  const figures = h("dl", { class: "figures" });
  const control = slider("p, dropped", { min: 0.05, max: 0.9, step: 0.05, value: p }, (value) => {
    p = value;
    start();
  }, percent);

  function start() {
    random = generator(3);
    running = new Running();
    samples = [];
    more(25);
  }

  /** @param {number} times */
  function more(times) {
    for (let index = 0; index < times; index += 1) {
      const value = forward(weights, x, draw(HIDDEN, p, random), p).probabilities[0] ?? 0;
      running.add(value);
      samples.push(value);
    }
    const exact = enumerate(weights, x, p);
    const [mean = 0, scaled = 0] = [exact.mean[0], exact.scaled[0]];
    const std = Math.sqrt(exact.variance[0] ?? 0);
    chart.update({ samples: exact.all.map((each) => each.probabilities[0] ?? 0), mean, interval: [mean - std, mean + std], baseline: scaled });
    const means = samples.map((_, index) => samples.slice(0, index + 1).reduce((sum, value) => sum + value, 0) / (index + 1));
    path.update([means], { low: 0, high: 1, around: { low: means.map(() => mean - 0.004), high: means.map(() => mean + 0.004) } });
    fill(
      figures,
      ...[
        ["All 64 networks, exactly", percent(mean)],
        [`Mean of ${running.count} draws`, percent(running.mean)],
        ["Weight scaling, one pass", percent(scaled)],
        ["Variance over networks, exactly", number(exact.variance[0])],
        ["Variance of the draws", number(running.variance)],
      ].flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
    );
    fill(text, `The draws are ${number(Math.abs(running.mean - mean))} from the exact mean, weight scaling is ${number(Math.abs(scaled - mean))}: more draws come closer to the one, nothing brings the other closer. And weight scaling has no variance at all.`);
  }

  start();
  return h(
    "section",
    {},
    h("h2", {}, `The 2`, h("sup", {}, "6"), " = 64 thinned networks, all of them"),
    h("p", {}, "A network of n units that drop is an ensemble of 2", h("sup", {}, "n"), " networks that share their weights. With six units they can be counted out. A seed is one way through them: the same seed, the same networks in the same order."),
    h("div", { class: "row" }, control.element, button("One more draw", () => more(1)), button("50 more", () => more(50)), button("Start again", start)),
    h("figure", {}, h("figcaption", {}, `P(${CLASSES[0]}) of each thinned network; the line is their mean, the dashes weight scaling`), chart.element),
    h("figure", {}, h("figcaption", {}, "The mean of the draws so far, and the exact mean as a band"), path.element),
    figures,
    text,
  );
}

function descent() {
  const random = generator(21);
  const train = points(24, random, 0.55);
  const test = points(400, random, 0.55);
  let p = 0.5;
  let timer = 0;
  const path = lines(["running", "vote"]);
  const text = h("p", { role: "status" });
  const control = slider("p, dropped", { min: 0, max: 0.8, step: 0.1, value: p }, (value) => (p = value), percent);
  const press = button("Train", () => (timer ? leave() : begin()), { class: "primary" });

  function begin() {
    let weights = fresh(2, HIDDEN, 2, generator(5));
    const order = generator(9);
    const onTrain = [loss(weights, train)];
    const onTest = [loss(weights, test)];
    fill(press, "Stop");
    timer = setInterval(() => {
      for (let index = 0; index < AT_ONCE; index += 1) {
        weights = step(weights, train, p, 0.5, order);
        onTrain.push(loss(weights, train));
        onTest.push(loss(weights, test));
      }
      path.update([onTrain, onTest], { low: 0, high: Math.max(1, ...onTest), count: STEPS });
      fill(text, `Step ${onTrain.length - 1} of ${STEPS}, p = ${number(p)}: loss ${number(onTrain.at(-1))} on the 24 rows of training, ${number(onTest.at(-1))} on 400 that it has not seen.`);
      if (onTrain.length > STEPS) leave();
    }, 40);
  }

  function leave() {
    clearInterval(timer);
    timer = 0;
    fill(press, "Train");
  }

  return {
    element: h(
      "section",
      {},
      h("h2", {}, "Training, forward and backward"),
      h("p", {}, "The same small network learns 24 noisy points, under a mask of its own for each row and step. Without dropout it learns the noise too: the loss on what it has not seen grows, while that of training falls."),
      h("div", { class: "row" }, control.element, press),
      h("figure", {}, h("figcaption", {}, h("span", { class: "key running" }), "loss in training, ", h("span", { class: "key vote" }), "on unseen rows"), path.element),
      text,
    ),
    leave,
  };
}

/**
 * Two noisy classes.
 *
 * @param {number} count
 * @param {() => number} random
 * @param {number} noise
 */
function points(count, random, noise) {
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return Array.from({ length: count }, (_, index) => {
    const label = index % 2;
    const turn = Math.PI * random();
    const [x, y] = label ? [1 - Math.cos(turn), 0.4 - Math.sin(turn)] : [Math.cos(turn), Math.sin(turn)];
    return { label, x: [x + noise * normal(), y + noise * normal()] };
  });
}

function rules() {
  const rows = [
    ["Hidden layers", "p from 0.2 to 0.5", "Srivastava et al. 2014"],
    ["Inputs", "p of 0.2", "Srivastava et al. 2014"],
    ["Convolutions", "whole channels at a time: a pixel's neighbours tell what it was", "Tompson et al. 2015"],
    ["Transformers", "p of 0.1, of each sublayer's output and of the embeddings", "Vaswani et al. 2017"],
    ["Recurrent networks", "the same mask at each step of a sequence", "Gal & Ghahramani 2016"],
    ["Width", "where n units are right without dropout, n / (1 - p) with it", "Srivastava et al. 2014"],
    ["Learning", "10 to 100 times the learning rate, momentum of 0.95 to 0.99, a largest norm for each unit's weights", "Srivastava et al. 2014"],
    ["For uncertainty", "p by the likelihood of held-out rows, or learned along with the weights", "Gal, Hron & Kendall 2017"],
  ];
  return h(
    "section",
    {},
    h("h2", {}, "Rules for the rate"),
    table("Where to begin", ["Where", "Rule", "Source"], rows.map(([where = "", ...rest]) => h("tr", {}, h("th", { scope: "row" }, where), rest.map((cell) => h("td", {}, cell)))), "prose"),
  );
}
