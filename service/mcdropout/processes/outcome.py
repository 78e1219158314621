"""What a server says once its models have been seen to: that it is ready and where, or why it is not.

Imports nothing that a model needs: a supervisor is small.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from mcdropout.settings import Settings

if TYPE_CHECKING:
    from mcdropout.catalogue.registry import Entry, Registry

_log = structlog.get_logger("server")

_PAGE = "/"
_MOST_NAMED, _SHOWN = 5, 200  # models whose errors a line tells, and characters of each


def say_ready(urls: Sequence[str], models: int, **more: object) -> None:
    """Log the line that ends a start: requests are answered from now on.

    Args:
        urls: where the server listens, that of predictions first.
        models: how many serve.
        more: further fields of the line.
    """
    called = "model" if models == 1 else "models"
    _log.info(f"ready: {models} {called} on {urls[0]}", models=models, urls=list(urls), page=urls[0] + _PAGE, **more)


def say_outcome(registry: "Registry", settings: Settings, urls: Sequence[str] = ()) -> bool:
    """Log what became of the models that were to be loaded at the start.

    Args:
        registry: the models; it has begun.
        settings: the server's.
        urls: where it listens; empty for a worker, whose supervisor says that all is ready.

    Returns:
        Whether there is anything to go on for: a model serves, or one that failed can be mended while the server runs.
    """
    entries, default = registry.entries, registry.default
    serving = [name for name, entry in entries.items() if entry.model is not None]
    failed = [name for name, entry in entries.items() if entry.state == "failed"]
    if default in serving:
        if urls:
            say_ready(urls, len(serving), default=default, **({"failed": failed} if failed else {}))
        return True
    if serving:
        _log.error(
            f"not ready: the default model {default!r} does not serve",
            error=entries[default].error,
            serving=serving,
            mends=f"--default with another name, or {_mends(settings) or 'a start with that bundle mended'}",
        )
        return True
    mends = _mends(settings)
    if mends is None:
        _log.error(
            "nothing to serve",
            error=f"no model could be loaded: {_reasons(entries, failed)}",
            mends="a start with one mended; --watch goes on without, and so does MCDROPOUT_ADMIN=true in one process",
        )
        return False
    _log.error("not ready: no model serves", error=_reasons(entries, failed), mends=mends)
    return True


def _mends(settings: Settings) -> str | None:
    """How a bundle that failed comes to serve in this process; None where it does not."""
    if settings.watch:
        return "that bundle mended: --watch loads it then"
    if settings.admin and len(settings.devices) == 1:
        return "that bundle mended, and POST /models/{name}/reload"
    return None


def _reasons(entries: "Mapping[str, Entry]", failed: Sequence[str]) -> str:
    named = [f"{name}: {(entries[name].error or '')[:_SHOWN]}" for name in failed[:_MOST_NAMED]]
    more = len(failed) - len(named)
    return "; ".join([*named, f"and {more} more"] if more else named)
