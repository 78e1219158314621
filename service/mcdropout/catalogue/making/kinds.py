"""The kinds of source that there are, each a row of the table; what a kind takes is imported when one is drafted."""

from collections.abc import Callable
from dataclasses import fields
from importlib import import_module

from mcdropout.catalogue.making.asking import Ask
from mcdropout.catalogue.making.draft import Draft
from mcdropout.catalogue.making.source import Source, SourceError
from mcdropout.catalogue.making.table import TABLE, Kind, register
from mcdropout.catalogue.manifest import MANIFEST

_ANSWERS = ("task", "labels", "output", "inject")
_INPUTS = ("shapes", "sizes")
_PACKAGE = "mcdropout.catalogue.making"
_CHECKPOINTS = (".ckpt", ".pth", ".pt", ".bin", ".safetensors")
_ARCHIVES = (".pt2", ".pt", ".ts")


def _by(file: str, function: str = "draft") -> Callable[[Source, Ask], Draft]:
    def draft(source: Source, ask: Ask) -> Draft:
        drafting: Callable[[Source, Ask], Draft] = getattr(import_module(f"{_PACKAGE}.{file}"), function)
        return drafting(source, ask)

    return draft


def _is_file(source: Source, *suffixes: str) -> bool:
    return source.path.suffix in suffixes and source.path.is_file()


def _is_saved_by_transformers(source: Source) -> bool:
    return any((source.path / name).is_file() for name in ("config.json", "adapter_config.json"))


def _names_a_function(source: Source) -> bool:
    place, _, name = source.text.rpartition(":")
    return name.isidentifier() and (place.endswith(".py") or all(map(str.isidentifier, place.split("."))))


register(
    Kind("onnx", "an ONNX model (.onnx)", (*_ANSWERS, *_INPUTS), lambda source: _is_file(source, ".onnx"), _by("onnx"))
)
register(
    Kind(
        "huggingface",
        "a folder that save_pretrained wrote (Hugging Face)",
        ("task", "labels", "inject", "sizes"),
        _is_saved_by_transformers,
        _by("huggingface"),
    )
)
register(
    Kind(
        "archive",
        "what torch.export.save (.pt2) or torch.jit.save (.pt, .ts) wrote",
        (*_ANSWERS, *_INPUTS),
        lambda source: source.module is None and _is_file(source, *_ARCHIVES),
        _by("archives"),
    )
)
register(
    Kind(
        "lightning",
        "a checkpoint (.ckpt) with --module module:Class",
        (*_ANSWERS, *_INPUTS, "module", "arguments"),
        lambda source: _is_file(source, *_CHECKPOINTS),
        _by("lightning"),
    )
)
for _library in ("timm", "torchvision"):
    register(
        Kind(
            _library,
            f"{_library}:NAME, with --weights FILE or the weights that it comes with",
            (*_ANSWERS, *_INPUTS, "weights", "arguments"),
            lambda source, name=f"{_library}:": source.text.startswith(name),  # type: ignore[misc]
            _by("zoo", f"draft_of_{_library}"),
        )
    )
register(
    Kind(
        "function",
        "module:function or path/to/file.py:function, which makes the network",
        (*_ANSWERS, *_INPUTS, "weights", "arguments"),
        _names_a_function,
        _by("functions"),
    )
)


def kind_of(source: Source) -> Kind:
    """The first kind that a source is of.

    Raises:
        SourceError: it is of none.
    """
    for kind in TABLE.values():
        if kind.fits(source):
            _check_options(source, kind)
            return kind
    forms = "; ".join(kind.form for kind in TABLE.values())
    there = _what_is_there(source)
    raise SourceError(f"{source.text!r} {there}. Accepted are: {forms}")


_FLAGS = {"shapes": "shape", "arguments": "argument"}
"""Options that have another name than the attribute that holds them all."""


def _check_options(source: Source, kind: Kind) -> None:
    """Raise SourceError where something is said that has no meaning for a kind."""
    options = [each.name for each in fields(Source) if each.name != "text"]
    given = [name for name in options if getattr(source, name) not in (None, (), {}) and name not in kind.options]
    if given:
        accepted = ", ".join(f"--{_FLAGS.get(name, name)}" for name in kind.options)
        raise SourceError(
            f"--{_FLAGS.get(given[0], given[0])} is given for {source.text}, which is {kind.form}; {accepted} are "
            "accepted"
        )


def _what_is_there(source: Source) -> str:
    path = source.path
    if (path / MANIFEST).is_file():
        return "is a bundle already, which `mcdropout serve` serves"
    if path.is_dir():
        return "is a folder without a config.json"
    if path.is_file():
        return f"is a file of a kind that no bundle is made of ({path.suffix or 'without a suffix'})"
    return "is no file and no folder, and names no function"
