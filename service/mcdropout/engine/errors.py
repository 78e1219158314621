"""What the engine raises. Every message names the thing, what was found, and what would be accepted."""

import re


class EngineError(Exception):
    """The base of all errors of the engine."""


class UnsupportedModelError(EngineError):
    """The network cannot be served by Monte Carlo dropout; the message says why."""


class NoDropoutError(UnsupportedModelError):
    """The network has no dropout to switch on."""


class UnevenRowsError(UnsupportedModelError):
    """The network draws more for some of the example rows than for others, or otherwise for three than for two."""


class OneRowError(UnsupportedModelError):
    """The network takes one row at a time."""


class VerificationError(EngineError):
    """The network was prepared, but failed a check that it must pass before it may serve."""


class CompiledError(EngineError):
    """A folder holds no compiled engine, or a damaged one, or one that another version wrote."""


class InvalidInputError(EngineError, ValueError):
    """The input, the number of passes or the seed cannot be used; the message says what would be accepted."""


class UnusableOutputError(EngineError, ArithmeticError):
    """The network answered NaN or infinity, or numbers that are not what they are to be, such as a negative variance.

    Attributes:
        rows: the positions of the rows concerned, in the order given.
    """

    def __init__(self, message: str, rows: list[int]) -> None:
        super().__init__(message)
        self.rows = rows


class FailedRowsError(EngineError):
    """The network raised an error for rows that it was to answer; the message says which error, and where."""


def first_line(error: Exception) -> str:
    """What kind of error it is, and the first line of its message that says something."""
    lines = plain(str(error)).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else '(no message)'}"


_CODES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # for terminals: colours, and the like
_SUMMARY = "## Exception summary"  # behind it PyTorch's exporters say what went wrong, the cause first
_CLASS = re.compile(r"<class '(?:\w+\.)*\w+'>: ")


def plain(message: str) -> str:
    """A message without codes for terminals, from where it says what went wrong."""
    text = _CODES.sub("", message)
    _, found, summary = text.partition(_SUMMARY)
    return (_CLASS.sub("", summary) if found else text).strip()
