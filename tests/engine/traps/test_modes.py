"""Traps of train and eval mode: what else they change, and what runs in one of them alone."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, UnsupportedModelError, VerificationError
from mcdropout.engine.pytorch.find.discovery import discover
from tests.engine.networks import Custom
from tests.engine.traps.common import drawn, find, kept, names, ran, same


class TestFunctionalDropoutThatFollowsSelfTraining:
    @staticmethod
    def block():
        return Custom(lambda self, x: F.dropout(self.linear(x), 0.3, self.training), linear=nn.Linear(4, 4))

    def test_is_a_site_where_no_module_could_be_switched_on(self):
        module = nn.Sequential(self.block(), self.block())
        assert not any(isinstance(part, nn.Dropout) for part in module.modules())
        network = find(module, torch.randn(2, 4))
        assert [(site.name, site.kind, site.p, site.in_eval) for site in network.sites] == [
            ("0", "element", 0.3, True),
            ("1", "element", 0.3, True),
        ]
        x, masks = torch.randn(3, 4), drawn(network, 3)
        same(ran(network, x, masks=masks), module[1].linear(module[0].linear(x) * masks[0]) * masks[1])

    def test_and_no_module_leaves_eval_mode_for_it(self):
        assert not any(part.training for part in find(self.block(), torch.randn(2, 4)).module.modules())


class TestNormalizationBesideDropout:
    @staticmethod
    def unmoved(module, x, masks_of=drawn, trained=True):
        if trained:
            with torch.no_grad():
                module.train()(torch.randn(len(x) + 5, *x.shape[1:]))
        before = copy.deepcopy(module.state_dict())
        network = find(module, x)
        for number in range(3):
            ran(network, x, masks=masks_of(network, len(x), number))
        Engine.from_module(module, x, runtime="eager").predict(x, 3, 1)
        for name, value in network.module.state_dict().items():
            assert torch.equal(value, before[name]), name
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name]), name
        same(ran(network, x, masks=kept(network, len(x))), module.eval()(x))
        return network

    @pytest.mark.parametrize("norm", [nn.BatchNorm1d(8), nn.BatchNorm1d(8, momentum=None), nn.GroupNorm(2, 8)])
    def test_moves_no_statistic(self, norm):
        self.unmoved(nn.Sequential(nn.Linear(4, 8), norm, nn.Dropout(0.5), nn.Linear(8, 3)), torch.randn(3, 4))

    def test_moves_no_statistic_of_a_norm_inside_a_module_that_leaves_eval_mode(self):
        def forward(self, x):
            x = self.norm(self.linear(x))
            return self.last(F.dropout(x, 0.5) if self.training else x)

        module = Custom(forward, linear=nn.Linear(4, 8), norm=nn.BatchNorm1d(8), last=nn.Linear(8, 3))
        assert self.unmoved(module, torch.randn(3, 4)).awake == {""}

    def test_moves_no_statistic_of_a_norm_that_a_module_which_leaves_eval_mode_calls_as_a_function(self):
        def forward(self, x):
            x = F.batch_norm(self.linear(x), self.mean, self.var, training=self.training, momentum=0.3)
            return self.last(F.dropout(x, 0.5) if self.training else x)

        module = Custom(forward, linear=nn.Linear(4, 8), last=nn.Linear(8, 3))
        module.register_buffer("mean", torch.zeros(8))
        module.register_buffer("var", torch.ones(8))
        assert self.unmoved(module, torch.randn(3, 4)).awake == {""}

    @pytest.mark.parametrize("trained", [False, True])
    @pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
    def test_moves_no_estimate_of_a_spectral_norm(self, norm, trained):
        layer = norm(nn.Linear(4, 8))
        self.unmoved(nn.Sequential(layer, nn.Dropout(0.5), nn.Linear(8, 3)), torch.randn(3, 4), trained=trained)

    def test_and_weights_that_a_training_step_left_in_its_graph_are_no_obstacle(self):
        module = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 8)), nn.Dropout(0.5), nn.Linear(8, 3))
        module.train()(torch.randn(5, 4)).sum().backward()
        network = find(module, torch.randn(2, 4))
        x = torch.randn(3, 4)
        same(ran(network, x, masks=kept(network, 3)), module.eval()(x))


class TestTrainModeThatDoesMoreThanDrop:
    def test_auxiliary_heads_of_train_mode_stay_away(self):
        def forward(self, x):
            hidden = self.body(x)
            return (self.head(hidden), self.auxiliary(hidden)) if self.training else self.head(hidden)

        module = Custom(
            forward,
            body=nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)),
            head=nn.Linear(4, 3),
            auxiliary=nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 3)),
        )
        found = discover(module, (torch.randn(2, 4),))
        assert names(found.network) == ["body.1"]
        assert [(site.name, site.reason) for site in found.off] == [
            ("auxiliary.0", "its module does not run in eval mode")
        ]
        assert not found.network.awake
        x, (mask,) = torch.randn(3, 4), drawn(found.network, 3)
        same(ran(found.network, x, masks=[mask]), module.head(module.body[0](x) * mask))

    @pytest.mark.parametrize("where", ["outside", "inside"])
    def test_a_module_that_wants_targets_in_train_mode_stays_in_eval_mode(self, where):
        def head(self, x, targets=None):
            if self.training and targets is None:
                raise ValueError("in training mode, targets should be passed")
            return self.linear(self.drop(x))

        head = Custom(head, drop=nn.Dropout(0.25), linear=nn.Linear(4, 3))
        module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), head) if where == "outside" else head
        network = find(module, torch.randn(2, 4))
        assert [(site.name, site.p) for site in network.sites] == (
            [("1", 0.5), ("2.drop", 0.25)] if where == "outside" else [("drop", 0.25)]
        )
        assert not network.awake
        x = torch.randn(3, 4)
        same(ran(network, x, masks=kept(network, 3)), module.eval()(x))

    @pytest.mark.parametrize("levels", [1, 2, 3])
    def test_dropout_that_a_module_further_out_leaves_out_in_eval_mode_is_a_site(self, levels):
        module = nn.Dropout(0.5)
        for level in range(levels):
            if level == levels - 1:
                module = Custom(lambda self, x: self.inner(x) if self.training else x, inner=module)
            else:
                module = Custom(lambda self, x: self.inner(x), inner=module)
        module = nn.Sequential(nn.Linear(4, 4), module, nn.BatchNorm1d(4), nn.Linear(4, 3))
        network = find(module, torch.randn(2, 4))
        assert [(site.path, site.p) for site in network.sites] == [("1" + ".inner" * levels, 0.5)]
        assert not network.module.training
        assert not network.module[2].training
        x, (mask,) = torch.randn(3, 4), drawn(network, 3)
        same(ran(network, x, masks=[mask]), module.eval()[3](module[2](module[0](x) * mask)))

    def test_that_cannot_be_told_from_dropout_in_one_module_is_refused(self):
        shifted = Custom(lambda self, x: F.dropout(x, 0.5) + 100.0 if self.training else x)
        with pytest.raises(VerificationError, match="keep-everything masks equals its eval mode"):
            Engine.from_module(nn.Sequential(nn.Linear(4, 4), shifted), torch.randn(3, 4), runtime="eager")

    def test_that_cannot_be_told_from_dropout_is_refused_beside_numbers_of_the_networks_own_too(self):
        shifted = Custom(lambda self, x: F.dropout(x, 0.5) + 100.0 if self.training else x)
        noisy = Custom(lambda self, x: x * (1 + 0.1 * torch.randn_like(x)) if self.training else x)
        with pytest.raises(UnsupportedModelError, match=r"^1 must leave eval mode for dropout.*other outputs"):
            Engine.from_module(nn.Sequential(nn.Linear(4, 4), shifted, noisy), torch.randn(3, 4), runtime="eager")

    def test_activations_that_are_random_in_train_mode_stay_as_in_eval_mode(self):
        module = nn.Sequential(nn.Linear(4, 8), nn.RReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        engine = Engine.from_module(module, torch.randn(3, 4), "regression", runtime="eager")
        assert [site.name for site in engine.sites] == ["2"]
        assert [(site.name, site.reason) for site in engine.sites_off] == [
            ("1", "the slope of an activation is random in train mode, which is no dropout")
        ]
        x, mask = torch.randn(3, 4), (torch.rand(3, 8) < 0.5).float()
        slope = (1 / 8 + 1 / 3) / 2
        wanted = module[3](F.leaky_relu(module[0](x), slope) * mask)
        np.testing.assert_allclose(engine.outputs(x, [mask.numpy()])[0], wanted.detach(), atol=1e-6)


class TestLayersThatAreDroppedAsAWhole:
    @staticmethod
    def module(draw):
        class Layer(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear, self.drop = nn.Linear(4, 4), nn.Dropout(0.25)

            def forward(self, x):
                return x + self.drop(torch.relu(self.linear(x)))

        def forward(self, x):
            for layer in self.layers:
                if self.training and draw() < 0.5:
                    continue
                x = layer(x)
            return x

        return Custom(forward, layers=nn.ModuleList(Layer() for _ in range(3)))

    DRAWS = (lambda: torch.rand([]), lambda: torch.rand(1), lambda: torch.rand(1).item(), lambda: torch.rand(()))

    @pytest.mark.parametrize("draw", DRAWS)
    def test_have_sites_of_their_own_besides_those_that_drop_them(self, draw):
        module = self.module(draw)
        network = find(module, torch.randn(2, 4))
        assert sorted(names(network)) == sorted(
            ["(network)", "(network)#1", "(network)#2", *(f"layers.{layer}.drop" for layer in range(3))]
        )
        x = torch.randn(3, 4)
        masks = dict(zip(names(network), drawn(network, 3), strict=True))
        for number, value in (("", 0.9), ("#1", 0.1), ("#2", 0.6)):
            masks[f"(network){number}"].fill_(value)
        wanted = x
        for layer in (0, 2):
            branch = torch.relu(module.layers[layer].linear(wanted))
            wanted = wanted + branch * masks[f"layers.{layer}.drop"]
        same(ran(network, x, masks=list(masks.values())), wanted)

    def test_are_drawn_once_a_pass_for_all_rows(self):
        engine = Engine.from_module(self.module(self.DRAWS[0]), torch.randn(3, 4), runtime="eager")
        assert not engine.shares_rows
        assert {site.scope for site in engine.sites if site.raw} == {"pass"}
        assert engine.predict(np.ones((2, 4), np.float32), 20, 1).variance.min() > 0

    @pytest.mark.parametrize("dropped", [(), (0,), (1,), (0, 2), (0, 1, 2)])
    def test_by_a_module_that_drops_units_itself_too_leave_the_masks_of_the_others_where_they_are(self, dropped):
        def forward(self, x):
            for layer in self.layers:
                if self.training and torch.rand(1) < 0.5:
                    continue
                x = F.dropout(layer(x), 0.25, self.training)
            return x

        module = Custom(forward, layers=nn.ModuleList(nn.Linear(4, 4) for _ in range(3)))
        network, x = find(module, torch.randn(2, 4)), torch.randn(3, 4)
        assert [site.kind for site in network.sites] == ["uniform", "element"] * 3
        masks = list(drawn(network, 3))
        for layer in range(3):
            masks[2 * layer].fill_(0.1 if layer in dropped else 0.9)
        wanted = x
        for layer in range(3):
            if layer not in dropped:
                wanted = module.layers[layer](wanted) * masks[2 * layer + 1]
        same(ran(network, x, masks=masks), wanted)

    @pytest.mark.wide
    @pytest.mark.parametrize("ends", [lambda: torch.rand(1).item() < 0.5, lambda: torch.rand(1).item() > 0.5])
    def test_in_a_loop_that_nothing_but_chance_ends_are_refused(self, ends):
        def forward(self, x):
            while True:
                x = x + self.drop(torch.tanh(self.layer(x)))
                if not self.training or ends():
                    return x

        module = Custom(forward, layer=nn.Linear(4, 4), drop=nn.Dropout(0.25))
        with pytest.raises(UnsupportedModelError, match=r"makes more than 10000 random calls in a pass .* is accepted"):
            find(module, torch.randn(2, 4))


class TestCallsThatHardlyAnyNumbersLeadTo:
    """A network draws a number and drops for some of them alone."""

    @staticmethod
    def seldom(p):
        def forward(self, x):
            if self.training and torch.rand(1) < p:
                x = F.dropout(torch.tanh(self.layer(x)), 0.5)
            return self.last(x)

        return Custom(forward, layer=nn.Linear(4, 4), last=nn.Linear(4, 3))

    @staticmethod
    def one_of(count):
        def forward(self, x):
            return self.last(self.layers[int(torch.rand(1) * count) if self.training else 0](x))

        layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.25)) for _ in range(count))
        return Custom(forward, layers=layers, last=nn.Linear(4, 3))

    @staticmethod
    def all_of(count):
        def forward(self, x):
            if not self.training or all(torch.rand(count) < 0.5):
                x = self.drop(x)
            return self.last(x)

        return Custom(forward, drop=nn.Dropout(0.25), last=nn.Linear(4, 3))

    @staticmethod
    def as_many(count):
        def forward(self, x):
            for layer in self.layers[: int((torch.rand(count) < 0.5).sum()) if self.training else count]:
                x = layer(x)
            return self.last(x)

        layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.25)) for _ in range(count))
        return Custom(forward, layers=layers, last=nn.Linear(4, 3))

    @pytest.mark.wide
    @pytest.mark.parametrize(
        ("make", "sites"),
        [
            (lambda self: self.seldom(0.2), 2),
            (lambda self: self.seldom(0.01), 2),
            (lambda self: self.one_of(8), 9),
            (lambda self: self.all_of(3), 2),
            (lambda self: self.as_many(3), 4),
        ],
        ids=["one of five", "one of a hundred", "one of eight", "all of three", "as many as were drawn"],
    )
    def test_are_sites(self, make, sites):
        torch.manual_seed(0)
        engine = Engine.from_module(make(self), torch.randn(3, 4), "regression")
        assert len(engine.sites) == sites
        runtime, x = engine.steps._runtime, np.ones((2, 4), np.float32)
        found = engine.samples(x, 600, 1)
        runtime.decisions = None
        np.testing.assert_allclose(found, engine.samples(x, 600, 1), atol=1e-5)

    def test_are_sites_at_other_sizes_too(self):
        def forward(self, ids):
            x = self.words(ids)
            for layer in self.layers:
                if not self.training or torch.rand(1).item() < 0.2:
                    x = layer(x)
            return self.last(x.mean(1))

        torch.manual_seed(0)
        layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.25)) for _ in range(3))
        module = Custom(forward, words=nn.Embedding(20, 8), layers=layers, last=nn.Linear(8, 2))
        ids = torch.randint(1, 20, (4, 5))
        engine = Engine.from_module(module, ids, "regression", shapes=("tokens",), sizes={"tokens": (1, 12)})
        assert len(engine.sites) == 6


class TestNumbersThatEvalModeDrawsForNothing:
    """They are drawn in each mode and used in train mode alone."""

    class Layers(nn.ModuleList):
        """Leaves some of itself out, as fairseq does it: in a container, which is never run itself."""

        def __iter__(self):
            numbers = torch.empty(len(self)).uniform_()
            for number, layer in zip(numbers, super().__iter__(), strict=True):
                if not self.training or number > 0.4:
                    yield layer

    @staticmethod
    def layers():
        return [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)]

    @classmethod
    def container(cls):
        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

        return Custom(forward, layers=cls.Layers(cls.layers()))

    @classmethod
    def vector(cls):
        def forward(self, x):
            numbers = torch.empty(len(self.layers)).uniform_()
            for number, layer in zip(numbers, self.layers, strict=True):
                x = layer(x) if not self.training or number > 0.4 else x
            return x

        return Custom(forward, layers=nn.ModuleList(cls.layers()))

    @classmethod
    def scalars(cls):
        def forward(self, x):
            for layer in self.layers:
                skips = torch.rand(()) < 0.4
                x = x if self.training and skips else layer(x)
            return x

        return Custom(forward, layers=nn.ModuleList(cls.layers()))

    @staticmethod
    def noise():
        def forward(self, x):
            noise = torch.randn_like(x)
            return self.last(x + noise if self.training else x)

        return Custom(forward, last=nn.Linear(4, 3))

    @pytest.mark.wide
    @pytest.mark.parametrize(
        ("make", "kind"),
        [("container", "uniform"), ("vector", "uniform"), ("scalars", "uniform"), ("noise", "normal")],
    )
    def test_are_sites_and_leave_eval_mode_the_baseline(self, make, kind):
        torch.manual_seed(0)
        module, x = getattr(self, make)(), torch.randn(3, 4)
        engine = Engine.from_module(module, x, "regression")
        assert {site.kind for site in engine.sites} == {kind}
        with torch.no_grad():
            np.testing.assert_allclose(engine.predict(x.numpy(), 0).mean, module.eval()(x), atol=1e-6)
            passes = torch.stack([module.train()(x) for _ in range(4000)]).double()
        found = engine.predict(x.numpy(), 4000, 1)
        spread = passes.var(0).mean() ** 0.5
        np.testing.assert_allclose(found.mean, passes.mean(0), atol=6 * float(spread) * (2 / 4000) ** 0.5)
        np.testing.assert_allclose(found.epistemic_variance.mean() / passes.var(0).mean(), 1.0, atol=0.1)

    def test_leave_a_baseline_that_can_be_saved(self, tmp_path):
        torch.manual_seed(0)
        engine = Engine.from_module(self.noise(), torch.randn(3, 4), "regression")
        engine.save(tmp_path / "saved")
        loaded, x = Engine.load(tmp_path / "saved"), np.ones((2, 4), np.float32)
        for passes in (0, 20):
            assert loaded.predict(x, passes, 1).mean.tobytes() == engine.predict(x, passes, 1).mean.tobytes()

    def test_are_sites_where_train_mode_draws_them_for_nothing_too(self):
        """They might be used for other rows."""

        def forward(self, x):
            torch.rand(())
            return self.last(self.drop(x))

        module = Custom(forward, drop=nn.Dropout(0.5), last=nn.Linear(4, 3))
        engine = Engine.from_module(module, torch.randn(3, 4), "regression")
        assert [(site.name, site.scope) for site in engine.sites] == [("(network)", "pass"), ("drop", "row")]
        assert engine.predict(np.ones((2, 4), np.float32), 20, 1).epistemic_variance.min() > 0


class TestBranchesThatDependOnTheData:
    def test_dropout_that_no_example_met_is_an_error_for_the_request_that_meets_it(self):
        def forward(self, x):
            x = self.often(x)
            return self.seldom(x) if bool((x > 100).any()) else x

        module = Custom(forward, often=nn.Dropout(0.5), seldom=nn.Dropout(0.25))
        engine = Engine.from_module(module, torch.rand(3, 4), runtime="eager")
        assert engine.predict(np.ones((1, 4), np.float32), 5).passes == 5
        with pytest.raises(UnsupportedModelError, match=r"seldom makes a random call.*not made when sites were"):
            engine.predict(np.full((1, 4), 1e3, np.float32), 5)

    @pytest.mark.parametrize("p", [0.25, 0.5])
    @pytest.mark.parametrize("width", [1, 4])
    def test_a_call_that_takes_the_place_of_another_does_not_take_its_mask(self, p, width):
        def forward(self, x):
            if bool((x > 100).any()):
                return F.dropout(x, p, self.training)
            return x * F.dropout(x[:, :width], 0.5, self.training)

        engine = Engine.from_module(Custom(forward), torch.rand(3, 4), runtime="eager", form="logits")
        if (p, width) == (0.5, 4):  # nothing tells them apart, and nothing has to: the mask is as good for the other
            assert np.isfinite(engine.samples(np.full((1, 4), 1e3, np.float32), 5)).all()
            return
        with pytest.raises(UnsupportedModelError, match=r"not made when sites were|where \[5, 1\] is what it drew"):
            engine.predict(np.full((1, 4), 1e3, np.float32), 5)


def test_dropout_in_a_normalization_layer_of_ones_own_is_found():
    class DroppingNorm(nn.BatchNorm1d):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.3, self.training)

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), DroppingNorm(8), nn.Linear(8, 3)).eval()
    engine = Engine.from_module(module, torch.randn(3, 4), "regression")
    assert [(site.name, site.p) for site in engine.sites] == [("1", 0.3)]
    with torch.no_grad():
        wanted = module(torch.ones(1, 4)).numpy()
    np.testing.assert_allclose(engine.predict(torch.ones(1, 4), 0).mean, wanted, atol=1e-5)
