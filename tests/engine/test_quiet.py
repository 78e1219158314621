"""What PyTorch's exporters print is kept from whoever prepares a network, and from nobody else."""

import sys
import threading

import torch
from torch import nn

from mcdropout.engine import Engine
from mcdropout.engine.pytorch.quiet import quiet


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
