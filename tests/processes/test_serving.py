"""How long a server that leaves waits for clients that it has let in."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from mcdropout.processes import serving


def lingered(connections: set[object]) -> float:
    server: Any = SimpleNamespace(force_exit=False, server_state=SimpleNamespace(connections=connections))
    leaving, begun = serving.Leaving(), time.monotonic()
    asyncio.run(serving.linger(server, leaving))
    assert leaving.all
    return time.monotonic() - begun


def test_a_server_waits_longer_for_clients_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_LINGER_SECONDS", 0.1)
    monkeypatch.setattr(serving, "_LONGEST_LINGER_SECONDS", 0.4)
    assert lingered({object()}) >= 0.4
    monkeypatch.setattr(serving, "_LONGEST_LINGER_SECONDS", 3600.0)
    assert lingered(set()) >= 0.1


def test_a_server_whose_clients_leave_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_LONGEST_LINGER_SECONDS", 3600.0)
    connections = {object()}
    server: Any = SimpleNamespace(force_exit=False, server_state=SimpleNamespace(connections=connections))

    async def leave() -> None:
        waiting = asyncio.create_task(serving.linger(server, serving.Leaving()))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        connections.clear()
        await waiting

    asyncio.run(leave())
