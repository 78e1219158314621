"""The service under load: against its peers, mixed, overloaded, stopped, reloaded, killed in part, left by its clients.

    python -m benchmarks.load --peers .venv/peers

Every server runs as a process of its own on a free port of the loopback interface, the clients in one more, all on the
same cores; only figures of one run are to be compared. LitServe must be installed; torch-uncertainty is taken from
`--peers`, a folder of wheels (see `benchmarks.engine`). `--only` selects sections, the numbers below shorten them.

The exit status says whether every section ran to its end, not whether goals are met.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bundles import REPOSITORY
from benchmarks.engine import _machine
from benchmarks.load.auto import auto
from benchmarks.load.generator import Generator
from benchmarks.load.kill import kill
from benchmarks.load.mixed import mixed
from benchmarks.load.overload import overload
from benchmarks.load.reload import reload
from benchmarks.load.stop import stop
from benchmarks.load.throughput import MODELS, ceiling, throughput
from benchmarks.load.vanish import vanish
from benchmarks.timing import Spread

_Section = Callable[[Generator, Path, argparse.Namespace], dict[str, Any]]
SECTIONS: dict[str, tuple[str, _Section]] = {
    "ceiling": ("What the load itself can do", ceiling),
    "throughput": ("One digit a request, against LitServe and FastAPI with torch-uncertainty's mc_dropout", throughput),
    "mixed": ("One-row requests beside 1,000-row ones", mixed),
    "auto": ("Passes until the standard error is small enough", auto),
    "overload": ("Ten times the capacity", overload),
    "stop": ("SIGTERM under load", stop),
    "reload": ("Reloads under load, good and bad ones mixed", reload),
    "kill": ("SIGKILL of one of two workers under load", kill),
    "vanish": ("Clients that vanish", vanish),
}


def main() -> int:
    arguments = _arguments()
    report: dict[str, Any] = {"machine": _machine(), "sections": {}}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    print(f"median (quartiles) of {arguments.repeat} rounds; servers and clients share the cores")
    ended = True
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (title, section)) in enumerate(SECTIONS.items(), 1):
            if name not in arguments.only:
                continue
            print(f"\n{number}. {title}", flush=True)
            began = time.time()
            try:
                with Generator() as generator:
                    report["sections"][name] = section(generator, Path(folder), arguments)
            except Exception as error:  # the other sections have their say all the same
                print(f"   FAILED: {type(error).__name__}: {error}")
                ended = False
            print(f"{name} took {time.time() - began:.0f} s", file=sys.stderr, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1, default=_as_json) + "\n")
    return 0 if ended else 1


def _as_json(value: object) -> object:
    if isinstance(value, Spread):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = os.environ.get("MCDROPOUT_MNIST") or REPOSITORY.parent / "shared" / "data" / "mnist"
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections (default: all)")
    add("--models", nargs="+", default=list(MODELS), help="bundles that are compared (default: %(default)s)")
    add("--peers", type=Path, default=REPOSITORY / ".venv" / "peers", help="folder of wheels (default: %(default)s)")
    add("--data-dir", type=Path, default=Path(data), help="folder of MNIST's files (default: %(default)s)")
    add("--repeat", type=int, default=3, help="rounds (default: %(default)s)")
    add("--seconds", type=float, default=3.0, help="how long a point is measured (default: %(default)s)")
    add("--digits", type=int, default=10_000, help="test digits of `auto` (default: %(default)s)")
    add("--overload", default="mnist-mlp:200", help="what is asked for tenfold, model:mc (default: %(default)s)")
    add("--overload-seconds", type=float, default=60.0, help="how long (default: %(default)s)")
    add("--reloads", type=int, default=200, help="reloads under load (default: %(default)s)")
    add("--minutes", type=float, default=2.0, help="how long clients vanish (default: %(default)s)")
    add("--json", type=Path, help="file to write the figures to")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
