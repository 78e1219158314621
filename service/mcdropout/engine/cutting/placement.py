"""Placement: how values and masks are brought from one layout into another, as moves that any form of graph writes.

Outside of a graph rows are the first dimension, one entry each; within, they lie wherever the network has them. What
crosses a cut is brought out by `rows_first` and back by `as_it_was`. A mask, `[rows, *site.mask_shape]`, arrives as
what crosses does, and goes the same way: into the dimensions of what it multiplies.
"""

from dataclasses import dataclass, replace

from mcdropout.engine.cutting.layout import Layout, layout_between
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.sites import Site


@dataclass(frozen=True)
class Permute:
    """Dimensions in another order: `order` names where each comes from."""

    order: tuple[int, ...]


@dataclass(frozen=True)
class Swap:
    """The first two of `rank` dimensions, each in the other's place."""

    rank: int


@dataclass(frozen=True)
class Divide:
    """The first dimension as two of these sizes, -1 for the one that follows the rows; `rest` are the other sizes."""

    sizes: tuple[int, int]
    rest: tuple[int, ...]


@dataclass(frozen=True)
class Join:
    """The first two dimensions as one; `rest` are the other sizes."""

    rest: tuple[int, ...]


Move = Permute | Swap | Divide | Join


def rows_first(layout: Layout) -> tuple[Move, ...]:
    """The moves that bring a value into the form `[rows, *layout.row_shape]`; none where it has no rows."""
    moves: list[Move] = []
    if layout.axis:
        others = (axis for axis in range(len(layout.shape)) if axis != layout.axis)
        moves.append(Permute((layout.axis, *others)))
    if layout.merged and layout.interleaved:
        moves += [Divide((layout.times, -1), layout.rest), Swap(2 + len(layout.rest))]
    elif layout.merged:
        moves.append(Divide((-1, layout.times), layout.rest))
    return tuple(moves)


def as_it_was(layout: Layout) -> tuple[Move, ...]:
    """The moves that bring `[rows, *layout.row_shape]` back into the layout: the reverse of `rows_first`."""
    moves: list[Move] = []
    if layout.merged:
        if layout.interleaved:
            moves.append(Swap(2 + len(layout.rest)))
        moves.append(Join(layout.rest))
    if layout.axis:
        others = range(1, len(layout.shape))
        moves.append(Permute((*others[: layout.axis], 0, *others[layout.axis :])))
    return tuple(moves)


def parts_axis(site: Site) -> int | None:
    """The dimension of a mask that holds its factors and its summands; None where it holds factors alone."""
    if not site.shifted:
        return None
    return 0 if site.row_axis is None else 1


def mask_moves(site: Site) -> tuple[Move, ...]:
    """The moves that bring `[rows, *site.shape]`, a mask or a part of one, into the dimensions of its site.

    Where the call has no dimension of rows, a mask of one row, or of a pass, is there already.
    """
    return as_it_was(layout_of(site))


def site_at(layout: Layout, path: str, call: int, kind: str, p: float | None, *, in_eval: bool = True) -> Site:
    """The site of a call whose mask has a layout; the other arguments are as a `Site` has them."""
    scope = "pass" if layout.axis is None else "row"
    return Site(path, call, kind, p, scope, layout.row_shape, layout.axis, layout.times, in_eval, layout.interleaved)


def site_like(site: Site, two: tuple[int, ...], three: tuple[int, ...]) -> Site:
    """A site as it is for inputs of other sizes, from the shapes of its call with two rows and with three.

    Raises:
        UnsupportedModelError: its rows lie elsewhere there.
    """
    layout = layout_between(two, three)
    if not layout.known or layout.axis != site.row_axis:
        raise UnsupportedModelError(
            f"the mask of {site.name} has the shape {list(two)} with 2 rows and {list(three)} with 3 at other sizes; "
            "rows in the same dimension at all sizes are accepted"
        )
    return replace(site, shape=layout.row_shape, rows_per_row=layout.times)


def layout_of(site: Site) -> Layout:
    """Where the call of a site has its rows, of which there is one here."""
    if site.row_axis is None:
        return Layout(site.shape)
    rest = site.shape[1:] if site.rows_per_row > 1 else site.shape
    shape = (*rest[: site.row_axis], site.rows_per_row, *rest[site.row_axis :])
    return Layout(shape, site.row_axis, site.rows_per_row, site.interleaved)
