"""What a hostile client can take of a server: its memory, and the time of others.

    python -m benchmarks.attack --seconds 8 --only pipelining stalled --json attack.json

Each attack runs for some seconds against a server of its own, on the loopback interface, whose process may not hold
more than 2 GiB of data. A bystander asks for its health and for a prediction of one row all the while. Printed are the
statuses that the attacker got, the memory that the process took on top of what it had, the longest that the bystander
waited for each, and whether the process is alive. The exit status is 1 where it is not, or where the bystander waited
for longer than a second.

    python -m benchmarks.attack --program other/.venv/bin/mcdropout

runs the same against another version, and with `--workers 2` against several processes, of which each may hold as much.
"""

import argparse
import contextlib
import json
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

from benchmarks.engine import _machine, _print_table
from tests.servers import family_of

MEMORY = 2 * 2**30
MOST_WAIT = 1.0
_ROOT = Path(__file__).resolve().parent.parent
_MIB = 2**20
_HEAD = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
_LIVE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
_STARTS_WITHIN, _STEADY_SECONDS = 60.0, 1.5


@dataclass
class Outcome:
    """What an attack came to.

    Attributes:
        name: of the attack.
        statuses: what the attacker was answered, and how often.
        memory: what all its processes took on top of what they had, at most, in bytes.
        waits: the longest that the bystander waited for each path, in seconds.
        failures: what the bystander was not answered with 200.
        alive: whether all its processes are.
    """

    name: str
    statuses: Counter[str] = field(default_factory=Counter)
    memory: int = 0
    waits: dict[str, float] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    alive: bool = True

    @property
    def held(self) -> bool:
        """Whether the server withstood it."""
        return self.alive and max(self.waits.values(), default=0.0) <= MOST_WAIT


