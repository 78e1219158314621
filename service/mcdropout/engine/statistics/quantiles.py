"""Quantiles of a mixture of as many Gaussians as there are passes, in memory that does not grow with them."""

from collections.abc import Iterator, Sequence

import numpy as np

from mcdropout.engine.native import library
from mcdropout.engine.statistics.block import Floats, Rows
from mcdropout.engine.statistics.gaussians import about_quantile_of_gaussians
from mcdropout.engine.statistics.likelihoods import GAUSSIAN, Likelihood
from mcdropout.engine.statistics.merging import (
    Counts,
    merged,
    parts_of,
    pooled,
    quantiles_of_points,
    weighted_quantiles,
)
from mcdropout.engine.statistics.mixtures import quantiles_of_mixture

CAPACITY = 1024
"""Up to this many passes are kept as they are where a row has few values."""
FEW = 64
"""So many values of a row are few."""
DENSE_CAPACITY = 256
"""Up to this many passes are kept as they are where a row has more values, as in a dense output."""
_LEAST_CAPACITY, _MANY = 64, 2**16  # the same where a row has more than that
_MERGED_SHARE, _DENSE_MERGED_SHARE = 2, 8  # how many times as many there are as components that they are merged into

_COMPONENTS_OF_DENSE = 12  # to which Gaussians of dense outputs are merged before a quantile is found
_CHUNK = 2**15  # numbers that are worked on at once, so that they stay in the caches
_NEAR = 2**8  # values of a row that are copied at once, for the same reason


def capacity_of(values: int) -> int:
    """How many passes of rows of so many values are kept as they are."""
    return CAPACITY if values <= FEW else DENSE_CAPACITY if values <= _MANY else _LEAST_CAPACITY


