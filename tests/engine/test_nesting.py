"""Networks that take their inputs in lists, tuples and dicts."""

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine, InvalidInputError
from mcdropout.engine.inputs import as_examples
from mcdropout.engine.nesting import flattened, nested
from tests.engine.networks import Custom

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
X = torch.linspace(-1, 1, 8).reshape(2, 4)


def parts():
    torch.manual_seed(0)
    return {"embedding": nn.Embedding(9, 4), "drop": nn.Dropout(0.5), "head": nn.Linear(4, 3)}


class Keywords(Custom):
    """`forward` is called by keyword."""

    def forward(self, **inputs):
        return self._run(self, **inputs)


def of_three(self, ids, mask, x):
    kept = mask[..., None].float()
    return self.head(self.drop((self.embedding(ids) * kept).sum(1) + x))


FLAT = (IDS, MASK, X)
FORMS = {
    "a dict": (
        lambda self, batch: of_three(self, batch["ids"], batch["mask"], batch["x"]),
        ({"ids": IDS, "mask": MASK, "x": X},),
    ),
    "a list": (lambda self, batch: of_three(self, *batch), ([IDS, MASK, X],)),
    "a tuple beside an array": (lambda self, x, tokens: of_three(self, *tokens, x), (X, (IDS, MASK))),
    "a dict in a dict by keyword": (
        lambda self, *, batch, x: of_three(self, batch["text"]["ids"], batch["text"]["mask"], x),
        {"batch": {"text": {"ids": IDS, "mask": MASK}}, "x": X},
    ),
    "a list of dicts": (
        lambda self, parts: of_three(self, parts[0]["ids"], parts[1]["mask"], parts[0]["x"]),
        ([{"ids": IDS, "x": X}, {"mask": MASK}],),
    ),
}


def made(forward):
    by_keyword = forward is FORMS["a dict in a dict by keyword"][0]
    return (Keywords if by_keyword else Custom)(forward, **parts())


@pytest.mark.wide
@pytest.mark.parametrize("runtime", ["torch", "eager"])
@pytest.mark.parametrize("form", FORMS)
def test_answers_are_those_of_the_network_that_takes_them_one_by_one(form, runtime):
    forward, example = FORMS[form]
    engine = Engine.from_module(made(forward).eval(), example, runtime=runtime)
    flat = Engine.from_module(Custom(of_three, **parts()).eval(), FLAT, runtime=runtime)
    for passes in (0, 20):
        found, wanted = engine.predict(example, passes, 3), flat.predict(FLAT, passes, 3)
        np.testing.assert_allclose(found.mean, wanted.mean, rtol=0, atol=1e-6)
    names = [spec.name for spec in engine.inputs]
    by_path = engine.predict(flattened(example), 20, 3)
    assert list(flattened(example)) == names
    np.testing.assert_array_equal(by_path.mean, found.mean)


def test_a_saved_one_takes_them_as_before(tmp_path):
    forward, example = FORMS["a dict in a dict by keyword"]
    engine = Engine.from_module(made(forward).eval(), example, runtime="onnx")
    engine.save(tmp_path)
    np.testing.assert_array_equal(Engine.load(tmp_path).predict(example, 9, 1).mean, engine.predict(example, 9, 1).mean)


def test_others_than_the_examples_are_refused_by_their_paths():
    forward, example = FORMS["a dict"]
    engine = Engine.from_module(made(forward).eval(), example, runtime="eager")
    with pytest.raises(InvalidInputError, match=r"\['0.ids'\] were given; \['0.ids', '0.mask', '0.x'\] are accepted"):
        engine.predict(({"ids": IDS},))
    with pytest.raises(InvalidInputError, match=r"'0.ids' has the shape \[2, 2\]"):
        engine.predict(({"ids": IDS[:, :2], "mask": MASK, "x": X},))


def test_paths_and_what_they_are_of_are_the_same_thing():
    given = ({"a": X, "b": [IDS, {"c": MASK}]}, X)
    paths = flattened(given)
    assert list(paths) == ["0.a", "0.b.0", "0.b.1.c", "1"]
    assert nested(list(paths), paths.values()) == (({"a": X, "b": [IDS, {"c": MASK}]}, X), {})
    for flat in ((X, IDS), {"x": X}, X, [X, X], ([[1.0, 2.0]], X)):
        assert flattened(flat) is flat


@pytest.mark.parametrize("given", [([X, X],), ({"x": X},), {"batch": [X.numpy(), X.numpy()]}])
def test_a_graph_which_takes_arrays_alone_refuses_them(given):
    with pytest.raises(InvalidInputError, match=r"is a (list|dict) of \d; an array for each input of the graph"):
        as_examples(given, (0,), 3)
