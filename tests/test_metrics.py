"""Metrics: series that are found sooner than by their labels, and what is forgotten."""

import asyncio
import errno
import shutil
import subprocess
import sys

import pytest
from starlette.types import Receive, Scope, Send

from mcdropout.api.observe import ObserveMiddleware
from mcdropout.metrics import Metrics


def lines(metrics: Metrics, name: str) -> list[str]:
    return [line for line in metrics.exposition()[0].decode().splitlines() if line.startswith(name)]


def test_a_series_is_that_of_its_labels() -> None:
    metrics = Metrics()
    metrics.of(metrics.rows, "a").inc(2)
    metrics.of(metrics.rows, "a").inc()
    metrics.rows.labels("a").inc(4)
    metrics.of(metrics.rows, "b").inc()
    metrics.of(metrics.cancelled, "a").inc(9)
    assert lines(metrics, "mcdropout_rows_total") == [
        'mcdropout_rows_total{model="a"} 7.0',
        'mcdropout_rows_total{model="b"} 1.0',
    ]


def test_a_model_that_comes_back_is_counted_anew() -> None:
    metrics = Metrics()
    metrics.of(metrics.rows, "a").inc(5)
    metrics.of(metrics.rows, "b").inc(5)
    metrics.forget("a")
    assert lines(metrics, "mcdropout_rows_total") == ['mcdropout_rows_total{model="b"} 5.0']
    metrics.of(metrics.rows, "a").inc()
    metrics.of(metrics.rows, "b").inc()
    assert lines(metrics, "mcdropout_rows_total") == [
        'mcdropout_rows_total{model="b"} 6.0',
        'mcdropout_rows_total{model="a"} 1.0',
    ]


def test_a_request_that_its_server_cancels_is_the_clients_end_and_no_failure() -> None:
    metrics = Metrics()

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def asked() -> None:
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        task = asyncio.create_task(ObserveMiddleware(never, metrics)(scope, None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asked())
    told = metrics.exposition()[0].decode()
    assert 'mcdropout_requests_total{mode="unknown",model="unknown",status="499"} 1.0' in told


# In a mount namespace of its own, so that a small disk can be had: what it prints is what became of it.
_ON_A_DISK = """
set -e
folder=$(mktemp -d)
mount -t tmpfs -o size={kibibytes}k small "$folder"
exec "{python}" -c '
import sys
from pathlib import Path
from mcdropout.metrics import Metrics, share
share(Path(sys.argv[1]), "1")
try:
    metrics = Metrics()
    for number in range(2000):
        metrics.of(metrics.rows, f"model-{{number}}").inc()
        metrics.of(metrics.rows, f"model-{{number}}").inc()
    print("counted", metrics.exposition()[0].count(b"mcdropout_rows_total{{"))
except OSError as error:
    print("refused", error.errno)
' "$folder"
"""


def on_a_disk(kibibytes: int) -> tuple[int, str, str]:
    """The status, and what is printed, of counting 2,000 series on a disk of so much."""
    isolated = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*isolated, "true"], check=False).returncode:
        pytest.skip("no mount namespace can be had here")
    script = _ON_A_DISK.format(kibibytes=kibibytes, python=sys.executable)
    ended = subprocess.run([*isolated, script], capture_output=True, text=True, check=False)
    what, count = ended.stdout.split()[-2:] or ["", ""]
    return ended.returncode, what, count


def test_a_disk_that_becomes_full_ends_no_process_and_what_was_counted_before_is_exposed() -> None:
    status, what, count = on_a_disk(300)
    assert (status, what) == (0, "counted")
    assert 300 < int(count) < 2000


def test_a_disk_that_is_full_is_an_error_and_no_signal() -> None:
    assert on_a_disk(96) == (0, "refused", str(errno.ENOSPC))


def test_with_room_enough_all_is_counted() -> None:
    assert on_a_disk(8192) == (0, "counted", "2000")
