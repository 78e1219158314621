"""Monte Carlo dropout, usable alone: `Engine.from_module(network, example)` and `engine.predict(x)`.

What it offers is imported when it is first used: who only needs an error loads neither ONNX Runtime nor the C library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcdropout.engine.checks import Check as Check
    from mcdropout.engine.engine import Engine as Engine
    from mcdropout.engine.errors import EngineError as EngineError
    from mcdropout.engine.errors import FailedRowsError as FailedRowsError
    from mcdropout.engine.errors import InvalidInputError as InvalidInputError
    from mcdropout.engine.errors import UnsupportedModelError as UnsupportedModelError
    from mcdropout.engine.errors import UnusableOutputError as UnusableOutputError
    from mcdropout.engine.errors import VerificationError as VerificationError
    from mcdropout.engine.program import Program as Program
    from mcdropout.engine.selection import Selection as Selection
    from mcdropout.engine.sites import Site as Site
    from mcdropout.engine.sites import SiteOff as SiteOff
    from mcdropout.engine.statistics import Prediction as Prediction

_OFFERED = {
    "checks": ("Check",),
    "engine": ("Engine",),
    "errors": (
        "EngineError",
        "FailedRowsError",
        "InvalidInputError",
        "UnusableOutputError",
        "UnsupportedModelError",
        "VerificationError",
    ),
    "program": ("Program",),
    "selection": ("Selection",),
    "sites": ("Site", "SiteOff"),
    "statistics": ("Prediction",),
}
_MODULES = {name: module for module, names in _OFFERED.items() for name in names}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
