"""What `import mcdropout` costs, and where it comes from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mcdropout

HEAVY = ("onnxruntime", "onnx", "torch", "fastapi", "mcdropout.engine.native.chains")


def modules_after(program: str, folder: Path) -> list[str]:
    """The modules that a new process has loaded after a program."""
    listing = f"{program}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", listing], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    loaded: list[str] = json.loads(output)
    return loaded


@pytest.mark.parametrize(
    "program",
    [
        "import mcdropout",
        "from mcdropout import InvalidInputError",
        "from mcdropout import Prediction",
        "from mcdropout.engine.errors import EngineError",
        "import mcdropout; mcdropout.__version__",
    ],
)
def test_neither_an_error_nor_a_prediction_loads_a_runtime(program: str, tmp_path: Path) -> None:
    loaded = modules_after(program, tmp_path)
    assert not set(HEAVY).intersection(loaded)


def test_the_package_is_found_in_a_folder_that_has_a_service_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise ImportError('the folder is the user\\'s')")
    assert "mcdropout.engine.engine" in modules_after("from mcdropout import Engine", tmp_path)


def test_every_name_of_the_face_is_there_and_others_are_refused_with_those_that_are() -> None:
    for name in dir(mcdropout):
        assert getattr(mcdropout, name) is not None
    with pytest.raises(AttributeError, match=r"no 'Motor'; .*Engine"):
        _ = mcdropout.Motor
