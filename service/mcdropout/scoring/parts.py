"""Parts: what is scored already, in a folder beside the output, so that what stopped can go on."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from mcdropout.machine import locked
from mcdropout.scoring.errors import ScoringError
from mcdropout.scoring.outputs import Output
from mcdropout.scoring.scorer import Scored

_RECORD = "record.json"
_VERSION = 1
_PART = re.compile(r"(\d{12})-(\d{12})-(\d+)\.(arrow|csv|npz)")
_SEED, _ROWS = "seed", "batch_rows"


@dataclass(frozen=True)
class Part:
    """A part that is done.

    Attributes:
        first, stop: its rows, of the file's.
        skipped: how many of them have no answer.
        path: its file.
    """

    first: int
    stop: int
    skipped: int
    path: Path


@dataclass(frozen=True)
class Parts:
    """The parts of an output.

    Attributes:
        folder: where they lie.
        seed: what their masks are drawn from.
        batch_rows: how many rows each has, but the last.
    """

    folder: Path
    seed: int
    batch_rows: int

    def done(self) -> list[Part]:
        """Those that are done, in order."""
        found = []
        for path in self.folder.iterdir():
            named = _PART.fullmatch(path.name)
            if named is not None:
                found.append(Part(int(named[1]), int(named[2]), int(named[3]), path))
        return sorted(found, key=lambda part: part.first)

    def write(self, output: Output, scored: Scored) -> Part:
        """Write a part, whole or not at all."""
        first, stop = scored.first, scored.first + len(scored.known)
        path = self.folder / f"{first:012d}-{stop:012d}-{scored.skipped}{output.suffix}"
        unfinished = path.with_name(f"unfinished-{path.name}")
        output.write(scored, unfinished)
        _keep(unfinished, path)
        return Part(first, stop, scored.skipped, path)

    def join(self, output: Output, path: Path) -> None:
        """Put all together as one file, whole or not at all, and let go of them."""
        unfinished = self.folder / f"unfinished-whole{path.suffix}"
        output.join([part.path for part in self.done()], unfinished)
        _keep(unfinished, path)
        _discard(self.folder)


def folder_of(output: Path) -> Path:
    """Where the parts of an output lie."""
    return output.with_name(f"{output.name}.parts")


@contextmanager
def parts_of(output: Path, record: Mapping[str, Any], *, resume: bool, drawn: int, rows: int) -> Iterator[Parts]:
    """The parts of an output, which no other process has meanwhile.

    Args:
        output: which.
        record: what they are made of and how; a seed, or a number of rows, that is None there may be any.
        resume: whether those that are there are taken over.
        drawn: the seed where nobody has said one,
        rows: and how many rows each has.

    Raises:
        ScoringError: those that are there are made of something else.
    """
    folder = folder_of(output)
    folder.mkdir(exist_ok=True)
    try:
        with locked(folder):
            parts = Parts(folder, record[_SEED] if record[_SEED] is not None else drawn, record[_ROWS] or rows)
            before = _record_of(folder) if parts.done() else None
            if before is not None and resume:
                _check_same(folder, before, record)
                parts = replace(parts, seed=before[_SEED], batch_rows=before[_ROWS])
            else:
                _empty(folder)
                written = {**record, _SEED: parts.seed, _ROWS: parts.batch_rows, "version": _VERSION}
                (folder / f"unfinished-{_RECORD}").write_bytes(orjson.dumps(written, option=orjson.OPT_INDENT_2))
                _keep(folder / f"unfinished-{_RECORD}", folder / _RECORD)
            try:
                yield parts
            finally:
                if folder.is_dir() and not parts.done():
                    _discard(folder)
    except BlockingIOError as error:
        raise ScoringError(f"{folder}: another process is at it; one at a time is accepted") from error


def _record_of(folder: Path) -> dict[str, Any] | None:
    """What the parts that are there are made of; None where there are none."""
    try:
        found = orjson.loads((folder / _RECORD).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, orjson.JSONDecodeError) as error:
        raise ScoringError(f"{folder / _RECORD}: cannot be read ({error}); --no-resume begins anew") from error
    return dict(found)


def _check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with what is made of something else."""
    for name, value in {"version": _VERSION, **now}.items():
        if value == before.get(name) or (value is None and name in (_SEED, _ROWS)):
            continue
        raise ScoringError(
            f"{folder}: what is done already has another {name}, {_told(before.get(name))} and not {_told(value)}; the "
            "same is accepted to go on, and --no-resume begins anew"
        )


def _told(value: Any) -> str:
    return str(orjson.dumps(value), "utf-8")


def _empty(folder: Path) -> None:
    others = [path for path in folder.iterdir() if not _is_own(path)]
    if others:
        raise ScoringError(f"{others[0]}: is no part of an output; a folder that holds nothing else is accepted")
    for path in folder.iterdir():
        path.unlink()


def _discard(folder: Path) -> None:
    """Remove a folder of parts, but for what is none."""
    for path in folder.iterdir():
        if _is_own(path):
            path.unlink()
    with suppress(OSError):  # somebody has put something there
        folder.rmdir()


def _is_own(path: Path) -> bool:
    return path.name == _RECORD or path.name.startswith("unfinished-") or _PART.fullmatch(path.name) is not None


def _keep(unfinished: Path, path: Path) -> None:
    """Give a file that is written its name, once the disk has it."""
    descriptor = os.open(unfinished, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(unfinished, path)
    with suppress(OSError):  # not every file system can
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
