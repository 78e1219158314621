"""What the engine loads, and when: whoever needs an error or a statistic loads no runtime."""

import json
import subprocess
import sys

import pytest

from mcdropout import engine
from mcdropout.engine.selection import Selection
from tests.patience import patience

LOADED = """
import json, sys
from pathlib import Path
{code}
maps = Path("/proc/self/maps").read_text()
print(json.dumps(
    [name for name in ("torch", "onnx", "onnxruntime") if name in sys.modules]
    + ["the C library"] * ("_native" in maps)
))
"""


def loaded_by(code):
    command = [sys.executable, "-c", LOADED.format(code=code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(120))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="what is mapped into memory is read from /proc")
@pytest.mark.parametrize(
    "code",
    [
        "import mcdropout.engine",
        "from mcdropout.engine import InvalidInputError, Prediction, Selection",
        "import mcdropout.engine.errors",
        "import mcdropout.engine.statistics",
        "from mcdropout.engine.runtimes import TABLE; assert TABLE",
        "from mcdropout.engine import Engine",
    ],
)
def test_no_runtime_is_loaded_before_there_is_a_network(code):
    assert loaded_by(code) == []


def test_the_face_offers_what_is_within_and_nothing_else():
    assert {"Engine", "EngineError", "Program", "Selection", "Site", "Prediction"} <= set(dir(engine))
    assert engine.Selection is Selection
    with pytest.raises(AttributeError, match="no attribute 'Motor'"):
        _ = engine.Motor
