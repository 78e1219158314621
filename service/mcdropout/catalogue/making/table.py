"""The table of kinds: what a bundle can be made of, in the order in which a source is tried for them.

A kind is a row, registered in its own file; `register` adds one from outside just as well.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mcdropout.catalogue.making.asking import Ask
from mcdropout.catalogue.making.draft import Draft
from mcdropout.catalogue.making.source import Source


@dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes:
        name: what it is called.
        form: how a source of it is given, as a phrase for messages.
        options: what a user may say of it, by the attributes of `Source`.
        fits: whether a source is of it, by its name and what lies there.
        draft: what it says of a bundle; raises SourceError where it cannot be used, and whatever `ask` raises.
    """

    name: str
    form: str
    options: tuple[str, ...]
    fits: Callable[[Source], bool]
    draft: Callable[[Source, Ask], Draft]


TABLE: dict[str, Kind] = {}
"""The kinds that there are, by name."""


def register(kind: Kind) -> Kind:
    """Add a kind to the table.

    Raises:
        ValueError: its name is taken.
    """
    if kind.name in TABLE:
        raise ValueError(f"a kind of source is called {kind.name!r}, which is taken; a new name is accepted")
    TABLE[kind.name] = kind
    return kind
