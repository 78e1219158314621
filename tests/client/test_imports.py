"""What a machine needs that only asks."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_face import modules_after

SERVER = {"onnxruntime", "onnx", "torch", "fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"}
OPTIONAL = {"pandas", "PIL"}


@pytest.mark.parametrize("program", ["import mcdropout.client", "from mcdropout import Client, AsyncClient"])
def test_a_client_loads_nothing_of_the_server_and_nothing_optional(program: str, tmp_path: Path) -> None:
    loaded = modules_after(program, tmp_path)
    assert "httpx" in loaded
    assert not (SERVER | OPTIONAL).intersection(loaded)
    rooms = {name.split(".")[1] for name in loaded if name.startswith("mcdropout.")}
    assert rooms == {"client"}


def test_importing_the_face_does_not_load_the_client(tmp_path: Path) -> None:
    assert "httpx" not in modules_after("import mcdropout; dir(mcdropout)", tmp_path)


def test_where_httpx_is_missing_the_error_says_what_to_install(tmp_path: Path) -> None:
    for program in ("from mcdropout import Client", "import mcdropout.client"):
        without = f"import sys; sys.modules['httpx'] = None\n{program}"
        done = subprocess.run([sys.executable, "-c", without], cwd=tmp_path, capture_output=True, text=True)
        assert "the client takes httpx, which is not installed; pip install 'mcdropout[client]'" in done.stderr
