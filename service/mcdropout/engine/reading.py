"""Reading: what a network's outputs mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeGuard, get_args

import numpy as np

from mcdropout.engine.errors import InvalidInputError

Task = Literal["classification", "binary", "multilabel", "regression"]
Form = Literal["logits", "probabilities", "log_probabilities"]
"""What the outputs of a network that knows classes or labels are."""
Noise = Literal["log_variance", "variance", "std", "log_scale", "scale"]
"""What the second output of a regression is; the scale is the likelihood's own, of a Gaussian the deviation."""
LikelihoodName = Literal["gaussian", "laplace", "student_t"]
"""How a regression's noise is distributed."""
Entry = str | int
"""One of the things that a network returns: a key, an attribute, a name, a position, or a path with dots."""
Entries = Entry | Sequence[Entry] | Mapping[str, Entry] | None
"""What counts of the things that a network returns: one, some, those of a regression by what they are, or all."""


_SETTLED = ("form", "class_axis", "noise", "quantiles", "quantile_axis", "because")


@dataclass(frozen=True)
class Reading:
    """How outputs are read.

    What is None and can be found in the network's own answers is settled when it is prepared (`settling`).

    Attributes:
        task: "classification" (one class of several), "binary" (yes or no), "multilabel" (yes or no for each label) or
            "regression".
        form: whether the outputs are logits, probabilities, or the logarithms of these; None to be found out.
        class_axis: the dimension of the outputs that holds classes, or labels, the rows being dimension 0; negative
            ones count from the end. None to be found out; for "binary" also that there is none.
        classes: how many classes or labels there are; None where nobody says.
        temperature: what logits are divided by.
        threshold: for "binary" and "multilabel", the mean probability from which on the answer is yes.
        noise: for regression, what the second of two outputs is; None to be found out, or that there is one output.
        likelihood: for regression, how the noise is distributed.
        df: for "student_t", its degrees of freedom, more than 2.
        noise_variance: for regression, the variance of the noise (`1 / tau`) where the network predicts none.
        interval: for regression, the share of the predictive distribution that `interval` holds; None for no interval.
        quantiles: for regression, the levels, ascending, of the quantiles that the outputs are; None where they are
            none.
        quantile_axis: the dimension of the output that holds them, the rows being 0, negative ones from the end; None
            to be found out, or that there is an output for each.
        because: how what was left open was found, in words; None where nothing was.
    """

    task: Task
    form: Form | None = None
    class_axis: int | None = None
    classes: int | None = None
    temperature: float = 1.0
    threshold: float = 0.5
    noise: Noise | None = None
    likelihood: LikelihoodName = "gaussian"
    df: float | None = None
    noise_variance: float | None = None
    interval: float | None = 0.95
    quantiles: tuple[float, ...] | None = None
    quantile_axis: int | None = None
    because: str | None = None

    def check(self) -> None:
        """Raise InvalidInputError for the first attribute that cannot be used."""
        for name, choices in (
            ("task", Task),
            ("form", Form),
            ("noise", Noise),
            ("likelihood", LikelihoodName),
        ):
            value = getattr(self, name)
            if value not in get_args(choices) and (name in ("task", "likelihood") or value is not None):
                accepted = ", ".join(f'"{choice}"' for choice in get_args(choices))
                raise InvalidInputError(f"{name} is {value!r}; one of {accepted} is accepted")
        if self.class_axis is not None and (not isinstance(self.class_axis, int) or isinstance(self.class_axis, bool)):
            raise InvalidInputError(f"class_axis is {self.class_axis!r}; an integer, -1 for the last, is accepted")
        if not _lies_between(self.temperature, 0.0, np.inf):
            raise InvalidInputError(f"temperature is {self.temperature!r}; a number above 0 is accepted")
        if not _lies_between(self.threshold, 0.0, 1.0):
            raise InvalidInputError(f"threshold is {self.threshold!r}; a number between 0 and 1 is accepted")
        if self.noise_variance is not None and not _lies_between(self.noise_variance, 0.0, np.inf):
            raise InvalidInputError(
                f"noise_variance is {self.noise_variance!r}; a number above 0, or None, is accepted"
            )
        if (self.likelihood == "student_t") != (self.df is not None):
            raise InvalidInputError(f"df is {self.df!r} and the likelihood {self.likelihood}; df is of student_t alone")
        if self.df is not None and not _lies_between(self.df, 2.0, np.inf):
            raise InvalidInputError(f"df is {self.df!r}; a number above 2, which have a variance, is accepted")
        if self.interval is not None and not _lies_between(self.interval, 0.0, 1.0):
            raise InvalidInputError(f"interval is {self.interval!r}; a number between 0 and 1, or None, is accepted")
        self._check_quantiles()
        for name in ("form", "class_axis", "noise", "quantiles", "quantile_axis"):
            value = getattr(self, name)
            if value is not None and (self.task == "regression") != (name not in ("form", "class_axis")):
                raise InvalidInputError(f"{name} is {value!r}, which a {self.task} does not have; None is accepted")

    def _check_quantiles(self) -> None:
        levels, axis = self.quantiles, self.quantile_axis
        if axis is not None and (type(axis) is not int or levels is None):
            raise InvalidInputError(f"quantile_axis is {axis!r}; an integer is accepted, with quantiles")
        if levels is None:
            return
        if (
            not isinstance(levels, tuple)
            or len(levels) < 2
            or not all(_lies_between(level, 0.0, 1.0) for level in levels)
            or list(levels) != sorted(set(levels))
        ):
            raise InvalidInputError(
                f"quantiles is {levels!r}; two levels or more, between 0 and 1 and ascending, are accepted"
            )
        if self.noise is not None or self.noise_variance is not None or self.likelihood != "gaussian":
            raise InvalidInputError(
                "quantiles are given with a noise, a noise_variance or a likelihood, which they are in place of; "
                "quantiles alone are accepted"
            )

    def filled_from(self, settled: "Reading", dimensions: int) -> "Reading":
        """This reading, with what it leaves open as another has it, which was settled for the same network.

        Args:
            settled: the other.
            dimensions: of the network's output, with the rows.
        """
        missing = [name for name in _SETTLED if getattr(self, name) is None]
        filled = replace(self, **{name: getattr(settled, name) for name in missing})
        axes = {name: getattr(filled, name) for name in ("class_axis", "quantile_axis")}
        return replace(
            filled, **{name: axis + dimensions for name, axis in axes.items() if axis is not None and axis < 0}
        )


