"""Timing contestants in turns, so that a machine that drifts drifts for all of them alike."""

import gc
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

_BLOCK_SECONDS = 0.05
_MOST_CALLS = 200
_SETTLE_SECONDS = 1.0
_MATMUL = 2048
MATMUL_OPERATIONS = 2 * _MATMUL**3

Call = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """The median of repetitions, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Spread":
        low, median, high = np.percentile(values, (25, 50, 75))
        return cls(float(median), float(low), float(high))

    def __str__(self) -> str:
        return f"{_digits(self.median)} ({_digits(self.low)}..{_digits(self.high)})"


def interleave(calls: Mapping[str, Call], repeat: int, *, settle: bool = True) -> dict[str, np.ndarray]:
    """Seconds a call, `[repeat]` each: in every round each contestant has its turn, in an order drawn anew.

    A turn is one untimed call, then as many timed ones as fill a twentieth of a second.

    Args:
        calls: the contestants.
        repeat: how many rounds.
        settle: whether a turn waits for the threads of the one before to stop spinning (ONNX Runtime's and OpenMP's
            wait busily for more work, on cores that the next contestant needs).
    """
    counts = {name: _calls_a_turn(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    gc.collect()
    gc.freeze()  # what exporting a network leaves behind would cost whoever runs when it is walked through
    for number in range(repeat):
        print(f"\r  round {number + 1} of {repeat}", end="", file=sys.stderr, flush=True)
        shuffle(order)
        for name in order:
            if settle:
                _settle()
            call, count = calls[name], counts[name]
            call()
            start = time.perf_counter()
            for _ in range(count):
                call()
            times[name].append((time.perf_counter() - start) / count)
    print("\r" + " " * 30 + "\r", end="", file=sys.stderr, flush=True)
    gc.unfreeze()
    return {name: np.array(values) for name, values in times.items()}


def matmuls() -> dict[str, Call]:
    """A float32 multiplication of two 2048 x 2048 matrices by each library at hand."""
    generator = np.random.default_rng(0)
    left, right = (generator.standard_normal((_MATMUL, _MATMUL), dtype=np.float32) for _ in range(2))
    shape = [_MATMUL, _MATMUL]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "matmul", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    tensors = torch.from_numpy(left), torch.from_numpy(right)
    return {
        "matmul, torch": lambda: tensors[0] @ tensors[1],
        "matmul, onnxruntime": lambda: session.run(None, {"a": left, "b": right}),
    }


def _calls_a_turn(call: Call) -> int:
    call()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    return max(1, min(_MOST_CALLS, round(_BLOCK_SECONDS / seconds)))


def _settle() -> None:
    """Wait until this process uses no processor."""
    deadline = time.perf_counter() + _SETTLE_SECONDS
    while time.perf_counter() < deadline:
        used = time.process_time()
        time.sleep(0.01)
        if time.process_time() - used < 0.001:
            return


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(value))))}f}" if value > 0 else f"{value:.0f}"
