"""Settling: what a reading leaves open, found in what the network answers; or a question, where that is not certain.

Nothing is guessed. A softmax at the end is known by the graph, or by outputs that are never negative and sum to one; a
sigmoid by the graph, or by outputs that never leave 0 to 1 and go to its ends where inputs are large. Logits may be any
numbers: of outputs that keep within bounds without being known for probabilities it is asked what they are. Of several
dimensions, the classes lie along the one that the softmax ran along, or that sums to one, or has as many entries as
there are labels, or is left over where the others are those of an input.
"""

from collections.abc import Callable, Sequence

import numpy as np

from mcdropout.engine.arrays import Array
from mcdropout.engine.reading import Reading
from mcdropout.engine.settling.classes import classification
from mcdropout.engine.settling.evidence import Evidence
from mcdropout.engine.settling.labels import binary, multilabel
from mcdropout.engine.settling.seen import Seen
from mcdropout.engine.settling.values import regression

_SETTLED: dict[str, Callable[[Seen], Reading]] = {
    "classification": classification,
    "multilabel": multilabel,
    "binary": binary,
    "regression": regression,
}


def settle(
    reading: Reading,
    evidence: Evidence,
    inputs: Sequence[Array],
    answers: Sequence[tuple[Array, ...]],
    run: Callable[[tuple[Array, ...]], tuple[Array, ...]],
    infer: Callable[[tuple[Array, ...]], tuple[Array, ...]],
) -> Reading:
    """The reading, with nothing left open.

    Args:
        reading: as far as it is given.
        evidence: what the network itself says of its output.
        inputs: examples, `[rows, ...]` each.
        answers: the network's outputs for these, with nothing dropped and in some passes.
        run: the network with nothing dropped, for other inputs of the same sizes.
        infer: the network as it is in inference, for inputs of other sizes too.

    Raises:
        UnsupportedModelError: what the network answers does not fit the reading, or leaves a question open; the
            message says which, and what would answer it.
    """

    def scaled(factor: float) -> Array | None:
        if not any(np.issubdtype(x.dtype, np.floating) for x in inputs):
            return None
        large = (x * x.dtype.type(factor) if np.issubdtype(x.dtype, np.floating) else x for x in inputs)
        try:
            return run(tuple(large))[0].astype(np.float64)
        except Exception:  # inputs like none that it ever saw: whatever it makes of them is no answer
            return None

    def resized(changed: Sequence[Array]) -> tuple[int, ...] | None:
        try:
            return infer(tuple(changed))[0].shape
        except Exception:  # sizes that it was not made for
            return None

    spatial = [x.ndim > 2 or not np.issubdtype(x.dtype, np.floating) for x in inputs]
    seen = Seen(reading, evidence, tuple(inputs), tuple(spatial), answers, scaled, resized)
    return _SETTLED[reading.task](seen)
