"""Faults: what a user's own code raises, as a refusal that says what happened, in which module and on which line."""

import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mcdropout.engine.errors import EngineError, UnsupportedModelError, plain

_HERE = Path(__file__).parents[1]
_STANDARD = Path(sysconfig.get_path("stdlib"))
_SITE_PACKAGES = ("site-packages", "dist-packages")
# Their frames are the way to what went wrong, not where it did.
_PASSED_THROUGH = ("torch", "numpy", "functorch")
_MOST_QUOTED = 500  # characters of a message


@contextmanager
def refusing(sentence: str, accepted: str = "", kind: type[Exception] = UnsupportedModelError) -> Iterator[None]:
    """Turn whatever is raised within into an error of `kind`: `sentence`, what was raised, where, and `accepted`.

    Errors of that kind and the engine's own pass through, and so do KeyboardInterrupt and MemoryError, which say
    nothing of a network. That code ends the process (SystemExit) is refused like any other fault.
    """
    try:
        yield
    except (EngineError, MemoryError, kind):
        raise
    except (Exception, SystemExit) as error:
        ending = f"; {accepted}" if accepted else ""
        raise kind(f"{sentence}: {described(error)}{ending}") from error


def described(error: BaseException, network: Any = None) -> str:
    """The first line of an error's message, its kind, the module that it was raised in, and the line of code.

    The module is named by its path in the network, which is the outermost that was running where it is not given; the
    line is the innermost that is neither PyTorch's, NumPy's, Python's nor the engine's, as far as there are such.
    """
    frames = list(_frames(error.__traceback__))
    where = [part for part in (_module(frames, network), _line(frames)) if part]
    return f"{_message(error)} ({type(error).__name__}{' in ' if where else ''}{', '.join(where)})"


def _message(error: BaseException) -> str:
    try:
        text = plain(str(error))
    except Exception:  # a message of the user's own class
        text = ""
    lines = [line.strip() for line in text.splitlines()]
    told = 1
    while told < len(lines) and lines[told - 1].endswith(":"):  # what it announces belongs to it
        told += 1
    return " ".join(lines[:told])[:_MOST_QUOTED].rstrip(".: ") or "(no message)"


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    """The frames that an error came through, outermost first, with their lines."""
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _module(frames: list[tuple[FrameType, int]], network: Any) -> str | None:
    """The path of the innermost module that was running, in the network or in the outermost; None where none was."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    held = [frame.f_locals.get("self") for frame, _ in frames]
    modules = [module for module in held if isinstance(module, torch.nn.Module)]
    if not modules:
        return None
    outermost = modules[0] if network is None else network
    try:
        paths = {id(part): path for path, part in outermost.named_modules(remove_duplicate=False)}
    except Exception:  # which a user's class may have changed
        return None
    return next((paths[id(part)] or "(network)" for part in reversed(modules) if id(part) in paths), None)


def _line(frames: list[tuple[FrameType, int]]) -> str | None:
    own = [f"{frame.f_code.co_filename}:{line}" for frame, line in frames if _is_own(frame.f_code.co_filename)]
    return own[-1] if own else None


def _is_own(file: str) -> bool:
    """Whether a file is the user's, or a library's that defines networks."""
    path = Path(file)
    if file.startswith("<") or path.is_relative_to(_HERE):
        return False
    installed = [i for i, part in enumerate(path.parts) if part in _SITE_PACKAGES]
    if installed:
        return path.parts[installed[-1] + 1] not in _PASSED_THROUGH
    return not path.is_relative_to(_STANDARD)
