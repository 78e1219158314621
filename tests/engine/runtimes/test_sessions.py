"""Sessions of ONNX Runtime: the memory that they keep is shared, and given back after a run that takes much."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from mcdropout.engine import Engine
from mcdropout.engine.program import Graph
from mcdropout.engine.runtimes.sessions import Session, SessionOptions

ROWS, WIDTH = 4096, 4096
VALUES_MIB = ROWS * WIDTH * 4 // 2**20  # of the widest value of a run
resident = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what is resident")

RESIDENT = """
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS"))
"""
RUN = f"""
import sys
from pathlib import Path
import numpy as np
from mcdropout.engine.program import Graph
from mcdropout.engine.runtimes.sessions import Session, SessionOptions
{RESIDENT}
options = SessionOptions(arena=sys.argv[2] == "arena")
sessions = [Session(Graph(Path(sys.argv[1]), ("x",)), options) for _ in range(4)]
few, many = np.ones((1, 8), np.float32), np.ones(({ROWS}, 8), np.float32)
for session in sessions:
    session.run((few,))
before = resident()
sessions[0].run((many,))
print(resident() - before)
for session in sessions[1:]:
    session.run((many,))
print(resident() - before)
sessions[0].trim()
sessions[0].run((few,))
print(resident() - before)
"""
LOAD = f"""
import sys
from mcdropout.engine import Engine
{RESIDENT}
small = Engine.load(sys.argv[1])
before = resident()
engine = Engine.load(sys.argv[2])
print(resident() - before)
"""


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A graph whose only value is wide, and whose answer is not."""
    weight = np.full((8, WIDTH), 0.5, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weight"], ["hidden"]),
            helper.make_node("ReduceMax", ["hidden", "axes"], ["y"], keepdims=0),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array([1], np.int64), "axes")],
    )
    path = tmp_path / "wide.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def _figures(code: str, *arguments: object) -> list[int]:
    """What code prints in a process of its own, in MiB."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return [int(line) for line in subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.split()]


@resident
def test_sessions_share_what_they_keep(wide: Path) -> None:
    one, four, trimmed = _figures(RUN, wide, "arena")
    assert VALUES_MIB - 8 < one < 2 * VALUES_MIB
    assert four < one + VALUES_MIB / 2
    assert trimmed < VALUES_MIB / 2


@resident
def test_without_an_arena_nothing_is_kept(wide: Path) -> None:
    assert max(_figures(RUN, wide, "none")) < VALUES_MIB / 2


def test_a_run_that_trims_answers_the_same(wide: Path) -> None:
    session = Session(Graph(wide, ("x",)), SessionOptions())
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    (plain,) = session.run((x,))
    session.trim()
    (trimmed,) = session.run((x,))
    (again,) = session.run((x,))
    assert plain.shape == (5,)
    assert plain.std() > 0
    assert np.array_equal(plain, trimmed)
    assert np.array_equal(plain, again)


@resident
def test_the_checks_at_load_leave_no_memory_behind(tmp_path: Path) -> None:
    """They run up to 4096 rows at once: what these take is not kept until a request takes as much."""
    for name, width in (("small", 8), ("wide", WIDTH)):
        network = nn.Sequential(nn.Dropout(), nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))
        Engine.from_module(network, np.ones((3, 8), np.float32), runtime="onnx").save(tmp_path / name)
    (grown,) = _figures(LOAD, tmp_path / "small", tmp_path / "wide")
    assert grown < VALUES_MIB / 2