class Target:
    """A server that is attacked."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process, self.port = process, port
        self.pids = frozenset(family_of(process.pid))
        self.example = (_ROOT / "models" / "mnist-cnn" / "example.json").read_bytes()

    def connect(self, timeout: float = 30.0) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    @property
    def memory(self) -> int:
        """The memory that its processes hold, in bytes, without those that are gone."""
        total = 0
        for pid in self.pids:
            with contextlib.suppress(OSError):
                found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
                total += int(found[1]) * 1024 if found else 0
        return total

    @property
    def alive(self) -> bool:
        """Whether all processes are there that it began with."""
        return self.process.poll() is None and self.pids <= frozenset(family_of(self.process.pid))


Attack = Callable[[Target, Outcome, Callable[[], bool]], None]
"""Attacks a server, and notes what it is answered, as long as the last argument says so."""


def _status(answer: bytes) -> str:
    return answer.split(b" ", 2)[1].decode() if answer.startswith(b"HTTP/1.1 ") else "none"


def _asked(target: Target, data: bytes, outcome: Outcome) -> None:
    """Send something whole, and note the first answer."""
    try:
        with target.connect() as client:
            client.sendall(data)
            outcome.statuses[_status(client.recv(4096))] += 1
    except OSError as error:
        outcome.statuses[type(error).__name__] += 1


def _posted(body: bytes, *lines: str, path: str = "/predict") -> bytes:
    head = _HEAD.replace("/predict", path) + "".join(f"{line}\r\n" for line in lines)
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def pipelining(target: Target, outcome: Outcome, goes_on: Callable[[], bool]) -> None:
    """Requests one behind another on one connection, whose answers nobody reads."""
    with target.connect(timeout=1.0) as client:
        while goes_on():
            try:
                client.sendall(_LIVE * 500)
            except OSError as error:
                outcome.statuses[type(error).__name__] += 1
                time.sleep(0.2)
                if not isinstance(error, TimeoutError):
                    return


def nested_lists(target: Target, outcome: Outcome, goes_on: Callable[[], bool]) -> None:
    """The largest bodies, of lists and objects in one another, two at a time."""
    body = b'{"inputs":[' + b"[[[{}]]]," * (31 * _MIB // 9) + b"1]}"
    _two_at_a_time(lambda: _asked(target, _posted(body), outcome), goes_on)


def many_numbers(target: Target, outcome: Outcome, goes_on: Callable[[], bool]) -> None:
    """The largest bodies, of the shortest numbers, two at a time."""
    body = b'{"inputs":[' + b"1," * (15 * _MIB) + b"1]}"
    _two_at_a_time(lambda: _asked(target, _posted(body), outcome), goes_on)


def by_name(target: Target, outcome: Outcome, goes_on: Callable[[], bool]) -> None:
    """As many rows as are accepted, under the name of the input, two at a time."""
    row = json.dumps([[[0.123456] * 28] * 28]).encode()
    body = b'{"inputs":{"image":[' + b",".join([row] * 3000) + b"]}}"
    _two_at_a_time(lambda: _asked(target, _posted(body, path="/predict?mc=0"), outcome), goes_on)


def long_head(target: Target, outcome: Outcome, goes_on: Callable[[], bool]) -> None:
    """A head whose one field does not come to an end."""
    while goes_on():
        try:
            with target.connect() as client:
                client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nlong: ")
                for _ in range(80):
                    client.sendall(b"a" * _MIB)
                outcome.statuses["none"] += 1
        except OSError as error:
            outcome.statuses[type(error).__name__] += 1


def many_fields(target: Target, outcome: Outcome, goes_on: Callable[[], bool]) -> None:
    """Heads of a hundred thousand fields."""
    head = b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x-%d: a\r\n" % n for n in range(100_000)) + b"\r\n"
    while goes_on():
        _asked(target, head, outcome)


def upgrade(target: Target, outcome: Outcome, goes_on: Callable[[], bool]) -> None:
    """A request that changes a model, in the body of one that offers another protocol."""
    smuggled = b"POST /models/mnist-mlp/unload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"
    head, _, body = _posted(smuggled, "connection: upgrade, http2-settings", "upgrade: h2c").partition(b"\r\n\r\n")
    while goes_on():
        with target.connect() as client:
            client.sendall(head + b"\r\n\r\n")
            time.sleep(0.1)
            client.sendall(body)
            outcome.statuses[_status(client.recv(4096))] += 1
    answer = httpx.get(f"http://127.0.0.1:{target.port}/models/mnist-mlp", timeout=30.0)
    outcome.statuses[f"the other model is {answer.json()['state']}"] += 1


def costly(target: Target, outcome: Outcome, goes_on: Callable[[], bool]) -> None:
    """Sixteen requests of as many rows and passes as are accepted."""
    example = json.loads((_ROOT / "models" / "concrete-mlp" / "example.json").read_bytes())["inputs"]
    row = example[0] if isinstance(example[0], list) else example
    body = json.dumps({"inputs": [row] * 4096}).encode()
    data = _posted(body, path="/models/concrete-mlp/predict?mc=10000")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(16)]
        for client in clients:
            client.sendall(data)
        while goes_on():
            time.sleep(0.1)
        for client in clients:
            client.settimeout(0.05)
            with contextlib.suppress(OSError):
                outcome.statuses[_status(client.recv(4096))] += 1


def stalled_bodies(target: Target, outcome: Outcome, goes_on: Callable[[], bool]) -> None:
    """Bodies as large as may be, of which the last byte does not come."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(target.connect(timeout=5.0)) for _ in range(60)]
        for client in clients:
            if not goes_on():
                break
            with contextlib.suppress(OSError):
                client.sendall(f"{_HEAD}content-length: {31 * _MIB}\r\n\r\n".encode() + b" " * (30 * _MIB))
        while goes_on():
            time.sleep(0.1)
        for client in clients:
            client.settimeout(0.05)
            try:
                outcome.statuses[_status(client.recv(4096))] += 1
            except OSError as error:
                outcome.statuses[type(error).__name__] += 1


def many_connections(target: Target, outcome: Outcome, goes_on: Callable[[], bool]) -> None:
    """As many connections as this process may have, of which nothing comes."""
    with contextlib.ExitStack() as stack:
        try:
            while goes_on():
                stack.enter_context(target.connect(timeout=2.0))
                outcome.statuses["connected"] += 1
        except OSError as error:
            outcome.statuses[type(error).__name__] += 1
        while goes_on():
            time.sleep(0.1)


def unread_answers(target: Target, outcome: Outcome, goes_on: Callable[[], bool]) -> None:
    """Large answers that nobody reads."""
    row = [[[0.5] * 28] * 28]
    data = _posted(json.dumps({"inputs": [row] * 50}).encode(), path="/predict?mc=1000&samples=true")
    with contextlib.ExitStack() as stack:
        while goes_on():
            with contextlib.suppress(OSError):
                client = stack.enter_context(target.connect(timeout=2.0))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.sendall(data)
                outcome.statuses["asked"] += 1
            time.sleep(0.02)


ATTACKS: dict[str, Attack] = {
    each.__name__.replace("_", "-"): each
    for each in (
        pipelining,
        nested_lists,
        many_numbers,
        by_name,
        long_head,
        many_fields,
        upgrade,
        costly,
        stalled_bodies,
        many_connections,
        unread_answers,
    )
}


def _two_at_a_time(ask: Callable[[], None], goes_on: Callable[[], bool]) -> None:
    def work() -> None:
        while goes_on():
            ask()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


