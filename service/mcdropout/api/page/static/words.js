/** What the numbers mean, in words. */

// Shares: of the entropy of an even guess, below which an answer is called sure; of its entropy, that passes disagree.
const SURE = 0.12;
const DISAGREE = 0.2;

/**
 * What the uncertainty of one answer comes from.
 *
 * @param {{total: number, aleatoric: number, most: number}} entropy in nats; `most` is that of an even guess
 * @param {string} first the most probable class
 * @param {string} second the one after it
 * @returns {{title: string, text: string, level: "sure" | "torn" | "unknown"}}
 */
export function ofEntropy(entropy, first, second) {
  const epistemic = Math.max(0, entropy.total - entropy.aleatoric);
  if (entropy.total < SURE * entropy.most) {
    return { level: "sure", title: `Sure: ${first}`, text: "The passes agree, and each of them is sure." };
  }
  if (epistemic > DISAGREE * entropy.total) {
    return {
      level: "unknown",
      title: `It does not know: ${first}, perhaps`,
      text: "The passes disagree with one another: the network has seen too little that is like this, and more of its kind would help.",
    };
  }
  return {
    level: "torn",
    title: `Torn between ${first} and ${second}`,
    text: "The passes mostly agree, and each of them wavers: the input itself is ambiguous, and more data would help little.",
  };
}

/**
 * What a failure means, and what to do.
 *
 * @param {import("./api.js").Failure} failure
 */
export function ofFailure(failure) {
  const again = failure.retryAfter === null ? "" : ` It is asked again in ${Math.ceil(failure.retryAfter)} s.`;
  switch (failure.kind) {
    case "gone":
      return "The server is gone. What is shown is its last answer; the page goes on when it is back.";
    case "denied":
      return `${failure.message}.`;
    case "slow":
      return `The server is slow or has too much to do: ${failure.message}.${again}`;
    case "refused":
      return `The server refuses this: ${failure.message}.`;
    default:
      return `The server failed: ${failure.message}.`;
  }
}
