"""From a source to a bundle: drafted, written beside its place, compiled, and put there when all of it is right."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from mcdropout.catalogue.bundle import EXAMPLE, Bundle
from mcdropout.catalogue.compilation import WithoutDropoutError, compile_bundle, install
from mcdropout.catalogue.making.asking import Ask, by_default
from mcdropout.catalogue.making.document import document_of
from mcdropout.catalogue.making.draft import Draft
from mcdropout.catalogue.making.examples import example_of
from mcdropout.catalogue.making.kinds import kind_of
from mcdropout.catalogue.making.source import Source, SourceError
from mcdropout.catalogue.making.table import Kind
from mcdropout.catalogue.manifest import MANIFEST, BundleError
from mcdropout.engine.bundled import NAME
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.stages import Told

_MOST_NAME = 60
Step = Callable[[str], AbstractContextManager[Told]]
"""Shows that something is being done to the bundle of that name, until it is left; takes what begins on the way."""


@dataclass(frozen=True)
class Made:
    """A bundle that was made.

    Attributes:
        folder: where it lies.
        kind: of what.
        notes: what its user should know.
        on_pytorch: why it is not compiled, and runs on PyTorch; None where it is.
    """

    folder: Path
    kind: str
    notes: tuple[str, ...]
    on_pytorch: str | None = None


def make(
    source: Source,
    into: Path,
    *,
    name: str | None = None,
    force: bool = False,
    ask: Ask = by_default,
    compiling: Step = lambda name: nullcontext(lambda stage: None),
) -> Made:
    """Make a bundle, and compile it. Nothing is left of one that fails.

    Args:
        source: what of.
        into: the folder of bundles that it is put into, made where there is none.
        name: of the bundle; the source's own if not given.
        force: whether it may take the place of one that is there.
        ask: answers what the source does not say.
        compiling: shows that it is compiled.

    Raises:
        SourceError: no bundle can be made of the source, or something has to be said of it.
        BundleError: the bundle that was made is refused.
    """
    kind = kind_of(source)
    if name is not None:
        _check_name(name)
        _check_free(into / name, force)
    draft = _drafted(kind, source, ask)
    name = name or name_from(draft.name)
    _check_free(into / name, force)
    with _beside(into) as place:
        bundle = _written(draft, place / name, source)
        reason = None
        try:
            with compiling(name) as told:
                compile_bundle(bundle, place / "compiled", told=told)
            install(place / "compiled", bundle)
        except UnsupportedModelError as error:
            reason = str(error)
        except WithoutDropoutError as error:
            raise SourceError(_offer(str(error), source, kind, draft)) from error
        except BundleError as error:
            raise BundleError(str(error).replace(str(bundle.folder), source.text)) from error
        put(bundle.folder, into / name)
    return Made(into / name, kind.name, draft.notes, reason)


def _drafted(kind: Kind, source: Source, ask: Ask) -> Draft:
    try:
        draft = kind.draft(source, ask)
    except ModuleNotFoundError as error:
        brings = (
            "pip install 'mcdropout[torch]'" if error.name in ("torch", "safetensors") else f"pip install {error.name}"
        )
        raise SourceError(f"{source.text} takes {error.name}, which is not installed; {brings} mends it") from error
    return draft


def name_from(text: str) -> str:
    """A name for a bundle, of whatever something is called."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:_MOST_NAME]
    return name or "model"


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise SourceError(
            f"--name is {name!r}; up to 100 letters, digits, '.', '_' and '-', of which the first is a letter or a "
            "digit, are accepted"
        )


def _check_free(place: Path, force: bool) -> None:
    if not place.exists() or (force and (place / MANIFEST).is_file()):
        return
    if force:
        raise SourceError(
            f"{place} is there already, and is no bundle, which --force replaces; another --name is accepted"
        )
    raise SourceError(f"{place} is there already; another --name, or --force to replace it, is accepted")


@contextmanager
def _beside(into: Path) -> Iterator[Path]:
    """A hidden folder in `into`, which is made for it where there is none; neither is left where it was not used."""
    missing = [path for path in (into, *into.parents) if not path.exists()]
    into.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".init-", dir=into))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        for path in missing:
            with suppress(OSError):  # there is something in it now
                path.rmdir()


def _written(draft: Draft, folder: Path, source: Source) -> Bundle:
    folder.mkdir()
    for file, write in draft.files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write(folder / file)
    (folder / MANIFEST).write_text(document_of(draft, folder.name, source.text))
    example = draft.example if draft.example is not None else example_of(draft.inputs, draft.sizes)
    content = orjson.dumps({"inputs": example}, option=orjson.OPT_SERIALIZE_NUMPY)
    (folder / EXAMPLE).write_bytes(content + b"\n")
    return Bundle(folder)


def put(made: Path, place: Path) -> None:
    """Move a bundle to its place, and what is there away."""
    old = made.with_name(f"{made.name}.old")
    if place.exists():
        os.rename(place, old)
    try:
        os.rename(made, place)
    except OSError:
        if old.exists():
            os.rename(old, place)
        raise


def _offer(error: str, source: Source, kind: Kind, draft: Draft) -> str:
    """What somebody may do whose network has no dropout."""
    offers = [draft.offers] if draft.offers else []
    offers.append(
        "--inject 0.1, which adds dropout before the last layer (`dropout: add:` in model.yaml): the network was not "
        "trained with it, so calibrate what it says"
    )
    return f"{source.text}: {error}. What there is: {'; or '.join(offers)}"
