"""Questions: what a bundle's maker cannot see in a source, and who answers."""

from collections.abc import Callable
from dataclasses import dataclass

from mcdropout.catalogue.making.source import SourceError


@dataclass(frozen=True)
class Question:
    """Something that has to be known.

    Attributes:
        text: the question, with its question mark.
        option: of the command line, which answers it.
        default: the answer where nobody gives one; None where it cannot be guessed.
        choices: what is accepted; empty for any text.
        needed: why there is no default, as a sentence without its full stop.
        optional: whether an empty answer is one: then it is only asked of who is there.
    """

    text: str
    option: str
    default: str | None = None
    choices: tuple[str, ...] = ()
    needed: str = ""
    optional: bool = False


Ask = Callable[[Question], str]
"""Answers a question.

Raises:
    SourceError: nobody answers, and there is no default.
"""


def by_default(question: Question) -> str:
    """The answer where nobody is there to ask."""
    if question.default is not None:
        return question.default
    if question.optional:
        return ""
    accepted = f" ({', '.join(question.choices)})" if question.choices else ""
    raise SourceError(f"{question.needed or question.text}; {question.option}{accepted} says so")
