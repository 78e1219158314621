"""Reductions: the many places of a dense answer, an image's or its regions', brought down to one number."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.field import Field

ACCEPTED = "mean, max, min, sum, a percentile such as p95, or volume>0.5, the number of places above a value"
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?|100)")
_VOLUME = re.compile(r"volume>(-?\d+(?:\.\d+)?(?:e-?\d+)?)", re.IGNORECASE)
_WHOLE: dict[str, Callable[..., Any]] = {"mean": np.mean, "max": np.max, "min": np.min, "sum": np.sum}
_MOST_REGIONS = 1024


@dataclass(frozen=True)
class Reduction:
    """How the places of each row become one number, or one for each region.

    Attributes:
        text: as it was asked for.
        regions: into how many parts the last dimensions of the places are cut, each number for one of them, the last
            for the last; empty for one number of all places.
    """

    text: str
    regions: tuple[int, ...] = ()

    @classmethod
    def of(cls, text: str, regions: str | None = None) -> "Reduction":
        """The reduction that a text asks for, over regions such as `4x4`.

        Raises:
            InvalidInputError: it asks for something else.
        """
        if text not in _WHOLE and not _PERCENTILE.fullmatch(text) and not _VOLUME.fullmatch(text):
            raise InvalidInputError(f"reduce is {text!r}; {ACCEPTED} is accepted")
        if regions is None:
            return cls(text)
        parts = regions.split("x")
        if not all(part.isascii() and part.isdigit() and int(part[:6]) > 0 for part in parts):
            raise InvalidInputError(f"regions is {regions!r}; numbers of parts such as 4x4 are accepted")
        counts = tuple(int(part[:6]) for part in parts)
        if np.prod(counts, dtype=np.float64) > _MOST_REGIONS:
            raise InvalidInputError(f"regions is {regions!r}; at most {_MOST_REGIONS} of them are accepted")
        return cls(text, counts)

    def check(self, places: tuple[int, ...]) -> None:
        """Raise InvalidInputError where answers of so many places along each dimension cannot be reduced so."""
        if not places:
            raise InvalidInputError(
                f"reduce is {self.text!r}, but this model answers with one place a row; reduce is accepted for maps"
            )
        last = places[len(places) - len(self.regions) :]
        if len(self.regions) > len(places) or any(a > b for a, b in zip(self.regions, last, strict=True)):
            asked, most = ("x".join(map(str, sizes)) for sizes in (self.regions, places))
            raise InvalidInputError(f"regions is {asked}; as many parts as there are places, {most}, are the most")

    def reduced(self, field: Field, values: npt.NDArray[Any], reading: Reading) -> npt.NDArray[Any]:
        """The values of a field, `[rows, ...]`, with one number, or one for each region, instead of all places.

        Classes stay, where the network has them; the two ends of an interval are last.
        """
        class_axis = reading.class_axis if field.per_class and reading.class_axis is not None else None
        kept = [0] if class_axis is None else [0, class_axis]
        kept += range(values.ndim - field.trailing, values.ndim)
        places = [axis for axis in range(values.ndim) if axis not in kept]
        moved = np.moveaxis(values, places, range(-len(places), 0))  # places last
        first = moved.ndim - len(places)
        cut = moved.ndim - len(self.regions)
        found = self._over(moved, first, cut)
        # Regions behind rows and classes, before the ends of an interval.
        placed = np.moveaxis(found, range(len(kept) - field.trailing, len(kept)), range(-field.trailing, 0))
        return np.ascontiguousarray(placed)

    def _over(self, values: npt.NDArray[Any], first: int, cut: int) -> npt.NDArray[Any]:
        """Reduce all dimensions from `first` on, but for those from `cut` on, which become regions."""
        if cut == values.ndim:
            return np.asarray(self._of(values.reshape(*values.shape[:first], -1)))
        parts = np.array_split(values, self.regions[len(self.regions) - (values.ndim - cut)], axis=cut)
        rest = [self._over(np.moveaxis(part, cut, first), first, cut + 1) for part in parts]
        return np.stack(rest, axis=first)

    def _of(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Reduce the last dimension."""
        if self.text in _WHOLE:
            return np.asarray(_WHOLE[self.text](values, axis=-1))
        if percentile := _PERCENTILE.fullmatch(self.text):
            return np.asarray(np.percentile(values.astype(np.float64), float(percentile[1]), axis=-1))
        volume = _VOLUME.fullmatch(self.text)
        assert volume is not None
        above = np.count_nonzero(values > float(volume[1]), axis=-1)
        unknown = np.isnan(values).any(axis=-1)  # as the variance of one pass is
        return np.where(unknown, np.nan, above) if unknown.any() else np.asarray(above)
