"""Archives: a network that was saved without its code, by torch.export or as TorchScript."""

import shutil
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mcdropout.catalogue.making.asking import Ask
from mcdropout.catalogue.making.draft import Draft
from mcdropout.catalogue.making.networks import Network, draft_of
from mcdropout.catalogue.making.probing import Examples
from mcdropout.catalogue.making.source import Source, SourceError
from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.pytorch.saved.archives import load_archive

_EXPORTED, _SCRIPTED = ".pt2", (".pt", ".ts")


def draft(source: Source, ask: Ask) -> Draft:
    path = source.path
    if source.inject is not None:
        raise SourceError(
            f"--inject is {source.inject:g}, and {path} is a saved program, which nothing can be put into; its code, "
            "as path/to/file.py:function --weights ..., or an ONNX model of it is accepted"
        )
    try:
        network = load_archive(path, bare=True)
    except UnsupportedModelError as error:
        raise SourceError(
            f"{error}. Weights go with what makes their network: path/to/file.py:function --weights {path}, or "
            f"timm:NAME --weights {path}"
        ) from error
    examples = _examples(source) if path.suffix == _EXPORTED else None
    file = f"model{path.suffix}"
    made = Network(network, path.stem, "", {file: partial(shutil.copyfile, path)}, examples=examples)
    return draft_of(made, source, ask, {"model": file})


def _examples(source: Source) -> Examples | None:
    """The rows that a network was exported with, which its archive keeps; None where they are no tensors."""
    given = torch.export.load(source.path).example_inputs
    if given is None:
        return None
    positional, named = given
    rows: Any = named if named and not positional else positional if not named else ()
    values = list(rows.values()) if isinstance(rows, dict) else list(rows)
    if not values or not all(isinstance(value, Tensor) and not isinstance(value, nn.Parameter) for value in values):
        return None
    return rows  # type: ignore[no-any-return]
