"""Ranges: which whole numbers a network takes, such as the tokens that it has an embedding of, found by trying.

A program may answer what the network itself refuses: to ONNX, -1 is the last row of a table. So what the network raises
an error for is refused before any program runs.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.inputs import InputSpec

_MOST_COLUMNS = 16
_MOST = 2**20  # numbers beyond are not tried: of a length, say, code may make as many entries

Run = Callable[[tuple[Array, ...]], object]


def with_ranges(
    specs: Sequence[InputSpec], arrays: Sequence[Array], run: Run, likely: Sequence[InputSpec] | None = None
) -> tuple[InputSpec, ...]:
    """Inputs with the least and the largest whole number that each takes, where there are such.

    Args:
        specs: the inputs.
        arrays: examples, `[rows, ...]` each.
        run: the network itself, with nothing dropped, for one row.
        likely: the same with numbers that are tried first.
    """
    return tuple(
        _with_range(spec, index, tuple(arrays), run, like) if np.issubdtype(spec.dtype, np.integer) else spec
        for index, (spec, like) in enumerate(zip(specs, likely or specs, strict=True))
    )


def _with_range(spec: InputSpec, index: int, arrays: tuple[Array, ...], run: Run, like: InputSpec) -> InputSpec:
    x = arrays[index]

    def takes(number: int, *places: Any) -> bool:
        row = x[:1].copy()
        row[0, ..., *places] = number
        try:
            run((*(y[:1] for y in arrays[:index]), row, *(y[:1] for y in arrays[index + 1 :])))
        except UnsupportedModelError:  # no mask fits what its dropout gets, which says nothing of the number
            return True
        except MemoryError:
            raise
        except Exception:  # whatever the network's code raises
            return False
        return True

    least, most = int(x.min()), int(x.max())
    if not (takes(least) and takes(most)):  # a row of equal numbers is not for it
        return spec
    limits = np.iinfo(spec.dtype)
    lowest = None if limits.min == 0 or takes(-1) else _last(takes, least, -1, like.lowest)
    end = min(_MOST, int(limits.max))
    highest = None if most >= end or takes(end) else _last(takes, most, end, like.highest)
    columns = _spread(x.shape[-1]) if x.ndim > 1 else []
    # Where each column has a table of its own, what one of them refuses others may take: the network itself says it.
    if lowest is not None and any(takes(lowest - 1, column) for column in columns):
        lowest = None
    if highest is not None and any(takes(highest + 1, column) for column in columns):
        highest = None
    return replace(spec, lowest=lowest, highest=highest)


def _spread(count: int) -> list[int]:
    """Some of so many columns, from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, _MOST_COLUMNS))})


def _last(takes: Callable[..., bool], taken: int, refused: int, likely: float | None) -> int:
    """The last number that is taken on the way from one that is to one that is not."""
    step = 1 if refused > taken else -1
    if likely is not None and (refused - likely) * step > 0 and (likely - taken) * step >= 0:
        guess = int(likely)
        if (guess == taken or takes(guess)) and (guess + step == refused or not takes(guess + step)):
            return guess
    while abs(refused - taken) > 1:
        middle = (taken + refused) // 2
        if takes(middle):
            taken = middle
        else:
            refused = middle
    return taken
