"""Serve a trained network's predictions together with how far to trust them, by Monte Carlo dropout.

In a notebook or a script: `from mcdropout import Engine`. Names are loaded when they are first asked for, so that an
error, or the version, costs neither ONNX Runtime nor PyTorch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcdropout.engine import Check as Check
    from mcdropout.engine import Engine as Engine
    from mcdropout.engine import EngineError as EngineError
    from mcdropout.engine import FailedRowsError as FailedRowsError
    from mcdropout.engine import InvalidInputError as InvalidInputError
    from mcdropout.engine import Prediction as Prediction
    from mcdropout.engine import Program as Program
    from mcdropout.engine import Selection as Selection
    from mcdropout.engine import Site as Site
    from mcdropout.engine import SiteOff as SiteOff
    from mcdropout.engine import UnsupportedModelError as UnsupportedModelError
    from mcdropout.engine import UnusableOutputError as UnusableOutputError
    from mcdropout.engine import VerificationError as VerificationError

    __version__: str

# From version 1.29 on ONNX Runtime reports its use to its makers, unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_FACE = (
    *("Check", "Engine", "EngineError", "FailedRowsError", "InvalidInputError", "UnusableOutputError"),
    *("Prediction", "Program", "Selection", "Site", "SiteOff", "UnsupportedModelError", "VerificationError"),
)
__all__ = list(_FACE)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mcdropout")
    if name in _FACE:
        return getattr(import_module("mcdropout.engine"), name)
    raise AttributeError(f"mcdropout has no {name!r}; __version__, {', '.join(_FACE)} are there")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE, "__version__"})
