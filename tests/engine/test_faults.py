"""Faults: whatever a user's code raises, the refusal is a sentence that names the module and the line."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, EngineError, FailedRowsError, InvalidInputError, UnsupportedModelError
from mcdropout.engine.faults import described, refusing
from mcdropout.engine.inspection import inspect as inspect_network
from mcdropout.engine.pytorch.module import understand
from mcdropout.engine.reading import Reading
from tests.engine.networks import Custom, mlp

X = torch.rand(3, 4)


class PeculiarError(Exception):
    """An error whose message cannot even be had."""

    def __str__(self):
        raise RuntimeError("no message today")


def line_of(function):
    """The line after the one on which a function of this file begins."""
    return f"{__file__}:{inspect.getsourcelines(function)[1] + 1}"


def explode(error):
    raise error


class Fragile(nn.Module):
    """A layer that raises an error from its n-th call on (counted over all copies of one network's)."""

    def __init__(self, error, calls):
        super().__init__()
        self.error, self.left = error, [calls]
        self.linear = nn.Linear(4, 4)

    def __deepcopy__(self, memo):
        copied = type(self)(self.error, 0)
        copied.left = self.left  # one counter for all
        copied.linear.load_state_dict(self.linear.state_dict())
        return copied

    def forward(self, x):
        self.left[0] -= 1
        if self.left[0] < 0:
            explode(self.error)
        return F.dropout(self.linear(x), 0.5, self.training)


def fragile(error, calls=0):
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(Fragile(error, calls)), nn.Linear(4, 3))


def refused(module, x=X, **options):
    with pytest.raises(EngineError) as raised:
        Engine.from_module(module, x, **options)
    message = str(raised.value)
    assert message
    assert "\n" not in message
    assert not message.endswith(".")
    return raised.value


def message_of(module, runtime):
    """Why a network is refused; None where it is not."""
    try:
        Engine.from_module(module, X, runtime=runtime)
    except UnsupportedModelError as error:
        return str(error)


