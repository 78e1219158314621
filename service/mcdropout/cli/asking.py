"""Questions on a terminal, for what nobody can see in a source."""

import sys

import typer

from mcdropout.catalogue.making.asking import Ask, Question, by_default


def asker(*, yes: bool) -> Ask:
    """Who answers: the user, where there is a terminal, unless defaults are to be taken."""
    return by_default if yes or not (sys.stdin.isatty() and sys.stderr.isatty()) else _ask


def _ask(question: Question) -> str:
    if question.needed:
        typer.echo(f"{question.needed}.", err=True)
    choices = f" ({', '.join(question.choices)})" if question.choices else ""
    default = question.default if question.default is not None else "" if question.optional else None
    while True:
        answer: str = typer.prompt(
            f"{question.text}{choices}", default, show_default=bool(default), prompt_suffix=" ", err=True
        )
        answer = answer.strip()
        if not question.choices or answer in question.choices:
            return answer
        typer.echo(f"{answer!r} is none of {', '.join(question.choices)}", err=True)
