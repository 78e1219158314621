"""Archives: networks saved without their Python code, by `torch.export.save` or `torch.jit.save`."""

import zipfile
from pathlib import Path

import torch
from torch import nn

from mcdropout.engine.errors import UnsupportedModelError, first_line
from mcdropout.engine.pytorch.quiet import quiet
from mcdropout.engine.pytorch.saved.exported import exported_network
from mcdropout.engine.pytorch.saved.torchscript import scripted_network

_ACCEPTED = "a network saved by torch.export.save (.pt2) or by torch.jit.save is accepted"
_EXPORTED, _SCRIPTED = "torch.export archive", "TorchScript file"


def load_archive(path: Path, bare: bool = False) -> nn.Module:
    """The network that a `torch.export` archive or a TorchScript file holds, which of them it is told by its content.

    It comes as a module in eval mode, on the CPU, whose dropout is found like any other's and is on in train mode
    alone, whichever mode it was saved in. Modules that drop have the paths that they had in the network.

    The file must be trusted: reading an archive unpickles what it holds, which can run any code.

    Args:
        path: the file.
        bare: whether it may have no dropout, because it is given some.

    Raises:
        UnsupportedModelError: the file is something else or cannot be read; or its dropout is gone, or its rows are
            fixed, with the way to save it that keeps them.
    """
    kind = _kind(path)
    try:
        with quiet():
            if kind == _SCRIPTED:
                return scripted_network(path, bare)
            return exported_network(torch.export.load(path), bare)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{path} is a {kind}, but {error}") from error
    except Exception as error:  # whatever PyTorch's readers raise
        raise UnsupportedModelError(
            f"{path} is a {kind}, but cannot be read ({first_line(error)}); one that was saved from the CPU by PyTorch "
            f"{torch.__version__.partition('+')[0]} or not long before is accepted"
        ) from error


def _kind(path: Path) -> str:
    """What a file is."""
    if not path.is_file():
        raise UnsupportedModelError(f"{path} is no file; {_ACCEPTED}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()} | set(archive.namelist())
            damaged = archive.testzip()
            cut_off = min((entry.header_offset for entry in archive.infolist()), default=0) > 0
    except Exception as error:  # of damaged files zipfile raises almost anything
        raise UnsupportedModelError(f"{path} cannot be read as an archive ({error}); {_ACCEPTED}") from error
    if damaged or cut_off:  # an archive within an archive is found too where the end of the outer is missing
        raise UnsupportedModelError(f"{path} is damaged: {damaged or 'its end'} is not what was written; {_ACCEPTED}")
    if "models/model.json" in names or "serialized_exported_program.json" in names:
        return _EXPORTED
    if "archive_format" in names:
        raise UnsupportedModelError(
            f"{path} holds no exported network by the name of 'model', but what torch._inductor compiled, or several; "
            f"{_ACCEPTED}"
        )
    if "constants.pkl" in names and "data.pkl" in names:
        return _SCRIPTED
    if "data.pkl" in names:
        raise UnsupportedModelError(
            f"{path} was written by torch.save: weights, or a module that only its own Python code can make sense of; "
            f"{_ACCEPTED}, or the code with the weights"
        )
    raise UnsupportedModelError(f"{path} is an archive of something else; {_ACCEPTED}")
