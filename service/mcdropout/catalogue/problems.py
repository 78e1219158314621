"""Problems: what does not fit a schema, in words: the field, what was found, and what is accepted."""

import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

_TAG = re.compile(
    r"(constrained-|function-|literal\[|list\[|dict\[|tuple\[|nullable|is-instance\[).*|int|float|str|bool"
)
"""How pydantic calls one of several types that a field may have, which is no part of where the field is."""


def _at_least(count: int, what: str) -> str:
    return f"at least {count} {what if count == 1 else {'entry': 'entries'}.get(what, f'{what}s')}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


_ACCEPTED: dict[str, Callable[[Mapping[str, Any]], str]] = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), lambda _: "an integer"),
    **dict.fromkeys(("float_parsing", "float_type"), lambda _: "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), lambda _: "true or false"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), lambda _: "a mapping of fields"),
    "string_type": lambda _: "text",
    "list_type": lambda _: "a list",
    "finite_number": lambda _: "a finite number",
    "greater_than": lambda more: f"a number greater than {_number(more['gt'])}",
    "greater_than_equal": lambda more: f"a number from {_number(more['ge'])} on",
    "less_than": lambda more: f"a number less than {_number(more['lt'])}",
    "less_than_equal": lambda more: f"a number of at most {_number(more['le'])}",
    "invalid_key": lambda _: "a name of a field, which is text,",
    "literal_error": lambda more: str(more["expected"]),
    "string_too_short": lambda more: f"text of {_at_least(more['min_length'], 'character')}",
    "string_too_long": lambda more: f"text of at most {more['max_length']} characters",
    "string_pattern_mismatch": lambda more: f"text that matches {more['pattern']}",
    "too_short": lambda more: f"a list of {_at_least(more['min_length'], 'entry')}",
    "too_long": lambda more: f"a list of at most {more['max_length']} entries",
}


def described(problems: Iterable[Mapping[str, Any]], content: object = None) -> dict[str, str]:
    """For each field with a value of no use, what it is and what is accepted.

    Args:
        problems: as pydantic lists them; one for each type that a field may have.
        content: what was checked, by which fields are told from types.
    """
    found: dict[tuple[str, ...], tuple[object, list[str]]] = {}
    for problem in problems:
        where = _where(problem["loc"], content)
        accepted = _ACCEPTED.get(problem["type"])
        phrase = accepted(problem.get("ctx", {})) if accepted else f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
        phrases = found.setdefault(where, (problem["input"], []))[1]
        if phrase not in phrases:
            phrases.append(phrase)
    deepest = [place for place in found if not any(other[: len(place)] == place != other for other in found)]
    return {".".join(place): _sentence(*found[place]) for place in deepest}


def _sentence(value: object, phrases: list[str]) -> str:
    return f"is {quoted(value)}; {' or '.join(phrases)} is accepted"


def quoted(value: object) -> str:
    """A value as it is written, as far as anybody would read it: YAML may give a short name to an immense one."""
    return _quoting.repr(value)


_quoting = reprlib.Repr()
_quoting.maxlevel, _quoting.maxdict, _quoting.maxlist = 3, 10, 10
_quoting.maxstring = _quoting.maxlong = _quoting.maxother = 200


_PATH = re.compile(r"(?<![\w:/.~-])/(?:[^\s/'\",;:()]+/)+([^\s/'\",;:()]*)")
LAST_WORDS = "Its last words: "
"""What comes before the output of a process that failed, at the end of an error."""


def for_others(error: str, folder: Path) -> str:
    """An error as anybody may read it who may ask what models there are: no place on this machine, and no output of
    what was run, which are in the log.

    Args:
        error: as the log has it.
        folder: of the models.
    """
    for root in sorted({str(folder), str(folder.resolve())}, key=len, reverse=True):
        error = error.replace(f"{root}/", "")
    told, _, words = error.partition(LAST_WORDS)
    return _PATH.sub(lambda found: found[1] or "...", told) + ("Its last words are in the log" if words else "")


def _where(location: Iterable[int | str], content: object) -> tuple[str, ...]:
    """The path to a field."""
    path: list[str] = []
    for part in location:
        inside = isinstance(content, dict) and part in content
        if inside or (isinstance(content, list) and isinstance(part, int) and part < len(content)):
            content = content[part]  # type: ignore[index]
        elif isinstance(part, str) and _TAG.fullmatch(part):
            continue
        path.append(str(part))
    return tuple(path)
