"""One network tried: prepared, compared with the plain loop, replayed, asked alone, saved, loaded and timed."""

import contextlib
import io
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.networks.case import Case, Given, mapped, tensors
from benchmarks.networks.comparing import Distance, distance
from benchmarks.networks.plain import as_if_trained, dropping, loop, moments, once, repeated
from benchmarks.timing import Spread, interleave
from mcdropout.engine import Engine, EngineError, UnsupportedModelError
from mcdropout.engine.statistics import Prediction

ROWS, TIMED_ROWS, TIMED_PASSES = 4, (1, 8), 50
_FEW, _SEED = 20, 7
_CLOSE = 2e-4
"""How far two orders of the same float32 sums may be apart, in parts of the largest value."""


@dataclass
class Trial:
    """What became of a network.

    Attributes:
        name: of its case.
        outcome: "right"; "refused", in a sentence; "wrong", where an answer is not what it must be, or a request like
            the example is refused; "raw", where anything but an EngineError left the engine;
            "unbuilt", where this version of its library does not make it, or it does not run by itself.
        why: what was said, or what is wrong.
        sites, strategy, runtime, reason: what the engine made of it.
        distance: between its passes and the plain loop's.
        saved: whether it can be saved.
        faster: how many times as fast as the loop, and as the repeated batch, by the number of rows.
    """

    name: str
    outcome: str = "right"
    why: str = ""
    sites: int = 0
    strategy: str = ""
    runtime: str = ""
    reason: str | None = None
    distance: Distance | None = None
    saved: bool | None = None
    faster: dict[str, Spread] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Itself, for a JSON file."""
        return asdict(self)


def attempt(case: Case, passes: int, rounds: int, runtime: str = "auto") -> Trial:
    """Try a network.

    Args:
        case: which.
        passes: how many are compared with as many of the plain loop.
        rounds: of timing; 0 for none.
        runtime: as for `Engine.from_module`.
    """
    trial = Trial(case.name)
    try:
        torch.manual_seed(0)
        network = case.build()
        torch.manual_seed(1)
        given = case.inputs(max(TIMED_ROWS))
        as_if_trained(network, given)
        rows = mapped(lambda x: x[:ROWS], given)
        baseline = once(case, network, rows).double().numpy()
    except Exception as error:
        trial.outcome, trial.why = "unbuilt", _last(error)
        return trial
    before = _state(network)
    try:
        with _quiet():
            engine = Engine.from_module(network, rows, runtime=runtime, **case.arguments())
    except EngineError as error:
        trial.outcome, trial.why = "refused", str(error)
        return trial
    except Exception as error:
        trial.outcome, trial.why = "raw", _last(error)
        return trial
    program = engine.program
    trial.sites, trial.strategy, trial.runtime, trial.reason = (
        len(engine.sites),
        program.strategy,
        program.runtime,
        program.reason,
    )
    try:
        wrong = [] if _state(network) == before else ["the user's network has changed"]
        wrong += _broken(engine, rows, baseline, trial)
    except Exception as error:
        trial.outcome, trial.why = "wrong" if isinstance(error, EngineError) else "raw", _last(error)
        return trial
    plain = dropping(network)
    torch.manual_seed(2)
    wanted = _looped(case, plain, rows, passes).double().numpy()
    trial.distance = distance(engine.samples(rows, passes, seed=1), wanted)
    if trial.distance.far:
        wrong.append("its passes are not the plain loop's")
    if wrong:
        trial.outcome, trial.why = "wrong", "; ".join(wrong)
    if rounds:
        trial.faster = _faster(case, engine, plain, given, rounds)
    return trial


def _broken(engine: Engine, rows: Given, baseline: np.ndarray, trial: Trial) -> list[str]:
    """Which promises an engine breaks; says in `trial` whether it can be saved."""
    broken = []
    if not _near(_center(engine.predict(rows, 0)), baseline):
        broken.append("mc=0 is not the network with its dropout off")
    first, again = (engine.predict(rows, _FEW, seed=_SEED) for _ in range(2))
    if _bytes(first) != _bytes(again):
        broken.append("a seed gives two answers")
    samples = engine.samples(rows, _FEW, seed=_SEED)
    if not _near(_center(first), samples.mean(0)) or not _near(_spread(first), samples.var(0, ddof=1)):
        broken.append("mean and variance are not those of its passes")
    inputs = engine.as_inputs(tuple(x.numpy() for x in tensors(rows)))
    for row in range(ROWS):
        alone = engine.run(tuple(x[row : row + 1] for x in inputs), [_SEED], [row], _FEW, samples=True).samples
        if alone is None or not _near(alone[0], samples[:, row]):
            broken.append(f"row {row} alone is another than beside others")
    with tempfile.TemporaryDirectory() as folder:
        try:
            with _quiet():
                engine.save(folder)
        except UnsupportedModelError:
            trial.saved = False
        else:
            trial.saved = True
            if _bytes(Engine.load(folder).predict(tuple(x.numpy() for x in tensors(rows)), _FEW, seed=_SEED)) != _bytes(
                first
            ):
                broken.append("loaded, it answers otherwise")
    return broken


def _looped(case: Case, plain: nn.Module, rows: Given, passes: int) -> torch.Tensor:
    """The plain loop, over each row by itself where a row has to do with those beside it; `[passes, rows, ...]`."""
    if not case.alone:
        return loop(case, plain, rows, passes)
    count = len(tensors(rows)[0])
    return torch.cat([loop(case, plain, mapped(partial(_one, row), rows), passes) for row in range(count)], 1)


def _faster(case: Case, engine: Engine, plain: nn.Module, given: Given, rounds: int) -> dict[str, Spread]:
    """How many times as fast it is as what a user would write.

    Where all rows of a batch share a draw, those of a repeated batch do too, which are then no passes: it would get a
    variance that is too small, and is left out.
    """
    found = {}
    shared = case.alone or any(site.scope == "pass" for site in engine.sites)
    for count in TIMED_ROWS:
        rows = mapped(partial(_first, count), given)
        contestants = {
            "engine": partial(engine.predict, rows, TIMED_PASSES),
            "loop": lambda rows=rows: moments(_looped(case, plain, rows, TIMED_PASSES)),
        }
        if not shared:
            contestants["repeated"] = lambda rows=rows: moments(repeated(case, plain, rows, TIMED_PASSES))
        times = interleave(contestants, rounds)
        for name in contestants:
            if name != "engine":
                found[f"{name} {count}"] = Spread.of(times[name] / times["engine"])
    return found


def _first(count: int, x: torch.Tensor) -> torch.Tensor:
    return x[:count]


def _one(row: int, x: torch.Tensor) -> torch.Tensor:
    return x[row : row + 1]


def _center(prediction: Prediction) -> np.ndarray:
    return np.asarray(prediction.mean)


def _spread(prediction: Prediction) -> np.ndarray:
    name = "epistemic_variance" if prediction.task == "regression" else "variance"
    return np.asarray(prediction.values[name])


def _near(found: np.ndarray, wanted: np.ndarray) -> bool:
    if found.shape != wanted.shape:
        found = found.reshape(wanted.shape)  # one logit a row may stand in an axis of its own
    return bool(np.abs(found - wanted).max() <= _CLOSE * max(1.0, np.abs(wanted).max()))


def _bytes(prediction: Prediction) -> bytes:
    return b"".join(b"" if value is None else np.asarray(value).tobytes() for value in prediction.values.values())


def _state(network: nn.Module) -> bytes:
    """Its weights, its buffers and the modes of its modules."""
    held = [x.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for x in network.state_dict().values()]
    return b"".join([*held, bytes(module.training for module in network.modules())])


def _last(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = str(error).strip().splitlines()
    place = f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno}"
    return f"{type(error).__name__} at {place}: {message[0] if message else '(no message)'}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch writes while it exports."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
