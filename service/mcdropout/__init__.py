"""Serve a trained network's predictions together with how far to trust them, by Monte Carlo dropout.

In a notebook or a script: `from mcdropout import Engine`, `load` for a bundle, and `Client` to ask a service. Names are
loaded when they are first asked for, so that an error, or the version, costs neither ONNX Runtime nor PyTorch, and a
client no engine.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcdropout.catalogue.local import LocalModel as LocalModel
    from mcdropout.catalogue.local import load as load
    from mcdropout.catalogue.manifest import BundleError as BundleError
    from mcdropout.client import AsyncClient as AsyncClient
    from mcdropout.client import Client as Client
    from mcdropout.client import ClientError as ClientError
    from mcdropout.client import DeadlineExceededError as DeadlineExceededError
    from mcdropout.client import FailedRequestError as FailedRequestError
    from mcdropout.client import PredictedRow as PredictedRow
    from mcdropout.client import PredictResponse as PredictResponse
    from mcdropout.client import RefusedRequestError as RefusedRequestError
    from mcdropout.client import StatusError as StatusError
    from mcdropout.client import UnavailableError as UnavailableError
    from mcdropout.client import UnexpectedAnswerError as UnexpectedAnswerError
    from mcdropout.client import UnreachableError as UnreachableError
    from mcdropout.client import UnusableInputsError as UnusableInputsError
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

_ENGINE = (
    *("Check", "Engine", "EngineError", "FailedRowsError", "InvalidInputError", "UnusableOutputError"),
    *("Prediction", "Program", "Selection", "Site", "SiteOff", "UnsupportedModelError", "VerificationError"),
)
_CLIENT = (
    *("AsyncClient", "Client", "PredictResponse", "PredictedRow"),
    *("ClientError", "DeadlineExceededError", "FailedRequestError", "RefusedRequestError", "StatusError"),
    *("UnavailableError", "UnexpectedAnswerError", "UnreachableError", "UnusableInputsError"),
)
_ROOMS = {
    **dict.fromkeys(_ENGINE, "mcdropout.engine"),
    **dict.fromkeys(_CLIENT, "mcdropout.client"),
    **dict.fromkeys(("LocalModel", "load"), "mcdropout.catalogue.local"),
    "BundleError": "mcdropout.catalogue.manifest",
}
__all__ = list(_ROOMS)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mcdropout")
    if name in _ROOMS:
        return getattr(import_module(_ROOMS[name]), name)
    raise AttributeError(f"mcdropout has no {name!r}; __version__, {', '.join(_ROOMS)} are there")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, "__version__"})
