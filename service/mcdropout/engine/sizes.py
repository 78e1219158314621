"""Sizes: dimensions of the inputs that differ from row to row, such as the tokens of a text or the height of a picture.

Rows of one size share a batch, and no row is padded to another's size: a network of named sizes is served as a family
of networks of fixed ones, which share weights and programs. What differs between them is the shapes of their masks. How
these follow from the sizes is found by looking, a size after another, and is kept as a rule that holds at all that were
looked at: at every one that is accepted, where that is soon done. Each program is checked at some of them, and at those
where it is not known to be the network's.
"""

import itertools
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mcdropout.engine.arrays import Array
from mcdropout.engine.errors import InvalidInputError, UnsupportedModelError
from mcdropout.engine.sites import Site

Sizes = Mapping[str, int]
"""The size of each named dimension."""

_RUNS = (12, 36, 68, 132)
"""How many sizes in a row are looked at, until a rule is found: rules of a period of half as many can be."""
_SPREAD = 6  # sizes beyond those, up to the largest
_MOST_OFFSET = 4  # of what a product of two sizes stands beside, such as the token of a class
_MOST_TOGETHER = 4096
"""How many sizes of several dimensions are looked at together, before each dimension is looked at by itself."""
LARGEST = 2**24
"""The largest size that may differ from row to row: each one that is accepted is looked through."""
_LONGEST = 2.0  # seconds in which every size is looked at, once the rules are found
_TOO_SMALL = 6  # an example as small as this is hardly like larger ones; exporters take 0 and 1 for special
_TAKEN = (3, 5)  # of which examples have as many rows and pairs, which they are not to be taken for


@dataclass(frozen=True)
class Named:
    """A dimension whose size may differ from row to row.

    Attributes:
        name: dimensions of one name have one size in a row.
        least, most: the sizes accepted.
        multiple: of what they are multiples.
    """

    name: str
    least: int
    most: int
    multiple: int = 1

    def __str__(self) -> str:
        steps = f" in steps of {self.multiple}" if self.multiple > 1 else ""
        return f"{self.name} ({self.least} to {self.most}{steps})"

    def __contains__(self, size: object) -> bool:
        return isinstance(size, int | np.integer) and size in self.values

    @property
    def values(self) -> range:
        """All sizes that are accepted."""
        return range(self.least, self.most + 1, self.multiple)

    def check(self) -> None:
        """Raise InvalidInputError where no dimension is like that."""
        numbers = (self.least, self.most, self.multiple)
        if not all(type(number) is int and number > 0 for number in numbers) or self.least > self.most:
            raise InvalidInputError(
                f"the sizes of {self.name!r} are {self.least} to {self.most}, multiples of {self.multiple}; whole "
                "numbers from 1 on, the least at most the most, are accepted"
            )
        if self.most > LARGEST:
            raise InvalidInputError(
                f"the sizes of {self.name!r} are {self.least} to {self.most}; sizes of at most {LARGEST} are accepted"
            )
        if any(number % self.multiple for number in (self.least, self.most)):
            raise InvalidInputError(
                f"the sizes of {self.name!r} are {self.least} to {self.most}; both are to be multiples of "
                f"{self.multiple}"
            )


Dimension = int | Named


def accepts(dimension: Dimension, size: int) -> bool:
    """Whether a size is that of a dimension, or one of those that it may have."""
    return size in dimension if isinstance(dimension, Named) else size == dimension


@dataclass(frozen=True)
class Growth:
    """How a number follows one size: by `step` more every so many sizes, whatever it is in between.

    So does what convolutions, pooling and windows make of a size, and what their numbers of strides and paddings are.

    Attributes:
        dimension: which size.
        first: the numbers from its least size on, for one period.
        step: by how much the next period is more.
    """

    dimension: Named
    first: tuple[int, ...]
    step: int

    def at(self, sizes: Sizes) -> int:
        """The number at some sizes."""
        index = (sizes[self.dimension.name] - self.dimension.least) // self.dimension.multiple
        turn, place = divmod(index, len(self.first))
        return self.first[place] + turn * self.step


