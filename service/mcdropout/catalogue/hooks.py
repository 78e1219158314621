"""Hooks: a bundle's own code that makes rows of what clients send, such as a tokenizer or a decoder.

It runs in the server, with the server's rights, as the network's own code does where it is not compiled.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcdropout.catalogue.arrays import declared
from mcdropout.catalogue.checks import Given, RowsError, check_number, check_together, check_values, prepare
from mcdropout.catalogue.importing import import_file
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.manifest import MANIFEST, BundleError, Manifest
from mcdropout.engine.ragged import Rows

Hook = Callable[[list[Any]], Any]
"""Takes what clients send for some rows. Returns as many rows, in the form in which clients may send them too: a list
or an array for each row, or, where there are several inputs, such a list for each by its name."""

_REFUSALS = (ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What a hook may raise of what it was sent; anything else is its own fault."""


def load_hook(path: Path, manifest: Manifest) -> Hook:
    """The function that a manifest names in a file. Runs the file.

    Raises:
        BundleError: it cannot be imported, or holds no such function.
    """
    assert manifest.preprocess is not None
    name = manifest.preprocess.partition(":")[2]
    hook = getattr(import_file(path, manifest.name), name, None)
    if not callable(hook):
        raise BundleError(f"{path}: it defines no function {name!r}, which preprocess in {MANIFEST} names")
    made: Hook = hook
    return made


def is_raw(value: Any) -> bool:
    """Whether a JSON value is for a hook: text, an object, or a list that begins with one of these."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, str | dict)


def rows_of_raw(
    hook: Hook, value: Any, inputs: Sequence[Input], most: int | None, pause: Callable[[], None]
) -> tuple[Rows, ...]:
    """The rows that a hook makes of what a client sent, as the network takes them.

    Args:
        hook: makes them.
        value: one row, or a list of rows.
        inputs: what the model takes.
        most: how many rows are accepted; None for any number.
        pause: called between parts.

    Raises:
        RowsError: the hook refuses it, or what it makes does not fit the inputs.
    """
    listed = isinstance(value, list)
    rows = value if listed else [value]
    check_number(len(rows), most)
    try:
        made = hook(rows)
    except RowsError:
        raise
    except _REFUSALS as error:
        raise RowsError(f"inputs cannot be preprocessed: {type(error).__name__}: {error}") from error
    pause()
    given = [_given(spec, one, len(rows), pause) for spec, one in _by_input(made, inputs)]
    check_together(given, most)
    return tuple(prepare(part, pause) for part in given)


def _by_input(made: Any, inputs: Sequence[Input]) -> list[tuple[Input, Any]]:
    names = [spec.name for spec in inputs]
    if not isinstance(made, Mapping):
        made = {names[0]: made} if len(inputs) == 1 else {}
    if set(made) != set(names):
        raise RowsError(f"preprocessing makes {sorted(map(str, made)) or 'no inputs by name'}; {names} are accepted")
    return [(spec, made[spec.name]) for spec in inputs]


def _given(spec: Input, made: Any, count: int, pause: Callable[[], None]) -> Given:
    label = f"what preprocessing makes for {spec.name}"
    try:
        rows = [np.asarray(row) for row in made]
    except (TypeError, ValueError) as error:
        raise RowsError(f"{label} is no list of rows, each an array ({error})") from error
    if len(rows) != count:
        raise RowsError(f"{label} has {len(rows)} rows; {count}, as many as were sent, are accepted")
    for index, row in enumerate(rows):
        if row.size == 0:
            row = rows[index] = row.astype(spec.dtype if spec.kind != "f" else np.float32)
        called = f"row {index} of {label}"
        one = declared(called, spec, row.dtype, row.shape, None)
        if one.listed:
            raise RowsError(f"{called} has the shape {list(row.shape)}; that of one row is accepted")
        if row.size:
            check_values(called, row, spec, infinite="infinity")
    pause()
    if all(isinstance(size, int) for size in spec.dimensions):
        return Given(label, spec, np.stack(rows), True)
    return Given(label, spec, rows, True)
