"""Checks: what was verified of a network or a program, and what that measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what holds, as a sentence.
        passed: whether it does.
        detail: what was measured.
    """

    name: str
    passed: bool
    detail: str
