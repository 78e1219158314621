"""Traps of rows: dimensions of one entry that are taken for none, and maps over rows or members of an ensemble."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, UnsupportedModelError, VerificationError
from tests.engine.networks import Custom, mlp

X = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
MAPS = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def pooled(self, x):
    return self.last(self.drop(F.adaptive_avg_pool2d(self.first(x), 1).squeeze()))


def pooled_at_the_end(self, x):
    return F.adaptive_avg_pool2d(self.first(self.drop(x)), 1).squeeze()


def needs_two(self, x):
    if len(x) < 2:
        raise ValueError("Expected more than 1 value per channel")
    return self.net(x)


def convolutions():
    torch.manual_seed(0)
    return {"first": nn.Conv2d(3, 8, 3), "drop": nn.Dropout(0.3), "last": nn.Linear(8, 4)}


SQUEEZED = {
    "at the end of a regression": (
        lambda: Custom(lambda s, x: s.net(x).squeeze(), net=mlp(outputs=1)),
        X,
        "regression",
    ),
    "by all that are one": (lambda: Custom(lambda s, x: s.net(x)[:, None].squeeze(), net=mlp()), X, "classification"),
    "the rows themselves": (lambda: Custom(lambda s, x: s.net(x).squeeze(0), net=mlp()), X, "classification"),
    "before dropout": (lambda: Custom(pooled, **convolutions()), MAPS, "classification"),
    "after a pooling": (lambda: Custom(pooled_at_the_end, **convolutions()), MAPS, "classification"),
    "a network that refuses one row": (lambda: Custom(needs_two, net=mlp()), X, "classification"),
}


@pytest.mark.wide
@pytest.mark.parametrize(
    ("case", "runtime"),
    [
        *((case, "eager") for case in SQUEEZED),
        *((case, "torch") for case in list(SQUEEZED)[:5]),
        *((case, "onnx") for case in list(SQUEEZED)[:1]),
    ],
)
def test_a_row_alone_is_answered_as_it_is_beside_others_where_its_dimension_is_squeezed_away(case, runtime):
    make, x, task = SQUEEZED[case]
    engine = Engine.from_module(make(), x, task, runtime=runtime)
    together = engine.samples(x, 7, 1)
    for row in range(3):
        alone = engine.run((x[row : row + 1].numpy(),), [1], [row], 7, samples=True).samples
        np.testing.assert_allclose(alone[0], together[:, row], atol=1e-5)
    assert engine.predict(x[:1], 0).mean.shape[0] == 1
    if runtime != "eager":
        assert engine.program.strategy == "split"


ROWS_SEEN = []  # a list in a closure would be copied with the function


def test_a_network_that_takes_one_row_as_any_other_is_called_with_one():
    def forward(self, x):
        ROWS_SEEN.append(len(x))
        return self.net(x)

    engine = Engine.from_module(Custom(forward, net=mlp()), X, runtime="eager")
    ROWS_SEEN.clear()
    engine.predict(X[:1], 1)
    assert ROWS_SEEN == [1]


def ensemble(randomness):
    """The mean of three members, which are run at once."""
    torch.manual_seed(1)
    members = [mlp() for _ in range(3)]
    for member in members:
        nn.init.normal_(member[0].weight)

    def forward(self, x):
        parameters, buffers = torch.func.stack_module_state(list(self.members))

        def one(parameters, buffers, x):
            return torch.func.functional_call(self.members[0], (parameters, buffers), (x,))

        return torch.func.vmap(one, (0, 0, None), randomness=randomness)(parameters, buffers, x).mean(0)

    return Custom(forward, members=nn.ModuleList(members))


def member(module, x, mask):
    return module[3](F.relu(module[0](x)) * mask)


@pytest.mark.parametrize("runtime", ["eager", "torch"])
def test_members_of_an_ensemble_that_draw_apart_have_masks_of_their_own(runtime):
    module = ensemble("different")
    engine = Engine.from_module(module, X, runtime=runtime)
    (site,) = engine.sites
    assert (site.scope, site.mask_shape) == ("row", (3, 16))
    mask = engine.masks(3, 0, 0, 3)[0]  # three passes of a row, as if they were rows
    (found,) = engine.outputs(X, [mask])
    parts = [member(part, X, torch.from_numpy(mask[:, i])) for i, part in enumerate(module.members)]
    np.testing.assert_allclose(found, torch.stack(parts).mean(0).detach(), atol=1e-5)


def test_members_of_an_ensemble_that_share_what_they_draw_have_one_mask():
    module = ensemble("same")
    engine = Engine.from_module(module, X, runtime="eager")
    assert engine.sites[0].mask_shape == (16,)
    mask = engine.masks(3, 0, 0, 3)[0]
    (found,) = engine.outputs(X, [mask])
    parts = [member(part, X, torch.from_numpy(mask)) for part in module.members]
    np.testing.assert_allclose(found, torch.stack(parts).mean(0).detach(), atol=1e-5)


def test_members_of_an_ensemble_that_may_not_draw_are_refused_with_what_is_accepted():
    with pytest.raises(UnsupportedModelError, match=r"members\.0\.2 drops within a torch\.vmap .* is accepted"):
        Engine.from_module(ensemble("error"), X)


@pytest.mark.parametrize(("randomness", "scope", "shape"), [("different", "row", (16,)), ("same", "pass", (16,))])
def test_rows_that_are_mapped_over_draw_as_the_map_says(randomness, scope, shape):
    module = Custom(lambda self, x: torch.func.vmap(self.net, randomness=randomness)(x), net=mlp())
    engine = Engine.from_module(module, X, runtime="eager")
    (site,) = engine.sites
    assert (site.scope, site.mask_shape) == (scope, shape)
    mask = engine.masks(3, 0, 0, 3)[0] if scope == "row" else engine.masks(3, 0, 0, 1)[0]
    (found,) = engine.outputs(X, [mask])
    np.testing.assert_allclose(found, member(module.net, X, torch.from_numpy(mask)).detach(), atol=1e-5)


def test_maps_within_maps_draw_apart_at_each_level():
    inner = lambda self, x: torch.func.vmap(self.net, randomness="different")(x)  # noqa: E731
    module = Custom(
        lambda self, x: torch.func.vmap(lambda y: inner(self, y), randomness="different")(x).flatten(1), net=mlp()
    )
    x = torch.rand(3, 2, 4)
    engine = Engine.from_module(module, x, runtime="eager")
    assert [(site.scope, site.mask_shape) for site in engine.sites] == [("row", (2, 16))]
    mask = engine.masks(3, 0, 0, 3)[0]
    (found,) = engine.outputs(x, [mask])
    np.testing.assert_allclose(found, member(module.net, x, torch.from_numpy(mask)).flatten(1).detach(), atol=1e-5)


def test_a_module_that_is_left_in_the_midst_of_a_map_leaves_no_map_running():
    def forward(self, x):
        def fails(row):
            raise ValueError("no")

        return torch.func.vmap(fails)(self.net(x)) if torch.compiler.is_exporting() else self.net(x)

    Engine.from_module(Custom(forward, net=mlp()), X)
    assert torch._functorch.pyfunctorch.retrieve_all_functorch_interpreters() == []
    copy.deepcopy(mlp())


KEPT = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
STEPS = torch.rand(3, 6, 4, generator=torch.Generator().manual_seed(0))


def unpadded(before):
    """Steps that are padding are left out, and put back: with dropout before they are, or between."""

    def forward(self, x, mask):
        inner = x if not before else self.drop(x)
        flat = self.first(inner[mask])
        flat = flat if before else self.drop(flat)
        padded = flat.new_zeros(*mask.shape, 8)
        padded[mask] = flat
        return self.last(padded.sum(1) / mask.sum(1, keepdim=True))

    torch.manual_seed(0)
    return Custom(forward, first=nn.Linear(4, 8), drop=nn.Dropout(0.3), last=nn.Linear(8, 3))


@pytest.mark.long
def test_dropout_of_as_many_steps_as_a_mask_keeps_takes_the_beginning_of_a_mask_for_all():
    module = unpadded(before=False)
    engine = Engine.from_module(module, (STEPS, KEPT))
    (mask,) = engine.masks(3, 1, 0, 3)
    (found,) = engine.outputs((STEPS, KEPT), [mask])
    for row, kept in enumerate(KEPT.sum(1).tolist()):
        hidden = module.first(STEPS[row, :kept]) * torch.from_numpy(mask[row, :kept])
        np.testing.assert_allclose(found[row], module.last(hidden.mean(0)).detach(), atol=1e-6)


def test_dropout_of_as_many_numbers_as_are_positive_is_refused_with_what_is_accepted():
    def forward(self, x):
        hidden = torch.zeros_like(x)
        hidden[x > 0] = self.drop(x[x > 0])
        return self.last(hidden)

    module = Custom(forward, drop=nn.Dropout(0.3), last=nn.Linear(4, 3))
    with pytest.raises(
        UnsupportedModelError, match=r"drop has 3 entries for 2 rows and 4 for 3; .*x\[mask\].*all of x"
    ):
        Engine.from_module(module, torch.tensor([[1.0, -1, -1, -1], [1, 1, -1, -1], [1, -1, -1, -1]]))


def test_steps_that_a_mask_leaves_out_behind_dropout_are_as_good_as_any():
    engine = Engine.from_module(unpadded(before=True), (STEPS, KEPT))
    found = engine.samples((STEPS, KEPT), 5, 1)
    for row in range(3):
        own = STEPS[row : row + 1].numpy(), KEPT[row : row + 1].numpy()
        np.testing.assert_allclose(engine.run(own, [1], [row], 5, samples=True).samples[0], found[:, row], atol=1e-6)


def counting(limit):
    """A network that answers otherwise as soon as it is given more rows than `limit`."""

    def forward(self, x):
        out = self.net(x)
        return out * 5 if len(x) > limit else out

    return Custom(forward, net=mlp(outputs=2)).eval()


@pytest.mark.parametrize("limit", [4, 12, 40, 200])
def test_a_network_that_counts_its_rows_is_given_no_more_than_it_answers_as_it_answers_each_alone(limit):
    x = torch.rand(600, 4, generator=torch.Generator().manual_seed(1))
    engine = Engine.from_module(counting(limit), x[:3], "regression")
    alone = engine.run((x[:1].numpy(),), [1], [0], 600, samples=True).samples
    np.testing.assert_allclose(engine.predict(x[:1], 0).mean, counting(limit)(x[:1]).detach(), rtol=1e-5)
    np.testing.assert_allclose(engine.samples(x, 3, 1)[:, :1], alone[0][:3, None], rtol=1e-5)
    np.testing.assert_allclose(engine.predict(x, 0).mean[:1], engine.predict(x[:1], 0).mean, rtol=1e-5)


@pytest.mark.parametrize("limit", [1, 2])
def test_a_network_that_answers_one_row_otherwise_than_two_or_three_is_refused(limit):
    with pytest.raises(VerificationError, match=r"does not depend on the rows beside it .*alone.* is accepted"):
        Engine.from_module(counting(limit), X, "regression")
