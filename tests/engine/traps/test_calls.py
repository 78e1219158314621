"""Traps of how modules are called: twice, shared, without their hooks, on rows that lie elsewhere."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mcdropout.engine import Engine, VerificationError
from mcdropout.engine.pytorch.find.discovery import discover
from tests.engine.networks import Custom, centred, conv_net, mlp
from tests.engine.traps.common import drawn, find, kept, names, ran, same


class TestSitesThatAreUsedMoreThanOnce:
    def test_a_block_that_is_run_three_times_draws_three_masks(self):
        block = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
        module = Custom(lambda self, x: self.block(self.block(self.block(x))), block=block)
        network = find(module, torch.randn(2, 4))
        assert names(network) == ["block.1", "block.1#1", "block.1#2"]
        x, masks = torch.randn(3, 4), drawn(network, 3)
        wanted = x
        for mask in masks:
            wanted = block[0](wanted) * mask
        same(ran(network, x, masks=masks), wanted)
        assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 3

    def test_a_module_that_two_layers_share_draws_two_masks(self):
        drop = nn.Dropout(0.5)
        module = nn.Sequential(nn.Linear(4, 4), drop, nn.Linear(4, 4), drop)
        network = find(module, torch.randn(2, 4))
        assert names(network) == ["1", "1#1"]
        x, masks = torch.randn(3, 4), drawn(network, 3)
        same(ran(network, x, masks=masks), module[2](module[0](x) * masks[0]) * masks[1])

    def test_weights_that_are_tied_stay_tied(self):
        words = nn.Embedding(9, 4)
        head = nn.Linear(4, 9, bias=False)
        head.weight = words.weight
        module = Custom(lambda self, x: self.head(self.drop(self.words(x))), words=words, drop=nn.Dropout(0.5))
        module.head = head
        network = find(module, torch.tensor([[1, 2], [3, 4]]))
        assert network.module.head.weight is network.module.words.weight
        x, (mask,) = torch.tensor([[5, 6], [7, 8], [0, 1]]), drawn(network, 3)
        same(ran(network, x, masks=[mask]), F.linear(words.weight[x] * mask, words.weight))


class Skipping(nn.Module):
    """Leaves out a dropout of one module at random, and not the other, of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x):
        hidden = F.relu(self.first(x))
        if not self.training or torch.rand(()) < 0.5:
            hidden = F.dropout(hidden, 0.5, self.training)
        return self.last(F.dropout(F.relu(self.second(hidden)), 0.5, self.training))


class Choosing(nn.Module):
    """One of two branches at random, each with its own dropout of one module; their mean in eval mode."""

    def __init__(self, image: bool) -> None:
        super().__init__()
        layer = (lambda a, b: nn.Conv2d(a, b, 1)) if image else nn.Linear
        self.wide, self.narrow = layer(4, 8), layer(4, 6)
        self.from_wide, self.from_narrow, self.last = layer(8, 4), layer(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        if not self.training:
            hidden = (self.from_wide(F.relu(self.wide(x))) + self.from_narrow(F.relu(self.narrow(x)))) / 2
        elif torch.rand(()) < 0.5:
            hidden = F.dropout(self.from_wide(F.dropout(F.relu(self.wide(x)), 0.5)), 0.5)
        else:
            hidden = F.dropout(self.from_narrow(F.dropout(F.relu(self.narrow(x)), 0.5)), 0.5)
        return self.last(hidden.flatten(2).mean(2) if x.ndim > 2 else hidden)


class TestCallsOfOneKindThatAPassMayLeaveOut:
    @pytest.mark.parametrize(
        ("make", "x"),
        [
            (Skipping, torch.rand(5, 4)),
            (lambda: Choosing(False), torch.rand(5, 4)),
            (lambda: Choosing(True), torch.rand(5, 4, 3, 3)),
        ],
        ids=["one is left out", "one of two", "one of two of images"],
    )
    def test_are_told_apart_by_what_they_drop_from(self, make, x):
        torch.manual_seed(0)
        module, passes = make().eval(), 3_000
        engine = Engine.from_module(module, x[:3], "regression", interval=None)
        found = engine.samples(x, passes, seed=1)
        module.train()
        with torch.no_grad():
            wanted = torch.stack([torch.cat([module(row) for row in x.split(1)]) for _ in range(passes)]).numpy()
        error = np.sqrt((found.var(0) + wanted.var(0)) / passes)
        assert (np.abs(found.mean(0) - wanted.mean(0)) < 4.5 * error).all()
        assert found.var(0).sum() == pytest.approx(wanted.var(0).sum(), rel=0.1)


class TestDropoutThatIsNoSite:
    @staticmethod
    def off(module, *inputs):
        return [(site.name, site.reason) for site in discover(module, inputs).off]

    def test_because_its_p_is_0(self):
        module = nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 3), nn.Dropout(0.5))
        assert self.off(module, torch.randn(2, 4)) == [("0", "its p is 0")]

    def test_because_it_does_not_reach_the_output(self):
        def forward(self, x):
            self.aside(x).sum()
            return self.last(x)

        module = Custom(forward, aside=nn.Dropout(0.5), last=nn.Dropout(0.5))
        assert self.off(module, torch.randn(2, 4)) == [("aside", "it does not reach the output")]

    def test_because_nothing_calls_it(self):
        module = Custom(lambda self, x: self.last(x), unused=nn.Dropout(0.5), last=nn.Dropout(0.5))
        assert self.off(module, torch.randn(2, 4)) == []
        assert names(find(module, torch.randn(2, 4))) == ["last"]


