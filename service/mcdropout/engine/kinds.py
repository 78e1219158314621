"""Kinds: what a site draws, and what its mask does. The table of them is what documents and descriptions list."""

from dataclasses import dataclass

ELEMENT, CHANNEL, ALPHA, FEATURE_ALPHA = "element", "channel", "alpha", "feature_alpha"
ATTENTION, DROPCONNECT = "attention", "dropconnect"
BERNOULLI, UNIFORM, NORMAL = "bernoulli", "uniform", "normal"


@dataclass(frozen=True)
class Kind:
    """A kind of site.

    Attributes:
        name: in Python, JSON and documents.
        description: what it drops, for the API's documentation; a phrase.
        raw: whether the mask is numbers that the network's own code would have drawn. What it makes of them only the
            network knows, so that no value of theirs stands for "nothing is dropped": the baseline runs the module
            that draws them in eval mode instead.
        shifted: whether a dropped unit takes a value other than 0, so that the mask holds a factor and a summand a
            unit.
    """

    name: str
    description: str
    raw: bool = False
    shifted: bool = False


KINDS: dict[str, Kind] = {}
"""The kinds that there are, by name."""


def register(kind: Kind) -> Kind:
    """Add a kind, as a function that drops in a way of its own brings one.

    Raises:
        ValueError: there is one of that name.
    """
    if kind.name in KINDS:
        raise ValueError(f"a kind is called {kind.name!r}, which is taken; another name than {list(KINDS)} is accepted")
    KINDS[kind.name] = kind
    return kind


def described() -> str:
    """The kinds, each with what it drops; for documents."""
    return "; ".join(f'"{kind.name}": {kind.description}' for kind in KINDS.values())


for _kind in (
    Kind(ELEMENT, "units by themselves"),
    Kind(CHANNEL, "whole channels"),
    Kind(ALPHA, "units, which take a saturated value instead of 0 (self-normalizing networks)", shifted=True),
    Kind(FEATURE_ALPHA, "whole channels, which take a saturated value", shifted=True),
    Kind(ATTENTION, "attention weights"),
    Kind(DROPCONNECT, "parameters"),
    Kind(BERNOULLI, "whatever the network makes of Bernoulli numbers of its own", raw=True),
    Kind(UNIFORM, "whatever it makes of uniform numbers", raw=True),
    Kind(NORMAL, "nothing: normal numbers, noise that the network scales itself", raw=True),
):
    register(_kind)

NEARLY_ONE = 0.99999
"""A uniform number as large as any: 1 is never drawn, and code may make an index of it, `int(3 * torch.rand(()))`."""
