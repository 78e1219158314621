"""Fields: what a task's answer has for each row. A statistic is one, or some that are found together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from mcdropout.engine.reading import Reading
from mcdropout.engine.statistics.block import Rows
from mcdropout.engine.statistics.running_moments import RunningMoments


class State(Protocol):
    """What a statistic keeps of the passes so far, in memory that does not grow with them. Made without arguments."""

    def update(self, block: Any, /) -> None:
        """Take in the block of the next passes; there is at least one."""

    def take(self, rows: Rows, /) -> Self:
        """The same of some rows."""


@dataclass(frozen=True)
class Field:
    """A number, or an array of them, that an answer has for each row.

    Attributes:
        name: in Python, JSON and documents.
        description: one sentence for the API's documentation.
        shape: in words, `[rows, classes, ...]`; `...` is empty but for dense outputs.
        of_passes: its value from what the passes left; None where it is unknown for this model.
        of_baseline: its value for the deterministic baseline, from `Summary.block`; where there is no such function it
            is null there, as only several passes can say it.
        known_for: whether models whose outputs mean that have it; for others it is None, and nothing is gathered.
        unit: "nats", for instance; None for a number without one.
        state: what gathers the passes for it. Fields that name the same share one; a field without finds its value
            from the moments and from other fields.
        json_type: its type for the API's documentation: Any for a number, which is a list for dense outputs.
        is_class: whether its integers are classes, which answers give by the model's labels.
        leads: whether an answer has it first of all, before the passes that the row used.
        per_class: whether it has a value for each class, or label: these lie along dimension 1 of what is found here,
            and in an answer where the network has them.
        trailing: how many dimensions it has behind those of the places.
        histogram: which of the histograms in `Metrics.row_values` counts each row's value; None for none.
    """

    name: str
    description: str
    shape: str
    of_passes: Callable[["Summary"], Any]
    of_baseline: Callable[["Summary"], Any] | None = None
    known_for: Callable[[Reading], bool] = lambda reading: True
    unit: str | None = None
    state: type[State] | None = None
    json_type: Any = Any
    is_class: bool = False
    leads: bool = False
    per_class: bool = False
    trailing: int = 0
    histogram: str | None = None


_State = TypeVar("_State", bound=State)


class Summary(dict[str, Any]):
    """What is known of some rows when they are summed up: `summary[name]` is a field's value, found when asked for.

    Attributes:
        reading: what the outputs mean.
        moments: of the samples over the passes; without a pass for the baseline.
        passes: how many stochastic passes there were; 0 for the baseline.
        block: for the baseline its one pass, `[rows, 1, ...]`; else None.
    """

    def __init__(
        self,
        fields: Mapping[str, Field],
        reading: Reading,
        moments: RunningMoments,
        states: Mapping[type[State], Any],
        block: Any = None,
    ) -> None:
        super().__init__()
        self._fields, self._states = fields, states
        self.reading, self.moments, self.block = reading, moments, block
        self.passes = moments.count

    def __missing__(self, name: str) -> Any:
        field = self._fields[name]
        of = field.of_passes if self.block is None else field.of_baseline
        value = self[name] = of(self) if of is not None and field.known_for(self.reading) else None
        return value

    def state(self, kind: type[_State]) -> _State:
        """What a field's `state` gathered."""
        state: _State = self._states[kind]
        return state
