"""What PyTorch's exporters print is kept from whoever prepares a network, and from nobody else."""

import sys
import threading

import pytest
import torch
from torch import nn

from mcdropout.engine import Engine
from mcdropout.engine.pytorch.quiet import quiet
from tests.engine.networks import mlp


class LayerDrop(nn.Module):
    """Leaves layers out by a number, which no exporter follows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), nn.Linear(4, 3)

    def forward(self, x):
        for layer in self.layers:
            if not self.training or torch.rand(()).item() >= 0.3:
                x = x + torch.relu(layer(x))
        return self.head(x)


def test_a_network_that_no_exporter_follows_is_prepared_in_silence(capsys):
    assert Engine.from_module(LayerDrop(), torch.randn(3, 4)).program.runtime == "eager"
    assert capsys.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_is_mapped_without_a_rule_is_prepared_and_run_in_silence(capfd):
    quantized = torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear})
    engine = Engine.from_module(quantized, torch.randn(3, 4))
    assert engine.program.strategy == "mapped"
    engine.predict(torch.randn(3, 4), 5)
    assert "performance drop" not in capfd.readouterr().err
    torch.func.vmap(quantized)(torch.randn(3, 1, 4))  # the user's own is warned of as before
    assert "performance drop" in capfd.readouterr().err


class Eigenvalues(nn.Module):
    """Ends in what no ONNX operator does."""

    def __init__(self):
        super().__init__()
        self.rest = mlp()

    def forward(self, x):
        return torch.linalg.eigvals(torch.diag_embed(self.rest(x))).real


def test_why_it_is_not_written_as_onnx_is_said_in_plain_text():
    reason = Engine.from_module(Eigenvalues(), torch.randn(3, 4)).program.reason
    assert "No ONNX function found for <OpOverload(op='aten.linalg_eig'" in reason
    assert "\x1b" not in reason
    assert "step 3/3" not in reason


def test_only_the_thread_that_is_quiet_prints_nothing(capsys):
    streams = sys.stdout, sys.stderr
    begun, printed, ended = threading.Event(), threading.Event(), threading.Event()

    def other():
        with quiet():
            begun.set()
            print("never")
            printed.wait()
        print("the other, afterwards")
        ended.set()

    thread = threading.Thread(target=other)
    with quiet():
        thread.start()
        begun.wait()
        print("never", file=sys.stderr)
        with quiet():
            print("never")
        print("never")
    print("this one, meanwhile")
    printed.set()
    assert ended.wait(30)
    thread.join()
    assert capsys.readouterr() == ("this one, meanwhile\nthe other, afterwards\n", "")
    assert (sys.stdout, sys.stderr) == streams
