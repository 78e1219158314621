"""Draws: randomness that a network was seen to use beside its random calls, and whether a mask can stand for it."""

from collections.abc import Iterable

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.pytorch.elsewhere import NUMPY, OWN, PYTHON
from mcdropout.engine.pytorch.seeding import repeated
from mcdropout.engine.pytorch.tracked import Draw, Recording
from mcdropout.engine.sites import site_name

ACCEPTED = "dropout calls of PyTorch, and uniform, normal, Bernoulli, exponential and whole numbers, are accepted"
"""What masks stand for, in words."""
_TAKEN_FROM_PYTHON = (
    *("bernoulli", "native_dropout", "normal", "rand", "uniform_"),  # rand_like, randn, randint, randperm, random_ too
    *("exponential_", "geometric_", "cauchy_", "log_normal_", "multinomial"),
)


def check_seeding(first: Recording, another: Recording) -> None:
    """Numbers that repeat are none that a mask could stand for."""
    if (found := repeated(first.set, another.set)) is None:
        return
    key, generator = found
    why = "set to the same seed in each pass" if generator.seed is not None else "put back to an earlier state"
    raise UnsupportedModelError(
        f"{site_name(*key)} draws from a generator that the network's own code has {why} (torch.manual_seed, "
        "torch.set_rng_state and torch.random.fork_rng do so), so that its numbers repeat; one is accepted that leaves "
        "its generators to go on, with numbers that are to stay the same in a buffer, and a mask that is to be used "
        "twice drawn once"
    )


def is_pytorchs(draw: Draw) -> bool:
    return draw.operator not in (PYTHON, NUMPY, OWN)


def certain_draws(one: Recording, another: Recording) -> list[Draw]:
    """What the network itself drew: other threads draw from Python's and NumPy's generators too, but not both times.

    And what came out the same both times, though all generators began elsewhere, is not random.
    """
    return [
        draw
        for draw in one.draws
        if (draw in another.draws if not is_pytorchs(draw) else draw.numbers is None or draw not in another.draws)
    ]


def seeded_anew(recording: Recording) -> set[Draw]:
    """What was drawn from a generator that the call names, which may be seeded anew for each."""
    return {draw for draw in recording.draws if draw.numbers is not None}


def blamed_draws(draws: Iterable[Draw]) -> str:
    """Where randomness comes from that no mask can stand for, in words; empty where that is not known."""
    found = list(dict.fromkeys(f"{draw.operator} in {draw.path or '(network)'}" for draw in draws))
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def taken_from_python(draws: Iterable[Draw]) -> str:
    """What to do about draws that would have been taken, had they been seen as calls of PyTorch's Python functions."""
    taken = tuple(f"aten.{name}" for name in _TAKEN_FROM_PYTHON)
    if not any(draw.operator.startswith(taken) for draw in draws):
        return ""
    return (
        " where Python code calls them by their names, with PyTorch's own generator and bounds (functions of "
        "torch.jit.script and of torch.ops hide them)"
    )
