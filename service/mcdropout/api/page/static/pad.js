/** The pad: a picture that is drawn, chosen or uploaded, and turned; and the numbers that a network gets of it. */

import { button, h } from "./dom.js";

const SMALLEST_SIDE = 280;
const KEY_STEP = 1 / 28;
const MNIST_BOX = 20 / 28;

/**
 * @typedef {{channels: number, height: number, width: number, channelsFirst: boolean | null}} Layout
 *     of a picture in a row; `channelsFirst` null where there is no dimension of channels.
 */

/**
 * How a picture lies in a row of a shape; null where it is none.
 *
 * @param {(number | string)[]} shape
 * @returns {Layout | null}
 */
export function layoutOf(shape) {
  if (shape.some((size) => typeof size !== "number")) return null;
  const sizes = /** @type {number[]} */ (shape);
  const [a = 0, b = 0, c = 0] = sizes;
  if (sizes.length === 2 && a >= 8 && a === b) return { channels: 1, height: a, width: b, channelsFirst: null };
  if (sizes.length !== 3) return null;
  if ((a === 1 || a === 3) && b >= 8 && c >= 8) return { channels: a, height: b, width: c, channelsFirst: true };
  if ((c === 1 || c === 3) && a >= 8 && b >= 8) return { channels: c, height: a, width: b, channelsFirst: false };
  return null;
}

/**
 * A pad for pictures of a layout.
 *
 * What is drawn is kept as large as the screen has it. `pixels` turns it and makes it as small as the network takes it.
 *
 * @param {Layout} layout
 * @param {() => void} changed
 */