ERRORS = [
    ValueError("two lines\nof which one counts"),
    KeyError("missing"),
    AssertionError(),
    NotImplementedError("not yet."),
    StopIteration(),
    RecursionError("too deep"),
    AttributeError("nothing of that name"),
    TypeError("no such type"),
    ZeroDivisionError("division by zero"),
    PeculiarError(),
    ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    SystemExit(3),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_any_error_of_a_forward_pass_is_a_refusal_that_names_module_and_line(error):
    raised = refused(fragile(error))
    assert isinstance(raised, UnsupportedModelError)
    assert f"({type(error).__name__} in 1.0, {line_of(explode)})" in str(raised)
    assert raised.__cause__ is error


@pytest.mark.wide
@pytest.mark.parametrize("runtime", ["auto", "eager"])
def test_so_is_one_that_is_raised_at_any_later_moment(runtime):
    counted = fragile(ValueError("enough"), 10**6)
    Engine.from_module(counted, X, runtime=runtime)
    calls = 10**6 - counted[1][0].left[0]
    messages = [message_of(fragile(ValueError("enough"), call), runtime) for call in range(calls)]
    for message in filter(None, messages):  # in some places the engine does without
        assert "enough (ValueError in " in message
        assert line_of(explode) in message
    assert all(messages[:5])


def test_an_error_of_inspection_is_the_inspections():
    reading = Reading("classification")
    whole = fragile(ValueError("enough"), 10**6)
    inspect_network(lambda: understand(whole, X), reading)
    calls = 10**6 - whole[1][0].left[0]
    for call in range(0, calls, 3):
        module = fragile(ValueError("enough"), call)
        found = inspect_network(lambda module=module: understand(module, X), reading)
        assert found.engine is not None or "enough (ValueError in " in found.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("call", [0, 1, 2, 3, 5, 8])
def test_what_says_nothing_of_the_network_passes_through(error, call):
    with pytest.raises(error):
        Engine.from_module(fragile(error(), call), X, runtime="eager")


def test_the_line_is_that_of_the_code_that_called_what_failed_in_pytorch():
    def forward(self, x):
        return x @ torch.ones(7, 3)

    raised = refused(nn.Sequential(Custom(forward), nn.Dropout(0.5)))
    assert f"(RuntimeError in 0, {line_of(forward)})" in str(raised)


def test_a_module_without_code_of_its_own_is_named_alone():
    assert "(RuntimeError in 0)" in str(refused(mlp(), torch.rand(3, 7)))


def test_the_module_is_named_where_the_network_is_part_of_no_other():
    raised = refused(Custom(lambda self, x: explode(ValueError("no"))))
    assert f"no (ValueError in (network), {line_of(explode)})" in str(raised)


def test_a_network_that_does_not_even_name_its_modules_is_refused():
    class Nameless(nn.Sequential):
        def named_modules(self, *_, **__):
            raise LookupError("no names")

    assert f"no names (LookupError in {__file__}:" in str(refused(Nameless(*mlp())))


def test_what_a_message_announces_belongs_to_it():
    raised = refused(fragile(ValueError("Error(s) in this:\n\tMissing keys: a, b.\n\tand more")))
    assert "3, 4]]: Error(s) in this: Missing keys: a, b (ValueError in 1.0, " in str(raised)


def test_the_engines_own_errors_pass_through_as_they_are():
    own = UnsupportedModelError("for this reason")
    with pytest.raises(UnsupportedModelError) as raised, refusing("the network fails"):
        raise own
    assert raised.value is own


def test_a_fault_without_modules_is_described_by_its_line():
    with pytest.raises(ValueError, match="no") as raised:
        explode(ValueError("no"))
    assert described(raised.value).startswith("no (ValueError in ")
    assert described(raised.value).endswith(f"{line_of(explode)})")


@pytest.mark.parametrize("module", [lambda x: x, "network", None, nn.Linear, [nn.Linear(4, 3)]])
def test_what_is_no_module_is_refused_as_such(module):
    assert str(refused(module)).endswith("a torch.nn.Module is accepted")


@pytest.mark.parametrize(
    "options",
    [
        {"task": "sorting"},
        {"task": ["classification"]},
        {"temperature": "hot"},
        {"temperature": True},
        {"temperature": None},
        {"temperature": float("nan")},
        {"task": "regression", "noise_variance": "much"},
        {"task": "regression", "noise_variance": True},
        {"interval": True},
        {"row_axis": "first"},
        {"row_axis": 1.5},
        {"row_axis": True},
        {"row_axis": -1},
        {"row_axis": 7},
        {"row_axis": None},
        {"output_row_axis": "first"},
        {"output_row_axis": 9},
        {"output": 3.5},
        {"output": []},
        {"output": {"mean": 0}},
        {"device": 3},
        {"runtime": 3},
        {"step_bytes": "much"},
    ],
    ids=str,
)
def test_arguments_that_cannot_be_used_are_refused(options):
    refused(mlp(), **options)


@pytest.mark.parametrize("x", [None, "text", [], (), {}, object(), [[1.0], [1.0, 2.0]], (X, None), {"x": "a"}])
def test_examples_that_cannot_be_used_are_refused(x):
    refused(mlp(), x)


def choosy(self, x):
    if (x.abs() > 50).any():
        raise ValueError("out of range")
    return self.out(self.drop(x))


@pytest.mark.parametrize("passes", [0, 4])
def test_what_a_network_raises_for_some_rows_is_an_error_of_the_engine(passes):
    engine = Engine.from_module(Custom(choosy, drop=nn.Dropout(0.3), out=nn.Linear(4, 3)), torch.rand(3, 4))
    with pytest.raises(
        FailedRowsError, match=r"fails for these rows: out of range \(ValueError in .*; rows that it was"
    ):
        engine.predict(torch.full((1, 4), 1e4), passes)
    assert np.isfinite(engine.predict(torch.rand(1, 4), passes).mean).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sessions": 3}, "sessions is 3; SessionOptions are accepted"),
        ({"shapes": 5}, "shapes is 5; the shape of a row is accepted"),
        ({"shapes": ("n",), "sizes": 3}, "sizes is 3; for each name in shapes"),
        ({"selection": "a"}, "selection is 'a'; a Selection"),
        ({"missing": "a"}, "missing is 'a'; True or False is accepted"),
        ({"step_bytes": -5}, "step_bytes is -5; a number of bytes above 0 is accepted"),
        ({"task": "regression", "quantiles": 3}, "quantiles is 3; levels between 0 and 1"),
    ],
    ids=str,
)
def test_an_argument_of_another_type_is_named(arguments, said):
    with pytest.raises(InvalidInputError) as refused:
        Engine.from_module(nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)), torch.rand(3, 4), **arguments)
    assert str(refused.value).startswith(said)


def test_a_path_that_is_none_is_named(tmp_path):
    engine = Engine.from_module(nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)), torch.rand(3, 4))
    engine.save(tmp_path / "saved")
    (tmp_path / "file").write_text("")
    for call, said in (
        (lambda: Engine.from_onnx(None, torch.rand(3, 4)), "path is of the type NoneType; a path"),
        (lambda: Engine.from_onnx(b"graph", torch.rand(3, 4)), "path is of the type bytes; a path"),
        (lambda: Engine.load(None), "folder is of the type NoneType; a path"),
        (lambda: Engine.load(tmp_path / "saved", "binary"), "reading is 'binary'; a Reading"),
        (lambda: engine.save(3), "folder is of the type int; a path"),
        (lambda: engine.save(tmp_path / "file"), f"folder is '{tmp_path / 'file'}', which is a file"),
    ):
        with pytest.raises(InvalidInputError) as refused:
            call()
        assert str(refused.value).startswith(said)
