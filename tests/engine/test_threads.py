"""How many threads compute, and that they rest when nothing is computed."""

import os
import subprocess
import sys

import pytest

from mcdropout.engine.threads import pool
from mcdropout.machine import physical_cores
from tests.patience import patience
from tests.servers import ROOT


def test_two_threads_of_a_core_count_once(tmp_path):
    for cpu in range(max(os.sched_getaffinity(0)) + 1):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text("0\n")
        (topology / "core_id").write_text("0\n")
    assert physical_cores(tmp_path, tmp_path / "none") == 1
    assert physical_cores(tmp_path / "none", tmp_path / "none") == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("100000 100000", 1), ("150000 100000", 2), ("max 100000", 8), ("nonsense", 8), ("5 100000", 1)],
)
def test_a_container_has_as_many_as_its_time_is_worth(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(quota)
    assert physical_cores(tmp_path, tmp_path / "cpu.max") == cores


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=patience(120), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


SPIN = """
import os, time
from pathlib import Path
import numpy as np
from mcdropout.engine import Engine
from mcdropout.engine.threads import use_threads
use_threads(4)
engine = Engine.load(Path("models/mnist-cnn/compiled"))
idle = []
for _ in range(10):
    engine.predict(np.zeros((8, 1, 28, 28), np.float32), 50, 1)
    began = time.process_time()
    time.sleep(0.05)
    idle.append(time.process_time() - began)
print(len(os.listdir("/proc/self/task")), np.median(idle))
"""


def test_threads_take_no_processor_time_between_runs():
    threads, idle = run(SPIN)
    assert int(threads) > 4
    assert float(idle) < 0.01  # a fifth of what one thread would take that spins meanwhile


def test_another_number_is_refused_once_something_was_computed():
    told = run(
        """
from mcdropout.engine.threads import thread_count, use_threads
from mcdropout.engine import InvalidInputError
use_threads(3)
use_threads(2)
print(thread_count())
use_threads(2)
try:
    use_threads(4)
except InvalidInputError as error:
    print(error)
for wrong in 0, 5000:
    try:
        use_threads(wrong)
    except InvalidInputError as error:
        print(error)
"""
    )
    assert told[0] == "2"
    assert " ".join(told).count("accepted") == 3


def test_answers_do_not_depend_on_the_number_of_threads():
    code = """
import numpy as np
from mcdropout.engine import Engine
from mcdropout.engine.threads import use_threads
use_threads({threads})
x = np.random.default_rng(0).random((9, 1, 28, 28), np.float32)
for name in "mnist-mlp", "mnist-vit", "mnist-dropconnect":
    print(Engine.load(f"models/{name}/compiled".format(name=name)).predict(x, 40, 3).mean.sum(0).round(6).tolist())
"""
    one, three = (run(code.replace("{threads}", str(threads))) for threads in (1, 3))
    assert one == three


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_threads_that_compute_give_way_and_others_do_not():
    here = os.getpriority(os.PRIO_PROCESS, 0)
    there = pool().submit(os.getpriority, os.PRIO_PROCESS, 0).result()
    assert here < there <= here + 5
    assert os.getpriority(os.PRIO_PROCESS, 0) == here
