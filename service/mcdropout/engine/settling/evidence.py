"""Evidence: what a network says of its output, but for its answers."""

from dataclasses import dataclass
from typing import Literal

from mcdropout.engine.reading import Reading

End = Literal["softmax", "log_softmax", "sigmoid", "log_sigmoid", "tanh"]
"""The function at the end of a network that makes probabilities of logits, or what looks like them."""


@dataclass(frozen=True)
class Evidence:
    """What a network itself, but for its answers, says of its output.

    Attributes:
        end: the function that makes its output; None where none was seen.
        axis: the dimension that it runs along, the rows being 0, negative from the end; None where that is not known,
            or there is none.
        below: whether the engine reads what that function takes instead: logits for a sigmoid, logarithms of
            probabilities for a softmax.
        linear: whether its output is a linear layer's, or sums and parts of that, and so may be any number.
        classes: how many classes its configuration names; None where it names none.
        names: of its outputs, where it returns them by name.
    """

    end: End | None = None
    axis: int | None = None
    below: bool = False
    linear: bool = False
    classes: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


def reads_below(reading: Reading | None, end: End | None) -> bool:
    """Whether what the function at the end of a network takes is read instead of what it makes."""
    if reading is None or reading.form is not None:
        return False
    return (reading.task, end) in (
        ("classification", "softmax"),
        ("binary", "sigmoid"),
        ("binary", "log_sigmoid"),
        ("multilabel", "sigmoid"),
        ("multilabel", "log_sigmoid"),
    )