@dataclass(frozen=True)
class Extent:
    """How the size of one dimension of a mask follows the sizes of the inputs.

    Attributes:
        base: it at the sizes that the network was prepared with.
        growths: how it follows each size that it depends on, the others being those; none where it is always the same.
        offset: what it is more than the product of what they give, where there are several.
    """

    base: int
    growths: tuple[Growth, ...] = ()
    offset: int = 0

    def at(self, sizes: Sizes) -> int:
        """The size at some sizes of the inputs."""
        if len(self.growths) < 2:
            return self.growths[0].at(sizes) if self.growths else self.base
        product = math.prod(growth.at(sizes) - self.offset for growth in self.growths)
        return self.offset + product // math.prod([self.base - self.offset] * (len(self.growths) - 1))

    @property
    def told(self) -> int | str:
        """It for people: a number, the name of the size that it is, or `f(names)`."""
        if not self.growths:
            return self.base
        (growth, *others) = self.growths
        name = growth.dimension.name
        if not others and all(growth.at({name: size}) == size for size in growth.dimension.values):
            return name
        return f"f({', '.join(growth.dimension.name for growth in self.growths)})"


@dataclass(frozen=True)
class Sizing:
    """Which dimensions of the inputs have names, and what the shapes of masks are at any sizes.

    Attributes:
        shapes: of one row of each input.
        base: the sizes that the network was prepared with.
        extents: for each site, of the dimensions of its shape.
    """

    shapes: tuple[tuple[Dimension, ...], ...]
    base: dict[str, int]
    extents: tuple[tuple[Extent, ...], ...] = ()

    @property
    def dimensions(self) -> tuple[Named, ...]:
        """The named dimensions, each once."""
        return tuple({x.name: x for shape in self.shapes for x in shape if isinstance(x, Named)}.values())

    def shapes_at(self, sizes: Sizes) -> list[tuple[int, ...]]:
        """The shape of one row of each input at some sizes."""
        return [tuple(sizes[x.name] if isinstance(x, Named) else x for x in shape) for shape in self.shapes]

    def sites_at(self, sites: Sequence[Site], sizes: Sizes) -> tuple[Site, ...]:
        """The sites as they are at some sizes."""
        found: list[Site] = []
        for site, extents in zip(sites, self.extents, strict=True):
            shape = tuple(extent.at(sizes) for extent in extents)
            found.append(replace(site, shape=shape, rows_per_row=shape[0] if site.rows_per_row > 1 else 1))
        return tuple(found)

    def told_shapes(self) -> list[list[int | str]]:
        """The shape of each site's mask for people; see `Extent.told`."""
        return [[extent.told for extent in extents] for extents in self.extents]

    def examples_at(self, arrays: Sequence[Array], sizes: Sizes) -> tuple[Array, ...]:
        """Examples `[rows, ...]`, cut or repeated in turn along their named dimensions to other sizes."""
        return tuple(resized(x, shape) for x, shape in zip(arrays, self.shapes_at(sizes), strict=True))

    def sizes_of(self, shapes: Sequence[Sequence[int]]) -> dict[str, int]:
        """The sizes of a row from the shape of each input; where a name has several, the first."""
        sizes: dict[str, int] = {}
        for found, shape in zip(shapes, self.shapes, strict=True):
            for size, dimension in zip(found, shape, strict=True):
                if isinstance(dimension, Named):
                    sizes.setdefault(dimension.name, int(size))
        return sizes

    @property
    def few(self) -> bool:
        """Whether there are so few sizes, of all dimensions together, that `each` has them all."""
        return math.prod(len(x.values) for x in self.dimensions) <= _MOST_TOGETHER

    def each(self, names: Collection[str] | None = None) -> list[dict[str, int]]:
        """All sizes that are accepted, of dimensions together; thousands at most.

        Where there are more, all of each dimension, with the least, the base's and the most of the others.

        Args:
            names: the dimensions, whose others have the sizes of the base; all where not given.
        """
        chosen = [x for x in self.dimensions if names is None or x.name in names]
        ways: list[list[Iterable[int]]] = [[x.values for x in chosen]]
        if math.prod(len(x.values) for x in chosen) > _MOST_TOGETHER:
            ends = [(x.least, self.base[x.name], x.most) for x in chosen]
            ways = [[*ends[:at], x.values, *ends[at + 1 :]] for at, x in enumerate(chosen)]
        return _each_once(
            {**self.base, **{x.name: size for x, size in zip(chosen, together, strict=True)}}
            for way in ways
            for together in itertools.product(*way)
        )

    def unlike(self) -> dict[str, int]:
        """Sizes each of which is another than that of the examples, where there is another."""
        return {
            x.name: next((size for size in (x.most, x.least) if size != self.base[x.name]), x.most)
            for x in self.dimensions
        }

    def tried(self) -> list[dict[str, int]]:
        """Sizes unlike those of the examples, at which programs are checked: the least, the most, and in between."""
        least = {x.name: x.least for x in self.dimensions}
        most = {x.name: x.most for x in self.dimensions}
        between = {x.name: x.values[(2 + index) * len(x.values) // 7] for index, x in enumerate(self.dimensions)}
        return [sizes for sizes in _each_once((least, between, most)) if sizes != self.base]


def _each_once(given: Iterable[dict[str, int]]) -> list[dict[str, int]]:
    return list({tuple(sizes.items()): sizes for sizes in given}.values())


def resized(x: Array, shape: Sequence[Dimension]) -> Array:
    """Rows `[rows, ...]`, cut or repeated in turn along their dimensions to another shape, which has no name in it."""
    for axis, size in enumerate(shape, 1):
        if isinstance(size, int) and x.shape[axis] != size:
            x = x.take(np.arange(size) % x.shape[axis], axis=axis)
    return np.ascontiguousarray(x)


def sizing_of(arrays: Sequence[Array], shapes: Sequence[Sequence[Dimension]]) -> Sizing | None:
    """Which sizes a network is to be prepared with; None where no dimension has a name.

    Args:
        arrays: the examples, `[rows, ...]` each.
        shapes: of one row of each.

    Raises:
        InvalidInputError: the examples are not of these shapes.
    """
    if not any(isinstance(x, Named) for shape in shapes for x in shape):
        return None
    base: dict[str, int] = {}
    for x, shape in zip(arrays, shapes, strict=True):
        if len(shape) != x.ndim - 1 or any(
            not accepts(want, size) for size, want in zip(x.shape[1:], shape, strict=True)
        ):
            accepted = ", ".join(map(str, shape))
            raise InvalidInputError(f"an example row has the shape {list(x.shape[1:])}; [{accepted}] is accepted")
        for size, dimension in zip(x.shape[1:], shape, strict=True):
            if isinstance(dimension, Named) and dimension.name not in base:
                base[dimension.name] = _like(size, dimension, base.values())
    return Sizing(tuple(map(tuple, shapes)), base)


def _like(size: int, dimension: Named, others: Iterable[int]) -> int:
    """The size nearest to that of an example which an exporter takes for no other number."""
    unlike = {*_TAKEN, *others}
    good = [value for value in dimension.values if value >= _TOO_SMALL and value not in unlike]
    return min(good or [value for value in dimension.values if value not in unlike] or [size], key=_distance_to(size))


def _distance_to(size: int) -> Callable[[int], int]:
    return lambda value: abs(value - size)


def extents_of(
    sizing: Sizing, sites: Sequence[Site], look: Callable[[dict[str, int]], Sequence[Site]]
) -> tuple[tuple[Extent, ...], ...]:
    """How the shapes of masks follow the sizes, for each site and dimension.

    Args:
        sizing: without extents yet.
        sites: as they are at its base.
        look: the sites at other sizes, in the same order.

    Raises:
        UnsupportedModelError: they follow no rule that could be found.
    """
    seen: dict[tuple[int, ...], Sequence[Site]] = {tuple(sizing.base.values()): sites}

    def shape(sizes: dict[str, int], site: int) -> tuple[int, ...]:
        key = tuple(sizes.values())
        if key not in seen:
            seen[key] = look(sizes)
        found = seen[key][site].shape
        if len(found) != len(sites[site].shape):
            raise UnsupportedModelError(
                f"the mask of {sites[site].name} has the shape {list(sites[site].shape)} at {told(sizing.base)} and "
                f"{list(found)} at {told(sizes)}; one of the same dimensions at all sizes is accepted"
            )
        return found

    def extent(site: int, axis: int) -> Extent:
        base = sites[site].shape[axis]
        growths: list[Growth] = []
        for dimension in sizing.dimensions:
            sizes = sizing.base

            def value(size: int, sizes: dict[str, int] = sizes, name: str = dimension.name) -> int:
                return shape({**sizes, name: size}, site)[axis]

            growth = _growth(dimension, value)
            if growth is None:
                raise UnsupportedModelError(
                    f"how many entries the mask of {sites[site].name} has follows {dimension} by no rule that was "
                    "found; multiples, strides, paddings and windows are accepted, and bounds closer together"
                )
            if len(set(growth.first)) > 1 or growth.step:
                growths.append(growth)
        return _combined(base, growths, sizing, lambda sizes: shape(sizes, site)[axis], sites[site])

    return tuple(tuple(extent(site, axis) for axis in range(len(one.shape))) for site, one in enumerate(sites))


def check_extents(sizing: Sizing, sites: Sequence[Site], look: Callable[[dict[str, int]], Sequence[Site]]) -> None:
    """Look at every size that is accepted, in any order, or at as many as there is time for.

    Args:
        sizing: with extents.
        sites: as they are at its base.
        look: as `extents_of` takes it, which raises where the network draws otherwise than there.

    Raises:
        UnsupportedModelError: a mask has another shape at one of them than its rule says.
    """
    finish, each = time.monotonic() + _LONGEST, sizing.each()
    for index in np.random.default_rng(0).permutation(len(each)):
        if time.monotonic() > finish:
            return
        sizes = each[index]
        for found, expected in zip(look(sizes), sizing.sites_at(sites, sizes), strict=True):
            if found.shape != expected.shape:
                raise UnsupportedModelError(
                    f"the mask of {found.name} has the shape {list(found.shape)} at {told(sizes)}, and "
                    f"{list(expected.shape)} by the rule that holds at other sizes; one rule for all is accepted"
                )


def _combined(
    base: int, growths: Sequence[Growth], sizing: Sizing, found: Callable[[dict[str, int]], int], site: Site
) -> Extent:
    """The extent that several sizes make together, which holds at the sizes that are tried."""
    if len(growths) < 2:
        return Extent(base, tuple(growths))
    tried = sizing.tried()
    for offset in range(_MOST_OFFSET + 1):
        if base <= offset:
            break
        candidate = Extent(base, tuple(growths), offset)
        if all(candidate.at(sizes) == found(sizes) for sizes in tried):
            return candidate
    raise UnsupportedModelError(
        f"how many entries the mask of {site.name} has follows {' and '.join(str(x.dimension) for x in growths)} by no "
        "rule that was found; a product of what follows each is accepted"
    )


def _growth(dimension: Named, value: Callable[[int], int]) -> Growth | None:
    """The rule by which a number follows a size, looking at more and more sizes until there is one."""
    values = dimension.values
    for run in _RUNS:
        first = [value(size) for size in values[:run]]
        if run >= len(values):
            return Growth(dimension, tuple(first), 0)  # these are all that there are
        for period in range(1, (len(first) - 1) // 2 + 1):
            steps = {later - earlier for earlier, later in zip(first, first[period:], strict=False)}
            if len(steps) == 1:
                growth = Growth(dimension, tuple(first[:period]), steps.pop())
                if all(growth.at({dimension.name: size}) == value(size) for size in _beyond(values, run)):
                    return growth
                break
    return None


def _beyond(values: range, run: int) -> Iterator[int]:
    """Some of the sizes beyond the first `run`, the last among them."""
    for index in range(_SPREAD):
        yield values[run + (len(values) - 1 - run) * index // (_SPREAD - 1)]


def told(sizes: Sizes) -> str:
    """Sizes in words: `height 64, width 48`."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items())
