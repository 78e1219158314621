"""What passes say of a row, summed up by the C extension in one call."""

import ctypes
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mcdropout.engine.native.library import address_of, check_array, library, locked_library

Doubles = npt.NDArray[np.float64]

FORMS: Final = ("logits", "probabilities", "log_probabilities")
"""What outputs may be, in the order in which the extension counts them."""
MOST_CLASSES = 1024
"""The most classes whose sums it finds."""
MOST_LABELS = 10
"""The most labels whose combinations it sums up."""
# Fewer numbers are summed up in less time than it takes to get the interpreter's lock back from another thread.
_FEW = 2**13


def _functions(numbers: int) -> ctypes.CDLL:
    """The extension's, for so many numbers."""
    return locked_library() if numbers <= _FEW else library()


class Sums(NamedTuple):
    """What passes of some rows add up to.

    Attributes:
        mean: `[rows, values]`, of the probabilities.
        squares: `[rows, values]`, the sums of their squared deviations from it.
        entropy: `[rows]` of classes, `[rows, labels]` of labels: the sum of the passes' entropies, in nats.
        votes: `[rows, values]`, how many passes found a class the most probable, or a label at or above the threshold.
        usable: whether all outputs can be read so; otherwise all else is void.
    """

    mean: Doubles
    squares: Doubles
    entropy: Doubles
    votes: npt.NDArray[np.int64]
    usable: bool


def class_sums(outputs: npt.NDArray[np.float32], form: str, temperature: float) -> Sums:
    """Of classes.

    Args:
        outputs: `[rows, passes, classes]`, contiguous; at most `MOST_CLASSES` of them.
        form: which of `FORMS` they are.
        temperature: what logits are divided by.
    """
    rows, _, classes = outputs.shape
    if not 0 < classes <= MOST_CLASSES:
        raise ValueError(f"there are {classes} classes; 1 to {MOST_CLASSES} are accepted")
    return _summed("class_sums", outputs, (rows, classes), rows, (FORMS.index(form), temperature))


def label_sums(
    outputs: npt.NDArray[np.float32], form: str, temperature: float, threshold: float
) -> tuple[Doubles, Sums]:
    """The probabilities `[rows, passes, labels]` of labels, each for itself, and their sums.

    Args:
        outputs: `[rows, passes, labels]`, contiguous.
        form, temperature: as for `class_sums`.
        threshold: the probability from which on the answer is yes.
    """
    samples = np.empty(outputs.shape)
    shape = outputs.shape[0], outputs.shape[2]
    entropies, options = shape[0] * shape[1], (FORMS.index(form), temperature, threshold, address_of(samples))
    return samples, _summed("label_sums", outputs, shape, entropies, options)


def combination_sums(samples: Doubles) -> Doubles:
    """The sum over passes of the probability of each combination of labels, `[rows, 2 ** labels]`.

    Args:
        samples: `[rows, passes, labels]`, the probability of each label in each pass, contiguous; of at most
            `MOST_LABELS`.
    """
    rows, passes, labels = samples.shape
    check_array(samples, np.float64, samples.shape)
    if labels > MOST_LABELS:
        raise ValueError(f"there are {labels} labels; at most {MOST_LABELS} are accepted")
    total = np.empty((rows, 2**labels))
    function = _functions(total.size * passes).combination_sums
    function(address_of(samples), rows, passes, labels, address_of(total))
    return total


def _summed(
    name: str, outputs: npt.NDArray[np.float32], shape: tuple[int, int], entropies: int, options: tuple[float, ...]
) -> Sums:
    check_array(outputs, np.float32, outputs.shape)
    values = shape[0] * shape[1]
    # One memory for all, whose address is asked for once: that takes as long as to sum up a row.
    memory = np.empty(3 * values + entropies + shape[0])
    where = address_of(memory)
    mean, squares, entropy, votes = where, where + 8 * values, where + 16 * values, where + 16 * values + 8 * entropies
    function = getattr(_functions(outputs.size), name)
    function(address_of(outputs), *outputs.shape, *options, mean, squares, entropy, votes, votes + 8 * values)
    end = 2 * values + entropies
    return Sums(
        memory[:values].reshape(shape),
        memory[values : 2 * values].reshape(shape),
        memory[2 * values : end] if entropies == shape[0] else memory[2 * values : end].reshape(shape),
        memory[end : end + values].view(np.int64).reshape(shape),
        not memory[end + values :].view(np.int64).any(),
    )


def value_sums(samples: Doubles) -> tuple[Doubles, Doubles]:
    """The mean, `[rows, ...]`, and the sums of squared deviations from it.

    Args:
        samples: `[rows, passes, ...]`, contiguous.
    """
    check_array(samples, np.float64, samples.shape)
    rows, passes, *shape = samples.shape
    mean, squares = np.empty((2, rows, *shape))
    values = mean.size // rows if rows else 0
    function = _functions(samples.size).value_sums
    function(address_of(samples), rows, passes, values, address_of(mean), address_of(squares))
    return mean, squares


def mixture_quantiles(
    means: Doubles, deviations: Doubles, weights: Doubles, levels: Doubles, begins: Doubles, likelihood: int
) -> Doubles:
    """The quantiles of mixtures, `[mixtures, levels]`, to about 1e-9 of the level.

    Args:
        means, deviations: `[mixtures, components]`, contiguous.
        weights: `[components]`, whose sum is 1.
        levels: `[levels]`, between 0 and 1.
        begins: `[levels]`, the likelihood's own quantiles.
        likelihood: 0 for Gaussians, 1 for Laplace distributions.
    """
    mixtures, components = means.shape
    for array, shape in (
        (means, means.shape),
        (deviations, means.shape),
        (weights, (components,)),
        (levels, levels.shape),
        (begins, levels.shape),
    ):
        check_array(array, np.float64, shape)
    found = np.empty((mixtures, len(levels)))
    function = _functions(means.size * 16).mixture_quantiles
    function(
        *(address_of(array) for array in (means, deviations, weights)),
        mixtures,
        components,
        address_of(levels),
        address_of(begins),
        len(levels),
        likelihood,
        address_of(found),
    )
    return found