@pytest.mark.parametrize("beyond", [lambda mean: mean > 5.0, lambda mean: mean < -5.0], ids=["above", "below"])
def test_dropout_that_decides_by_a_threshold_which_the_examples_are_far_from_is_a_site(beyond):
    def forward(self, x):
        decided = beyond(self.deciding(x).mean(1, keepdim=True))
        return self.rest(x) + decided.float()

    module = Custom(forward, deciding=nn.Dropout(0.5), rest=nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)))
    network = find(module, torch.ones(2, 4))
    assert names(network) == ["deciding", "rest.0"]
    x = torch.full((2, 4), 8.0 if beyond(torch.tensor(8.0)) else -8.0)
    masks = kept(network, 2)
    masks[0] = torch.zeros_like(masks[0])
    same(ran(network, x, masks=masks), ran(network, x, masks=kept(network, 2)) - 1)


class TestWaysOfCallingModules:
    def test_a_module_whose_forward_is_called_directly_has_its_dropout_found(self):
        module = Custom(lambda self, x: self.drop.forward(self.linear(x)), drop=nn.Dropout(0.5), linear=nn.Linear(4, 3))
        network = find(module, torch.randn(2, 4))
        assert [(site.name, site.p) for site in network.sites] == [("(network)", 0.5)]
        x, (mask,) = torch.randn(3, 4), drawn(network, 3)
        same(ran(network, x, masks=[mask]), module.linear(x) * mask)

    def test_lists_and_dicts_of_modules(self):
        def forward(self, x):
            for layer, name in zip(self.layers, ("b", "a"), strict=True):
                x = self.drops[name](layer(x))
            return x

        module = Custom(
            forward,
            layers=nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]),
            drops=nn.ModuleDict({"a": nn.Dropout(0.25), "b": nn.Dropout(0.5)}),
        )
        network = find(module, torch.randn(2, 4))
        assert [(site.name, site.p) for site in network.sites] == [("drops.b", 0.5), ("drops.a", 0.25)]
        x, masks = torch.randn(3, 4), drawn(network, 3)
        same(ran(network, x, masks=masks), module.layers[1](module.layers[0](x) * masks[0]) * masks[1])

    @pytest.mark.parametrize("runtime", ["eager", "torch"])
    def test_dropout_in_place_on_the_input_itself_leaves_the_input_of_the_next_pass_alone(self, runtime):
        module = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(4, 3))
        engine = Engine.from_module(module, torch.ones(3, 4), "regression", runtime=runtime)
        x, mask = np.ones((3, 4), np.float32), np.zeros((3, 4), np.float32)
        mask[:, 1] = 2.0
        (first,), (second,) = engine.outputs(x, [mask]), engine.outputs(x, [mask])
        np.testing.assert_array_equal(first, second)
        assert (x == 1).all()
        wanted = module[1](torch.from_numpy(mask)).detach()
        np.testing.assert_allclose(first, wanted, atol=1e-6)

    @pytest.mark.parametrize("reentrant", [True, False])
    @pytest.mark.parametrize("gated", [True, False])
    def test_dropout_under_a_checkpoint_of_activations_is_a_site(self, reentrant, gated):
        def forward(self, x):
            if gated and not self.training:
                return self.block(x)
            return checkpoint(self.block, x, use_reentrant=reentrant)

        module = Custom(forward, block=nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3)))
        network = find(module, torch.randn(2, 4))
        assert names(network) == ["block.1"]
        x, (mask,) = torch.randn(3, 4), drawn(network, 3)
        same(ran(network, x, masks=[mask]), module.block[2](module.block[0](x) * mask))

    def test_a_network_whose_train_method_returns_nothing(self):
        class Frozen(nn.Sequential):
            def train(self, mode=True):
                super().train(mode)
                self[0].eval()

        engine = Engine.from_module(Frozen(nn.Linear(4, 4), nn.Dropout(0.5)), torch.randn(3, 4), runtime="eager")
        assert [site.name for site in engine.sites] == ["1"]

    @pytest.mark.parametrize("runtime", ["eager", "torch"])
    def test_a_network_that_computes_in_a_narrower_type(self, runtime):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.rest(x)

        module = Custom(forward, rest=mlp())
        engine = Engine.from_module(module, torch.randn(3, 4), "regression", runtime=runtime)
        x = torch.randn(3, 4)
        np.testing.assert_allclose(engine.predict(x, 0).mean, module.eval()(x).float().detach(), atol=1e-6)
        assert engine.predict(x, 20, 1).variance.min() > 0

    @pytest.mark.parametrize("training", [True, False])
    def test_a_network_whose_train_method_changes_more_than_modes_is_left_as_it_is(self, training):
        class Scheduled(nn.Linear):
            def train(self, mode=True):
                self.p = 0.5 if mode else 0.0
                return super().train(mode)

            def forward(self, x):
                return super().forward(F.dropout(x, self.p, self.training))

        module = Scheduled(4, 3).train(training)
        engine = Engine.from_module(module, torch.randn(3, 4), runtime="eager")
        assert [(site.name, site.p) for site in engine.sites] == [("(network)", 0.5)]
        assert (module.training, module.p) == (training, 0.5 if training else 0.0)

    @pytest.mark.parametrize("gated", [True, False])
    @pytest.mark.parametrize("before", [True, False])
    def test_dropout_in_a_hook_of_a_module_is_a_site_of_that_module(self, before, gated):
        def hook(module, inputs, output=None):
            if gated and not module.training:
                return None
            dropped = F.dropout(inputs[0] if before else output, 0.5, module.training)
            return (dropped,) if before else dropped

        linear = nn.Linear(4, 4)
        (linear.register_forward_pre_hook if before else linear.register_forward_hook)(hook)
        network = find(nn.Sequential(nn.Linear(4, 4), linear), torch.randn(2, 4))
        assert names(network) == ["1"]