@contextlib.contextmanager
def _served(program: str, workers: int) -> Iterator[Target]:
    """A server on the repository's models, each of whose processes may hold so much memory and no more."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [
                *(program, "serve", "--models", str(_ROOT / "models"), "--default", "mnist-cnn", "--port", str(port)),
                *("--workers", str(workers)),
            ],
            stdout=log,
            stderr=log,
            preexec_fn=_limited,
        )
        try:
            until = time.monotonic() + _STARTS_WITHIN
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5.0).status_code == 200:
                        break
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise RuntimeError(f"the server does not start: {log.read()[-2000:].decode()}")
                time.sleep(0.1)
            target = Target(process, port)
            _settle(target)
            yield target
        finally:
            process.kill()
            process.wait()


def _settle(target: Target) -> None:
    """Wait until a server's processes have all loaded what they load: the first that has answers before."""
    before, until = 0, time.monotonic() + _STARTS_WITHIN
    while abs(target.memory - before) > _MIB and time.monotonic() < until:
        before = target.memory
        time.sleep(_STEADY_SECONDS)


def _bystand(target: Target, outcome: Outcome, ended: threading.Event) -> None:
    """Ask all the while, each time on a connection of its own, and note the longest wait."""
    url = f"http://127.0.0.1:{target.port}"
    while not ended.is_set():
        for path in ("/health/live", "/predict"):
            asked = time.monotonic()
            try:
                with httpx.Client(timeout=60.0) as client:
                    if path == "/predict":
                        kind = {"content-type": "application/json"}
                        answer = client.post(url + path, params={"mc": 20}, content=target.example, headers=kind)
                    else:
                        answer = client.get(url + path)
                if answer.status_code != 200:
                    outcome.failures[f"{path} {answer.status_code}"] += 1
            except httpx.HTTPError as error:
                outcome.failures[f"{path} {type(error).__name__}"] += 1
            outcome.waits[path] = max(outcome.waits.get(path, 0.0), time.monotonic() - asked)
        time.sleep(0.02)


def attacked(name: str, program: str, seconds: float, workers: int) -> Outcome:
    """What an attack on a server of so many processes comes to that takes so many seconds."""
    outcome, ended = Outcome(name), threading.Event()
    with _served(program, workers) as target:
        before = target.memory
        until = time.monotonic() + seconds
        attack = ATTACKS[name]
        threads = [
            threading.Thread(target=_bystand, args=(target, outcome, ended), daemon=True),
            threading.Thread(target=attack, args=(target, outcome, lambda: time.monotonic() < until), daemon=True),
        ]
        for thread in threads:
            thread.start()
        while threads[1].is_alive() and time.monotonic() < until + 30.0:
            outcome.memory = max(outcome.memory, target.memory - before)
            time.sleep(0.05)
        ended.set()
        threads[0].join(65.0)
        outcome.alive = target.alive
    return outcome


def main() -> int:
    arguments = _arguments()
    outcomes: list[Outcome] = []
    for name in arguments.only or ATTACKS:
        print(f"\r{name:<30}", end="", file=sys.stderr, flush=True)
        outcomes.append(attacked(name, arguments.program, arguments.seconds, arguments.workers))
    print("\r", end="", file=sys.stderr)
    print(f"{arguments.seconds:g} s each, {arguments.workers} of processes that may hold {MEMORY // _MIB} MiB\n")
    head = ["attack", "answers", "memory, MiB", "longest wait: live", "predict, s", "failures of others", "alive"]
    _print_table([head, *map(_line, outcomes)])
    if arguments.json:
        record = {"machine": _machine(), "attacks": [asdict(outcome) for outcome in outcomes]}
        arguments.json.write_text(json.dumps(record, indent=1))
    return 0 if all(outcome.held for outcome in outcomes) else 1


def _line(outcome: Outcome) -> list[str]:
    return [
        outcome.name,
        ", ".join(f"{count} x {status}" for status, count in outcome.statuses.most_common(3)),
        f"{outcome.memory / _MIB:+.0f}",
        *(f"{outcome.waits.get(path, 0.0):.2f}" for path in ("/health/live", "/predict")),
        ", ".join(f"{count} x {what}" for what, count in outcome.failures.most_common(2)) or "none",
        "yes" if outcome.alive else "no",
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), metavar="NAME", help=", ".join(ATTACKS))
    parser.add_argument("--seconds", type=float, default=8.0, help="of each attack (default: %(default)s)")
    parser.add_argument(
        "--program", default=str(Path(sys.executable).with_name("mcdropout")), help="what serves (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that serve (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write everything there as well")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
