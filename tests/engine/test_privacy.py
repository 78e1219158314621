"""Nothing is reported to anyone."""

import os
import subprocess
import sys
from pathlib import Path


def test_onnx_runtime_keeps_no_identifier_and_no_reports_of_a_run(tmp_path: Path) -> None:
    program = (
        "import torch; from torch import nn; from mcdropout.engine import Engine\n"
        "network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3))\n"
        "Engine.from_module(network, torch.rand(2, 4), runtime='onnx').predict(torch.rand(2, 4))"
    )
    unset = ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment | {"HOME": str(tmp_path)})
    assert not list(tmp_path.rglob("*onnxruntime*"))