export function pad(layout, changed) {
  const side = Math.max(SMALLEST_SIDE, layout.width);
  const height = Math.round((side * layout.height) / layout.width);
  const paper = canvas(side, height);
  const shown = canvas(side, height);
  const element = shown.element;
  element.tabIndex = 0;
  element.setAttribute("role", "application");
  element.setAttribute("aria-roledescription", "drawing pad");
  element.setAttribute("aria-label", "Draw here. With the keyboard: arrows move the pen, space puts it down or lifts it, backspace clears.");
  const brush = Math.max(2, side * 0.075);
  let turn = 0;
  /** Exactly what was chosen, as long as nobody drew on it. @type {ArrayLike<number> | null} */
  let chosen = null;
  let isEmpty = true;
  let isDrawn = false;
  /** @type {{x: number, y: number} | null} */
  let last = null;
  const pen = { x: 0.5, y: 0.5, isDown: false };

  clear(paper);

  function show() {
    turned(paper, shown, turn);
    if (document.activeElement === element) markPen();
  }

  function markPen() {
    const [x, y] = [pen.x * side, pen.y * height];
    shown.context.strokeStyle = pen.isDown ? "#e5484d" : "#8ab4f8";
    shown.context.lineWidth = 2;
    shown.context.beginPath();
    shown.context.arc(x, y, brush / 2, 0, 2 * Math.PI);
    shown.context.stroke();
  }

  /** @param {{x: number, y: number}} to in parts of the paper, as it lies there when it is not turned */
  function stroke(to) {
    ink(to);
    show();
    changed();
  }

  /** @param {{x: number, y: number}} to */
  function ink(to) {
    const from = last ?? to;
    const { context } = paper;
    context.strokeStyle = "#fff";
    context.lineWidth = brush;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(from.x * side, from.y * height);
    context.lineTo(to.x * side + 0.01, to.y * height);
    context.stroke();
    last = to;
    chosen = null;
    isEmpty = false;
    isDrawn = true;
  }

  /** @param {PointerEvent} event */
  function place(event) {
    const box = element.getBoundingClientRect();
    return unturned((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }

  /**
   * Where a point of the turned picture lies on the paper.
   *
   * @param {number} x
   * @param {number} y
   */
  function unturned(x, y) {
    const angle = (-turn * Math.PI) / 180;
    const [dx, dy] = [(x - 0.5) * side, (y - 0.5) * height];
    return {
      x: 0.5 + (dx * Math.cos(angle) - dy * Math.sin(angle)) / side,
      y: 0.5 + (dx * Math.sin(angle) + dy * Math.cos(angle)) / height,
    };
  }

  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    last = null;
    stroke(place(event));
    event.preventDefault();
    element.focus({ preventScroll: true });
  });
  element.addEventListener("pointermove", (event) => {
    if (!element.hasPointerCapture(event.pointerId)) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) stroke(place(each));
  });
  const lift = () => (last = null);
  element.addEventListener("pointerup", lift);
  element.addEventListener("pointercancel", lift);
  element.addEventListener("focus", show);
  element.addEventListener("blur", () => {
    pen.isDown = false;
    show();
  });
  element.addEventListener("keydown", (event) => {
    /** @type {Record<string, [number, number]>} */
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[event.key];
    if (move) {
      pen.x = Math.min(1, Math.max(0, pen.x + move[0] * KEY_STEP));
      pen.y = Math.min(1, Math.max(0, pen.y + move[1] * KEY_STEP));
      if (pen.isDown) stroke(unturned(pen.x, pen.y));
      else show();
    } else if (event.key === " ") {
      pen.isDown = !pen.isDown;
      last = null;
      if (pen.isDown) stroke(unturned(pen.x, pen.y));
      else show();
    } else if (event.key === "Backspace" || event.key === "Delete") {
      empty();
    } else {
      return;
    }
    event.preventDefault();
  });

  function empty() {
    clear(paper);
    chosen = null;
    isEmpty = true;
    isDrawn = false;
    last = null;
    show();
    changed();
  }

  /**
   * The picture as the network's layout has it, values of 0 to 255, a channel after another.
   *
   * @param {number} [rotation]
   * @returns {Float64Array}
   */
  function pixels(rotation = turn) {
    if (chosen && rotation === 0) return Float64Array.from(chosen);
    const small = canvas(layout.width, layout.height);
    const whole = canvas(side, height);
    const isDigit = isDrawn && layout.channels === 1 && layout.height === 28 && layout.width === 28;
    turned(isDigit ? centred(paper) : paper, whole, rotation);
    small.context.imageSmoothingQuality = "high";
    shrink(whole, small);
    const { data } = small.context.getImageData(0, 0, layout.width, layout.height);
    const count = layout.width * layout.height;
    const values = new Float64Array(layout.channels * count);
    for (let pixel = 0; pixel < count; pixel += 1) {
      for (let channel = 0; channel < layout.channels; channel += 1) {
        values[channel * count + pixel] = data[4 * pixel + channel] ?? 0;
      }
    }
    return values;
  }

  show();
  return {
    element: h("div", { class: "pad" }, element, h("div", { class: "row" }, button("Clear", empty))),
    pixels: () => pixels(),
    /** The same, as the picture lies when it is not turned. */
    upright: () => pixels(0),
    /** The turned picture as a PNG file, in base64. */
    png() {
      const whole = canvas(side, height);
      turned(paper, whole, turn);
      return whole.element.toDataURL("image/png").split(",")[1] ?? "";
    },
    get isEmpty() {
      return isEmpty;
    },
    /** @param {number} degrees */
    rotate(degrees) {
      turn = degrees;
      show();
      changed();
    },
    /**
     * Show a picture, values of 0 to 255, a channel after another.
     *
     * @param {ArrayLike<number>} values
     */
    choose(values) {
      const small = canvas(layout.width, layout.height);
      paint(small.context, values, layout);
      clear(paper);
      paper.context.drawImage(small.element, 0, 0, side, height);
      chosen = values;
      isEmpty = false;
      isDrawn = false;
      show();
      changed();
    },
    /** Draw strokes, as a pen does. @param {number[][][]} strokes */
    draw(strokes) {
      clear(paper);
      for (const points of strokes) {
        last = null;
        for (const [x = 0, y = 0] of points) ink({ x, y });
      }
      last = null;
      show();
      changed();
    },
    /** @param {Blob} file raises where it is no picture */
    async upload(file) {
      const bitmap = await createImageBitmap(file);
      const scale = Math.max(side / bitmap.width, height / bitmap.height);
      const [w, t] = [bitmap.width * scale, bitmap.height * scale];
      clear(paper);
      paper.context.drawImage(bitmap, (side - w) / 2, (height - t) / 2, w, t);
      if (layout.channels === 1) grey(paper);
      bitmap.close();
      chosen = null;
      isEmpty = false;
      isDrawn = false;
      show();
      changed();
    },
  };
}

