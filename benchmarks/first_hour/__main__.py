"""The first hour: ten networks of kinds that people bring, each from its file to its first answer by one command.

    python -m benchmarks.first_hour [--only distilbert keras] [--repeat 3]

What each user has is made first, and not timed: a checkpoint, a folder, an ONNX file. Then `mcdropout serve` is pointed
at it, with nothing in its cache, and the bundle's own example is asked until it is answered. It prints the command, the
seconds until the server was ready and until the answer was there, and how many files were edited: none, as there is
nothing to edit between.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.first_hour.brought import BROUGHT, Brought
from tests.servers import ROOT, free_port

_TIMM = ROOT / ".venv/networks"  # torchvision is there, beside which transformers cannot be imported
_LIMIT = 600.0
_DECLARED = "from benchmarks.networks.library import declare_operators\n\ndeclare_operators()\n"


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="names that begin so")
    parser.add_argument("--repeat", type=int, default=1, help="how often each is brought anew")
    options = parser.parse_args()
    slow = 0
    for brought in BROUGHT:
        if options.only and not brought.name.startswith(tuple(options.only)):
            continue
        taken = [_bring(brought) for _ in range(options.repeat)]
        slow += _show(brought, taken)
    raise SystemExit(f"{slow} take a minute or longer, or are not answered" if slow else 0)


def _bring(brought: Brought) -> tuple[float, float, str] | str:
    """The seconds until it is ready and answered, and what the answer has; or what went wrong."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        environment = _environment(brought, folder)
        script = [sys.executable, ROOT / "benchmarks/first_hour/brought.py", brought.name]
        made = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if made.returncode:
            return f"could not be made: {made.stderr.strip()[-400:]}"
        port = free_port()
        command = [sys.executable, "-m", "mcdropout", "serve", brought.source, *brought.options, f"--port={port}"]
        with (folder / "log").open("w") as log:
            began = time.perf_counter()
            server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
            try:
                found = _asked(f"http://127.0.0.1:{port}", server, began)
            finally:
                server.terminate()
                server.wait(30)
        return found or f"not answered: {(folder / 'log').read_text().strip()[-600:]}"


def _environment(brought: Brought, folder: Path) -> dict[str, str]:
    given = {**os.environ, "KERAS_BACKEND": "torch", "XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    if brought.source.startswith("timm:"):
        (folder / "path").mkdir()
        (folder / "path/sitecustomize.py").write_text(_DECLARED)
        given["PYTHONPATH"] = f"{folder / 'path'}:{_TIMM}:{ROOT}"
    return given


def _asked(url: str, server: "subprocess.Popen[bytes]", began: float) -> tuple[float, float, str] | None:
    """As `_bring`; None where the server ended, or did not answer in time."""
    with httpx.Client(base_url=url, timeout=60) as client:
        while server.poll() is None and time.perf_counter() - began < _LIMIT:
            try:
                if client.get("/health/ready").status_code == 200:
                    ready = time.perf_counter() - began
                    (name,) = (model["name"] for model in client.get("/models").json()["models"])
                    example = client.get(f"/models/{name}/example").json()
                    answer = client.post(f"/models/{name}/predict", json=example).raise_for_status().json()
                    return ready, time.perf_counter() - began, _told(answer)
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    return None


def _told(answer: dict[str, Any]) -> str:
    """What an answer holds of its first row."""
    return ", ".join(answer["predictions"][0])


def _show(brought: Brought, taken: list[tuple[float, float, str] | str]) -> bool:
    """Print a row, and say whether it fell short."""
    print(f"{brought.name}: mcdropout serve {brought.source} {' '.join(brought.options)}".rstrip())
    errors = [each for each in taken if isinstance(each, str)]
    if errors:
        print(f"  {errors[0]}", flush=True)
        return True
    answered = [each[1] for each in taken if not isinstance(each, str)]
    ready = [each[0] for each in taken if not isinstance(each, str)]
    spread = f" ({min(answered):.1f} to {max(answered):.1f})" if len(answered) > 1 else ""
    what = next(each[2] for each in taken if not isinstance(each, str))
    print(
        f"  one command, no edit; ready after {statistics.median(ready):.1f} s, answered after "
        f"{statistics.median(answered):.1f} s{spread}: {what}",
        flush=True,
    )
    return statistics.median(answered) >= 60.0


if __name__ == "__main__":
    main()
