"""Sites: the places in a forward pass that draw randomness, and what a mask means at each of them.

A site is a call, not a class. How sites are found by running a network is in `discovery.py`; how a mask takes the place
of the draw is in `calls.py`.
"""

from dataclasses import dataclass

from mcdropout.engine.kinds import BERNOULLI, KINDS

# Self-normalizing networks: the value that a dropped unit takes (Klambauer et al. 2017), as PyTorch has it.
_SELU_SATURATION = -1.7580993408473766


@dataclass(frozen=True)
class Site:
    """One place in the forward pass that draws randomness.

    Attributes:
        path: the module that makes the call, as in `named_modules()`; empty for the network itself.
        call: which of that module's random calls in one forward pass, from 0.
        kind: what it drops; one of `KINDS`.
        p: the probability that a unit is dropped (that a Bernoulli number is 0); None for "uniform" and "normal".
        scope: "row" where every row draws its own mask, "pass" where one mask serves all rows of a request.
        shape: the mask's shape for one row (or one pass), without the row dimension.
        row_axis: the dimension of the call's input that holds the rows; None where the scope is "pass", and where the
            network makes the call for each row by itself.
        rows_per_row: how many entries along `row_axis` belong to one row of the network's input.
        interleaved: whether these lie `rows` apart along `row_axis`; otherwise they are neighbours.
        in_eval: whether the call is made in eval mode too, so that its module stays there.
        injected: whether it was added to the module's output, so that the network was not trained with it.
    """

    path: str
    call: int
    kind: str
    p: float | None
    scope: str
    shape: tuple[int, ...]
    row_axis: int | None
    rows_per_row: int = 1
    in_eval: bool = True
    interleaved: bool = False
    injected: bool = False

    @property
    def name(self) -> str:
        """The module path, with the call's number where the module makes more than one: `head.3`, `block#1`."""
        return site_name(self.path, self.call)

    @property
    def units(self) -> int:
        """How many units one pass of one row draws."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def raw(self) -> bool:
        """Whether the mask is numbers that the network's own code would have drawn."""
        return KINDS[self.kind].raw

    @property
    def shifted(self) -> bool:
        """Whether a dropped unit takes a value other than 0, so that the mask holds a factor and a summand a unit."""
        return KINDS[self.kind].shifted

    @property
    def one_by_one(self) -> bool:
        """Whether the network makes the call for each row by itself, so that it can be run for one at a time only."""
        return self.scope == "row" and self.row_axis is None

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """The shape of the mask that a program takes for one row (or one pass)."""
        return (2, *self.shape) if self.shifted else self.shape

    @property
    def kept(self) -> tuple[float, float]:
        """The factor and the summand of a unit that is kept; for a Bernoulli number, 1."""
        p = self._probability
        if self.kind == BERNOULLI:
            return 1.0, 0.0
        if p >= 1.0:
            return 0.0, 0.0
        if not self.shifted:
            return 1.0 / (1.0 - p), 0.0
        scale = ((_SELU_SATURATION**2 * p + 1.0) * (1.0 - p)) ** -0.5
        return scale, -_SELU_SATURATION * scale * p

    @property
    def dropped(self) -> tuple[float, float]:
        """The factor and the summand of a unit that is dropped."""
        if self._probability >= 1.0 or not self.shifted:
            return 0.0, 0.0
        scale, shift = self.kept
        return 0.0, shift + _SELU_SATURATION * scale

    @property
    def _probability(self) -> float:
        if self.p is None:
            raise ValueError(f"{self.name} draws {self.kind} numbers, of which none is kept or dropped")
        return self.p


@dataclass(frozen=True)
class SiteOff:
    """A place that could draw randomness, and does not.

    Attributes:
        path, call, kind, p, injected: as for a `Site`.
        reason: why it is off.
    """

    path: str
    call: int
    kind: str
    p: float | None
    reason: str
    injected: bool = False

    @property
    def name(self) -> str:
        """As for a `Site`."""
        return site_name(self.path, self.call)


def site_name(path: str, call: int) -> str:
    """How a site is called: its module path, and the number of the call where it is not the first."""
    path = path or "(network)"
    return f"{path}#{call}" if call else path
