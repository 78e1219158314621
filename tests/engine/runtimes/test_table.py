"""The table of runtimes: in which order they are tried, what each refuses, and that one may be added."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mcdropout.api.schemas import ProgramDescription
from mcdropout.engine import Engine, InvalidInputError, UnsupportedModelError
from mcdropout.engine.candidates import candidates
from mcdropout.engine.chain import Chain
from mcdropout.engine.native import library
from mcdropout.engine.program import Cost, Graph, Graphs, Outline
from mcdropout.engine.runtimes import (
    TABLE,
    Form,
    FormError,
    Refusal,
    Runnable,
    RuntimeKind,
    Target,
    described,
    names,
    register,
)
from mcdropout.engine.runtimes.onnx import OnnxRuntime
from mcdropout.engine.runtimes.sessions import SessionOptions
from tests.engine.networks import mlp

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
NO_CHAIN = "it takes float32 linear layers, one after another, with ReLU and element-wise dropout between them"
GRAPHS = Graphs(None, Graph(Path("suffix.onnx"), ()), Outline())
needs_extension = pytest.mark.skipif(not library.available(), reason="the C extension was not built")


@dataclasses.dataclass(frozen=True)
class Worth(Chain):
    """A chain of which it is known whether it runs faster than a dense program."""

    is_worthwhile: bool = True

    @property
    def worthwhile(self):
        return self.is_worthwhile


CHAIN = dataclasses.replace(GRAPHS, chain=Worth((), None))
SLOW_CHAIN = dataclasses.replace(GRAPHS, chain=Worth((), None, is_worthwhile=False))


def program(strategy="split", graphs=GRAPHS):
    """One that PyTorch made."""
    return Runnable(strategy, Outline(), lambda: Cost(0, 0), {Form.MODULES: lambda: None, Form.GRAPHS: lambda: graphs})


def unwritten(strategy="split"):
    """One that cannot be written as ONNX."""

    def fail():
        raise FormError("no exporter writes it")

    return Runnable(strategy, Outline(), lambda: Cost(0, 0), {Form.MODULES: lambda: None, Form.GRAPHS: fail})


LOOP = Runnable("loop", Outline(), lambda: Cost(0, 0), {Form.EAGER: lambda: lambda device: None})


def ways(programs, **target):
    """The strategy and the runtime of each candidate, or the reason why there is none."""
    return [
        way.reason if isinstance(way, Refusal) else (way.program.strategy, way.kind.name)
        for way in candidates(programs, Target(**target))
    ]


def kind(name="mine", rank=0, **more):
    """A runtime that takes the place of ONNX Runtime."""
    return RuntimeKind(
        name=name,
        rank=rank,
        takes=Form.GRAPHS,
        build=lambda program, target: OnnxRuntime(program.graphs(), target.options),
        **more,
    )


@pytest.fixture
def mine():
    yield register(kind(note="this test's"))
    del TABLE["mine"]


class TestCandidates:
    def test_are_tried_by_program_and_then_in_the_order_of_the_table(self):
        assert names() == ("auto", "sparse", "onnx", "torch", "eager")
        assert ways([program(), program("whole"), LOOP]) == [
            ("split", "onnx"),
            ("split", "torch"),
            ("whole", "onnx"),
            ("whole", "torch"),
            ("loop", "eager"),
        ]

    @needs_extension
    def test_begin_with_the_sparse_kernel_where_it_is_worthwhile(self):
        assert ways([program(graphs=CHAIN)]) == [("split", "sparse"), ("split", "onnx"), ("split", "torch")]
        assert ways([program(graphs=SLOW_CHAIN)]) == [("split", "onnx"), ("split", "torch")]
        assert ways([program(graphs=SLOW_CHAIN)], runtime="sparse") == [("split", "sparse")]

    @needs_extension
    def test_leave_it_out_where_something_else_than_the_cpu_executes_graphs(self):
        found = ways([program(graphs=CHAIN)], options=SessionOptions(provider="cuda"))
        assert found == [("split", "onnx"), ("split", "torch")]

    def test_are_of_the_runtime_alone_that_is_asked_for(self):
        assert ways([program(), LOOP], runtime="torch") == [("split", "torch")]
        assert ways([program(), LOOP], runtime="eager") == [("loop", "eager")]

    def test_are_what_runs_on_the_device(self):
        assert ways([program(graphs=CHAIN), LOOP], device="cuda") == [("split", "torch"), ("loop", "eager")]

    @needs_extension
    def test_say_why_a_runtime_refuses_where_it_was_asked_for(self):
        assert ways([program()], runtime="sparse") == [NO_CHAIN]
        assert NO_CHAIN not in ways([program()])

    def test_say_without_being_asked_what_failed_and_once_for_each_program(self):
        assert ways([Refusal("nobody can follow it"), unwritten(), program("whole")]) == [
            "nobody can follow it",
            "split program: no exporter writes it",
            ("split", "torch"),
            ("whole", "onnx"),
            ("whole", "torch"),
        ]

    def test_of_which_there_are_none_refuse_a_network_with_all_reasons(self, monkeypatch):
        monkeypatch.delattr("mcdropout.engine.pytorch.cut.forms.convert")
        one = r"program: torch\.onnx\.export cannot write it: NameError: name 'convert' is not defined"
        with pytest.raises(UnsupportedModelError, match=f"the network cannot run on onnx: split {one}; whole {one}$"):
            Engine.from_module(mlp(), X, runtime="onnx")


class TestTargets:
    def test_name_the_runtimes_that_there_are(self, mine):
        with pytest.raises(InvalidInputError) as error:
            Target(runtime="theirs").check()
        assert str(error.value) == (
            'runtime is \'theirs\'; "auto", "mine", "sparse", "onnx", "torch" or "eager" would be accepted'
        )
        Target(runtime="mine").check()

    @pytest.mark.parametrize("name", ["sparse", "onnx"])
    def test_on_another_device_name_a_runtime_that_runs_there(self, monkeypatch, name):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        with pytest.raises(InvalidInputError, match="which runs on the CPU; on 'cuda', \"torch\" is accepted"):
            Target(device="cuda", runtime=name).check()
        Target(device="cuda", runtime="torch").check()


class TestARuntimeThatIsAdded:
    def test_is_used_where_it_is_asked_for_and_first_where_it_ranks_first(self, mine):
        for name in ("mine", "auto"):
            assert Engine.from_module(mlp(), X, runtime=name).program.runtime == "mine"
        assert Engine.from_module(mlp(), X, runtime="onnx").program.runtime == "onnx"

    def test_answers_what_others_do(self, mine):
        found, wanted = (Engine.from_module(mlp(), X, runtime=name).predict(X, 20, 1) for name in ("mine", "torch"))
        np.testing.assert_allclose(found.mean, wanted.mean, atol=1e-5)

    def test_can_be_written_and_loaded_where_it_takes_graphs(self, mine, tmp_path):
        Engine.from_module(mlp(), X, runtime="mine").save(tmp_path)
        assert Engine.load(tmp_path).program.runtime == "mine"

    def test_is_in_the_documents(self, mine):
        described_as = '"mine" (this test\'s), "sparse", "onnx", "torch" or "eager" (the module itself)'
        assert described() == described_as
        schema = ProgramDescription.model_json_schema()
        assert schema["properties"]["runtime"]["description"] == f"{described_as}."

    def test_may_be_last_and_is_then_not_used_unless_asked_for(self):
        register(kind("late", rank=99))
        try:
            assert names()[-1] == "late"
            assert Engine.from_module(mlp(), X).program.runtime == "onnx"
        finally:
            del TABLE["late"]

    @pytest.mark.parametrize("name", ["onnx", "auto"])
    def test_may_not_take_a_name_that_is_taken(self, name):
        with pytest.raises(ValueError, match=f"called '{name}', which is taken"):
            register(kind(name))