class MixtureQuantiles:
    """A mixture with one Gaussian for each pass, or one point, where no noise is known.

    So many passes as `capacity_of` the values of a row are kept as they are. Whenever there are more to come, these are
    sorted by mean (plus deviation, where deviations differ), and neighbours merged into an eighth as many components
    (half as many for few values), small ones at the ends; and those, with the components merged before, into as many
    again. Merged Gaussians have the mean and the variance that they had together.

    What is found is exact as long as nothing was merged, but for Gaussians of more than `FEW` values, which are merged
    into 12 first. Else a quantile's level moves by a few shares in a capacity: by less than 0.005 for few values and
    0.03 for more, most by a third of that. Where the variance of the noise differs from pass to pass by a factor of e
    as a rule, those with more are merged as if they had less, which moves the level by up to 0.06.
    """

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()  # of a row's values
        self._noise: float | None = None  # the variance of all Gaussians, where it is the same
        # [means, and variances where they differ; rows; values; room for passes], as float32 for many values, if it
        # holds them: what is sorted most is then half as large.
        self._recent: Floats = np.zeros(())
        self._count = 0  # of the recent passes
        self._merged: Floats | None = None  # [the same; rows; values; components]
        self._blocks = 0  # of a capacity of passes each, that were merged

    @property
    def nbytes(self) -> int:
        """The memory that it holds, in bytes."""
        return self._recent.nbytes + (0 if self._merged is None else self._merged.nbytes)

    def update(self, means: Floats, variances: Floats | float = 0.0, *, narrow: bool = False) -> None:
        """Take in the Gaussians of some passes, `[rows, passes, ...]`; their variances, or the one of them all.

        `narrow`: whether float32 holds the means as they are.
        """
        rows, passes, *shape = means.shape
        given = [means.reshape(rows, passes, -1)]
        if isinstance(variances, np.ndarray):
            given.append(variances.reshape(rows, passes, -1))
        else:
            self._noise = variances
        values = given[0].shape[2]
        if self._recent.ndim == 0:
            self._shape = tuple(shape)
            dtype = np.float32 if narrow and values > FEW else np.float64
            self._recent = np.empty((len(given), rows, values, 0), dtype)
        capacity, start = capacity_of(values), 0
        while start < passes:
            if self._count == capacity:
                self._merge()
            end = min(passes, start + capacity - self._count)  # not beyond: what is merged depends on no block
            filled = slice(self._count, self._count + end - start)
            self._make_room(filled.stop, capacity)
            for kept, part in zip(self._recent, given, strict=True):
                for near in (slice(at, at + _NEAR) for at in range(0, values, _NEAR)):
                    kept[:, near, filled] = part[:, start:end, near].swapaxes(1, 2)
            self._count, start = filled.stop, end

    def take(self, rows: Rows) -> "MixtureQuantiles":
        """The mixtures of some rows."""
        taken = MixtureQuantiles()
        taken._shape, taken._noise = self._shape, self._noise
        taken._count, taken._blocks = self._count, self._blocks
        if self._recent.ndim:
            taken._recent = self._recent[:, rows, :, : self._count].copy()  # others write into this one
        if self._merged is not None:
            taken._merged = self._merged[:, rows]
        return taken

    def quantiles(self, levels: Sequence[float], likelihood: Likelihood = GAUSSIAN) -> Floats:
        """The smallest values that shares of the mixture do not exceed, `[rows, ..., levels]`.

        Components are of the `likelihood`; merged ones too, with the mean and variance that they have.
        """
        kinds, rows, values, _ = self._recent.shape
        if kinds == 1 and not self._noise and self._merged is None and self._count * values * rows <= _CHUNK:
            points = self._recent.reshape(rows * values, -1)[:, : self._count]
            return quantiles_of_points(points, levels).reshape(rows, *self._shape, len(levels))
        found = np.empty((rows * values, len(levels)))
        weights = self._weights()
        for chunk, parts in self._chunks():
            noisy = parts[1].any(axis=1) if self._noise is None else np.full(len(parts[0]), self._noise > 0.0)
            of_chunk = found[chunk]
            if not noisy.all():
                of_chunk[~noisy] = weighted_quantiles(parts[0][~noisy], weights, levels)
            if noisy.any():
                parts = [part[noisy] for part in parts]
                of_chunk[noisy] = self._with_noise(parts, weights, levels, likelihood, values > FEW)
        return found.reshape(rows, *self._shape, len(levels))

    def _with_noise(
        self, parts: Sequence[Floats], weights: Counts, levels: Sequence[float], likelihood: Likelihood, dense: bool
    ) -> Floats:
        if dense and len(weights) > _COMPONENTS_OF_DENSE:
            if self._merged is None:
                into = parts_of(len(weights), _COMPONENTS_OF_DENSE)
                parts = pooled(parts, into, spread=True)
            else:
                into = parts_of(DENSE_CAPACITY, _COMPONENTS_OF_DENSE) * weights.sum()
                parts = merged(parts, weights * DENSE_CAPACITY, into, spread=True)
            weights = into
        parts = [part.astype(np.float64, copy=False) for part in parts]
        means, variances = parts[0], parts[1] if len(parts) > 1 else np.zeros_like(parts[0])
        deviations = np.sqrt(variances if self._noise is None else variances + self._noise)
        shares = weights / weights.sum()
        if dense and likelihood is GAUSSIAN and not library.available():
            return np.stack([about_quantile_of_gaussians(means, deviations, shares, x) for x in levels], axis=-1)
        return quantiles_of_mixture(means, deviations, shares, levels, likelihood)

    def _weights(self) -> Counts:
        """Of the components, the merged ones and then the recent, in passes."""
        into = self._recent_parts()
        recent = np.ones(self._count, np.int64) if into is None else into
        if self._merged is None:
            return recent
        return np.concatenate([self._blocks * self._parts(), recent])

    def _recent_parts(self) -> Counts | None:
        """What recent passes of dense outputs are merged into, beside merged ones; None where they are left alone."""
        count = len(self._parts())
        if self._merged is None or self._recent.shape[2] <= FEW or self._count < 2 * count:
            return None
        return parts_of(self._count, count)

    def _parts(self) -> Counts:
        """The passes of a full capacity in each component after merging."""
        capacity = capacity_of(self._recent.shape[2])
        return parts_of(capacity, capacity // (_MERGED_SHARE if capacity == CAPACITY else _DENSE_MERGED_SHARE))

    def _chunks(self) -> Iterator[tuple[slice, list[Floats]]]:
        """Some values after others, of whatever row, and their components `[values, components]`: means, variances."""
        kinds, rows, values, room = self._recent.shape
        recent = self._recent.reshape(kinds, rows * values, room)[..., : self._count]
        before = recent[..., :0] if self._merged is None else self._merged.reshape(kinds, rows * values, -1)
        into, size = self._recent_parts(), max(1, _CHUNK // (self._count + before.shape[-1]))
        for start in range(0, rows * values, size):
            chunk = slice(start, start + size)
            own = list(recent[:, chunk])
            if into is not None:
                own = pooled(own, into)
            yield chunk, own if self._merged is None else list(np.concatenate([before[:, chunk], own], axis=-1))

    def _merge(self) -> None:
        """Merge all that is kept; room for a capacity of passes is left."""
        kinds, rows, values, capacity = self._recent.shape  # the room is a whole capacity
        parts = self._parts()
        before = None if self._merged is None else self._merged.reshape(kinds, rows * values, -1)
        recent, after = self._recent.reshape(kinds, rows * values, -1), np.empty((kinds, rows * values, len(parts)))
        weights = np.concatenate([self._blocks * parts, parts])
        size = max(1, _CHUNK // capacity)
        for start in range(0, rows * values, size):
            chunk = slice(start, start + size)
            new = pooled(list(recent[:, chunk]), parts)
            if before is not None:
                both = np.concatenate([before[:, chunk], new], axis=-1)
                new = merged(list(both), weights, (self._blocks + 1) * parts)
            after[:, chunk] = new
        self._merged = after.reshape(kinds, rows, values, -1)
        self._blocks, self._count = self._blocks + 1, 0

    def _make_room(self, passes: int, capacity: int) -> None:
        """Room for so many recent passes: all at once for dense outputs, else twice as much whenever there is none."""
        *shape, room = self._recent.shape
        if passes > room:
            wanted = min(capacity, max(passes, 2 * room)) if capacity == CAPACITY else capacity
            recent = np.empty((*shape, wanted), self._recent.dtype)
            recent[..., : self._count] = self._recent[..., : self._count]
            self._recent = recent
