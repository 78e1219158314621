"""Fourier transforms: products with cosines and sines are what PyTorch's transforms are, in programs too."""

import pytest
import torch
from torch import nn

from mcdropout.engine import Engine
from mcdropout.engine.pytorch.cut import fourier
from mcdropout.engine.pytorch.cut.dialect import as_onnx_reads_it
from tests.engine.networks import Custom
from tests.engine.test_engine import assert_same, random

TRANSFORMS = {
    "fft": lambda x: torch.fft.fft(x).abs(),
    "ifft": lambda x: torch.fft.ifft(x).imag,
    "fft of all": lambda x: torch.fft.fftn(x, dim=(1, 2)).real,
    "fft along another dimension": lambda x: torch.fft.fft(x, dim=1).real,
    "fft by the root": lambda x: torch.fft.fft2(x, norm="ortho").imag,
    "fft by the points": lambda x: torch.fft.fft2(x, norm="forward").real,
    "rfft": lambda x: torch.fft.rfft(x).abs(),
    "rfft along another dimension": lambda x: torch.fft.rfft(x, dim=1).imag,
    "rfft of all": lambda x: torch.fft.rfft2(x).imag,
    "irfft": lambda x: torch.fft.irfft(torch.fft.rfft(x)[..., :3], n=x.shape[-1]),
    "irfft of all": lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:], norm="ortho"),
    "what passes a filter": lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.linspace(1, 0, x.shape[-1] // 2 + 1)),
    "hfft": lambda x: torch.fft.hfft(torch.complex(x, x.flip(-1)), n=x.shape[-1]),
}


def graph_of(transform, x):
    module = Custom(lambda self, x: transform(x))
    rows = torch.export.Dim("rows")
    program = torch.export.export(module, (x,), dynamic_shapes=(({0: rows},),))
    return program.run_decompositions(fourier.parts_of(program.graph)).module(check_guards=False)


def operators(graph):
    return {str(node.target).split(".")[1] for node in graph.graph.nodes if str(node.target).startswith("aten")}


SHAPES = [(6, 8), (5, 7), (1, 2), (12, 10)]
# A row too short for three terms, and one whose length the terms do not tell.
LEFT_OUT = {("irfft", (1, 2)), ("what passes a filter", (5, 7))}
TRIED = [(name, shape) for name in TRANSFORMS for shape in SHAPES if (name, shape) not in LEFT_OUT]


@pytest.mark.parametrize(("transform", "shape"), TRIED, ids=str)
def test_a_product_is_the_transform(transform, shape):
    x = torch.from_numpy(random(3, *shape))
    graph = graph_of(TRANSFORMS[transform], x)
    written = as_onnx_reads_it(graph)
    assert any(name.startswith("_fft") for name in operators(graph))
    assert not any(name.startswith("_fft") for name in operators(written))
    torch.testing.assert_close(written(x)[0], TRANSFORMS[transform](x), rtol=1e-5, atol=1e-5)


def test_a_transform_of_many_points_stays_one(monkeypatch):
    monkeypatch.setattr(fourier, "_LONGEST", 7)
    for shape, stays in (((3, 7), False), ((3, 8), True), ((8, 3), True)):
        written = as_onnx_reads_it(graph_of(TRANSFORMS["fft of all"], torch.ones(2, *shape)))
        assert any(name.startswith("_fft") for name in operators(written)) is stays


@pytest.mark.wide
@pytest.mark.parametrize("transform", ["fft of all", "rfft", "irfft of all", "what passes a filter"])
def test_a_network_with_a_transform_is_split_and_runs_on_onnx(transform):
    torch.manual_seed(0)

    def forward(self, x):
        return self.last(self.drop(TRANSFORMS[transform](self.drop(self.first(x)))).mean(1))

    width = 5 if transform == "rfft" else 8
    module = Custom(forward, first=nn.Linear(4, 8), drop=nn.Dropout(0.3), last=nn.Linear(width, 3))
    engine = Engine.from_module(module, random(2, 6, 4))
    assert (engine.program.strategy, engine.program.runtime) == ("split", "onnx")
    eager = Engine.from_module(module, random(2, 6, 4), runtime="eager")
    for rows in (1, 5):
        assert_same(engine.predict(random(rows, 6, 4), 20, 1), eager.predict(random(rows, 6, 4), 20, 1), atol=1e-5)