def in_entries(outputs: object) -> tuple[tuple[Entry, ...] | None, Noise | None]:
    """The entries that count, None for all, and what the second of a regression's is, where that is said.

    Args:
        outputs: `Entries`.

    Raises:
        InvalidInputError: it is something else.
    """
    if outputs is None:
        return None, None
    noise = None
    given = outputs if isinstance(outputs, list | tuple) else (outputs,)
    if isinstance(outputs, Mapping):
        noise = next((noise for noise in get_args(Noise) if set(outputs) == {"mean", noise}), None)
        if noise is None:
            raise InvalidInputError(
                f"output has the names {list(outputs)}; mean with one of {', '.join(get_args(Noise))} is accepted"
            )
        given = (outputs["mean"], outputs[noise])
    if not given or not all(isinstance(entry, str | int) and not isinstance(entry, bool) for entry in given):
        raise InvalidInputError(
            f"output is {outputs!r}; a key, an attribute, a position or a path of what the network returns is "
            "accepted, or several in a list"
        )
    return tuple(given), noise


def is_number(value: object) -> TypeGuard[float]:
    """Whether something is a number; what is true or false is none."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _lies_between(value: object, low: float, high: float) -> bool:
    """Whether something is a number above `low` and below `high`."""
    return is_number(value) and low < value < high
