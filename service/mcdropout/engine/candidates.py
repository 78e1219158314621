"""Candidates: the ways to run a network, each a program on a runtime of the table, fastest first."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mcdropout.engine.program import Graphs
from mcdropout.engine.runtimes import Form, FormError, Refusal, Runnable, Runtime, RuntimeKind, Target


@dataclass(frozen=True)
class Candidate:
    """A program, a runtime that accepts it, and where it is to run."""

    program: Runnable
    kind: RuntimeKind
    target: Target

    def build(self) -> Runtime:
        """Set it up; raises whatever a runtime does."""
        return self.kind.build(self.program, self.target)

    @property
    def graphs(self) -> Graphs | None:
        """What it runs, where that is ONNX, and so can be written to files."""
        return self.program.graphs() if self.kind.takes is Form.GRAPHS else None


def candidates(programs: Iterable[Runnable | Refusal], target: Target) -> Iterator[Candidate | Refusal]:
    """The ways to run some programs on a target, and, in their places, why others are none.

    That a program cannot be made, or cannot be brought into a form, is always said; that a runtime does not accept it
    only where the runtime was asked for by name: else it is merely for other programs.

    Args:
        programs: those that with the most in their prefix come first; and why there are not more.
        target: where they are to run.
    """
    kinds = target.kinds
    for program in programs:
        if isinstance(program, Refusal):
            yield program
            continue
        missing: set[Form] = set()
        for kind in kinds:
            if kind.takes not in program.forms or kind.takes in missing:
                continue
            try:
                program.forms[kind.takes]()
            except FormError as error:
                missing.add(kind.takes)
                yield Refusal(f"{program.strategy} program: {error}")
                continue
            refusal = kind.accepts(program, target)
            if refusal is None:
                yield Candidate(program, kind, target)
            elif target.by_name:
                yield refusal