/**
 * A small picture of values of 0 to 255, a channel after another.
 *
 * @param {ArrayLike<number>} values
 * @param {Layout} layout
 */
export function thumbnail(values, layout) {
  const small = canvas(layout.width, layout.height);
  paint(small.context, values, layout);
  return small.element;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {ArrayLike<number>} values
 * @param {Layout} layout
 */
function paint(context, values, layout) {
  const image = context.createImageData(layout.width, layout.height);
  const count = layout.width * layout.height;
  for (let pixel = 0; pixel < count; pixel += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      image.data[4 * pixel + channel] = values[(layout.channels === 3 ? channel : 0) * count + pixel] ?? 0;
    }
    image.data[4 * pixel + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** @typedef {{element: HTMLCanvasElement, context: CanvasRenderingContext2D}} Canvas */

/**
 * @param {number} width
 * @param {number} height
 * @returns {Canvas}
 */
function canvas(width, height) {
  const element = h("canvas", { width, height });
  return { element, context: /** @type {CanvasRenderingContext2D} */ (element.getContext("2d", { willReadFrequently: true })) };
}

/** @param {Canvas} on */
function clear(on) {
  on.context.fillStyle = "#000";
  on.context.fillRect(0, 0, on.element.width, on.element.height);
}

/** @param {Canvas} on */
function grey(on) {
  const { width, height } = on.element;
  const image = on.context.getImageData(0, 0, width, height);
  for (let at = 0; at < image.data.length; at += 4) {
    const [r = 0, g = 0, b = 0] = image.data.subarray(at, at + 3);
    image.data.fill(0.299 * r + 0.587 * g + 0.114 * b, at, at + 3);
  }
  on.context.putImageData(image, 0, 0);
}

/**
 * @param {Canvas} from
 * @param {Canvas} to of the same size
 * @param {number} degrees
 */
function turned(from, to, degrees) {
  const { width, height } = to.element;
  clear(to);
  to.context.save();
  to.context.translate(width / 2, height / 2);
  to.context.rotate((degrees * Math.PI) / 180);
  to.context.drawImage(from.element, -width / 2, -height / 2);
  to.context.restore();
}

/**
 * What MNIST's makers did with a digit: its box is scaled to 20 of 28 pixels, and its centre of mass is put in the middle.
 *
 * @param {Canvas} from
 */
function centred(from) {
  const { width, height } = from.element;
  const { data } = from.context.getImageData(0, 0, width, height);
  let [left, top, right, bottom, mass, sumX, sumY] = [width, height, -1, -1, 0, 0, 0];
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const value = data[4 * (y * width + x)] ?? 0;
      if (value < 32) continue;
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y);
      mass += value;
      sumX += x * value;
      sumY += y * value;
    }
  }
  if (mass === 0) return from;
  const scale = (MNIST_BOX * width) / Math.max(right - left + 1, bottom - top + 1);
  const made = canvas(width, height);
  clear(made);
  made.context.imageSmoothingQuality = "high";
  made.context.setTransform(scale, 0, 0, scale, width / 2 - (sumX / mass) * scale, height / 2 - (sumY / mass) * scale);
  made.context.drawImage(from.element, 0, 0);
  made.context.resetTransform();
  return made;
}

/**
 * Each pixel the mean of those that it stands for.
 *
 * @param {Canvas} from
 * @param {Canvas} to
 */
function shrink(from, to) {
  let at = from;
  while (at.element.width >= 2 * to.element.width && at.element.height >= 2 * to.element.height) {
    const next = canvas(Math.max(to.element.width, at.element.width >> 1), Math.max(to.element.height, at.element.height >> 1));
    next.context.drawImage(at.element, 0, 0, next.element.width, next.element.height);
    at = next;
  }
  to.context.drawImage(at.element, 0, 0, to.element.width, to.element.height);
}