class TestRowsThatLieApartOrInfluenceOneAnother:
    @pytest.mark.parametrize("runtime", ["torch", "onnx"])
    def test_rows_that_lie_apart_where_the_network_is_cut_are_not_mixed_up(self, runtime):
        def forward(self, x):
            merged = torch.relu(self.first(x)).transpose(0, 1).flatten(0, 1)
            merged = self.drop(torch.relu(self.second(merged)))
            return self.last(merged.unflatten(0, (4, -1)).transpose(0, 1).flatten(1))

        module = Custom(forward, first=nn.Linear(5, 6), second=nn.Linear(6, 6), drop=nn.Dropout(0.5))
        module.last = nn.Linear(24, 3)
        x = torch.randn(3, 4, 5)
        engine, plain = (Engine.from_module(module, x, runtime=name) for name in (runtime, "eager"))
        np.testing.assert_allclose(engine.samples(x, 7, 1), plain.samples(x, 7, 1), atol=1e-6)

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_examples_that_are_all_alike_do_not_hide_that_rows_influence_one_another(self, value):
        with pytest.raises(VerificationError, match="does not depend on the rows beside it"):
            Engine.from_module(centred(mlp()), np.full((5, 4), value, np.float32), runtime="eager")

    def test_examples_that_are_all_alike_are_good_for_a_network_whose_rows_do_not(self):
        engine = Engine.from_module(conv_net(), np.zeros((8, 1, 6, 6), np.float32), runtime="torch")
        assert all(check.passed for check in engine.program.checks)
