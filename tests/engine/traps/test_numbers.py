"""Traps of code that draws numbers of its own, and of dropout on weights."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, EngineError, InvalidInputError, UnsupportedModelError
from mcdropout.engine.pytorch.module import understand
from mcdropout.engine.runtimes import Target
from mcdropout.layers import DropBlock2d
from tests.engine.networks import Custom, drop_path, mlp
from tests.engine.traps.common import drawn, find, names, ran, same


def drops_rows(keep):
    """A residual branch that code of its own drops a row at a time: `keep(x, share)` draws `[rows, 1]`."""

    def forward(self, x):
        branch = self.branch(x)
        if self.training:
            branch = branch * keep(x, 0.75) / 0.75
        return x + branch

    return Custom(forward, branch=nn.Linear(4, 4))


def _in_place(x, share):
    return x.new_empty(x.shape[0], 1).bernoulli_(share)


def _rand(x, share):
    return (share + torch.rand(x.shape[0], 1)).floor_()


def _rand_changed_in_place(x, share):
    return torch.rand(x.shape[0], 1).add_(share).floor_()


def _rand_like(x, share):
    return (torch.rand_like(x[:, :1]) < share).float()


def _uniform(x, share):
    return (x.new_empty(x.shape[0], 1).uniform_(-1.0, 1.0) < 2 * share - 1).float()


def _bernoulli_of_a_tensor(x, share):
    return torch.bernoulli(torch.full((x.shape[0], 1), share))


def _bernoulli_of_a_number(x, share):
    return torch.bernoulli(torch.empty(x.shape[0], 1), share)


def _distribution(x, share):
    return torch.distributions.Bernoulli(torch.full((x.shape[0], 1), share)).sample()


def compared(p):
    """Stochastic depth by a comparison, through which not even NaN shows."""
    return Custom(lambda self, x: x * (torch.rand(x.shape[0], 1) >= p) / (1 - p) if self.training else x)


class TestStochasticDepthWrittenByHand:
    @pytest.mark.parametrize(
        ("keep", "kind"),
        [
            (_in_place, "bernoulli"),
            (_bernoulli_of_a_number, "bernoulli"),
            (_rand, "uniform"),
            (_rand_changed_in_place, "uniform"),
            (_rand_like, "uniform"),
            (_uniform, "uniform"),
            (_bernoulli_of_a_tensor, "uniform"),
            (_distribution, "uniform"),
        ],
    )
    def test_is_a_site_whatever_function_draws(self, keep, kind):
        module = drops_rows(keep)
        network = find(module, torch.randn(2, 4))
        p = 0.25 if kind == "bernoulli" else None
        assert [(site.name, site.kind, site.p, site.shape) for site in network.sites] == [("(network)", kind, p, (1,))]
        x, numbers = torch.randn(4, 4), torch.tensor([[0.0], [0.2], [0.7], [0.9]])
        if kind == "bernoulli":
            keeps = numbers = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
        else:
            keeps = keep_of(numbers, keep)
        before = numbers.clone()
        same(ran(network, x, masks=[numbers]), x + module.branch(x) * keeps / 0.75)
        assert torch.equal(numbers, before)

    def test_without_anything_drawn_the_engine_answers_as_eval_mode_does(self):
        module = drops_rows(_rand)
        engine = Engine.from_module(module, torch.randn(3, 4), "regression", runtime="torch")
        x = torch.randn(3, 4)
        np.testing.assert_allclose(engine.predict(x, 0).mean, module.eval()(x).detach(), atol=1e-6)

    @pytest.mark.parametrize("drop", [drop_path, compared])
    def test_inside_stochastic_depth_is_a_site_too(self, drop):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear, self.inner, self.outer = nn.Linear(4, 4), drop(0.5), drop(0.8)

            def forward(self, x):
                return x + self.outer(self.inner(torch.relu(self.linear(x))))

        network = find(nn.Sequential(*(Block() for _ in range(6))), torch.randn(2, 4))
        assert names(network) == [f"{block}.{part}" for block in range(6) for part in ("inner", "outer")]

    def test_that_seldom_drops_is_not_taken_for_dropout_without_effect(self):
        module = nn.Sequential(nn.Linear(4, 4), drop_path(0.02), nn.Linear(4, 3))
        assert Engine.from_module(module, torch.randn(3, 4), runtime="eager").sites[0].name == "1"


def keep_of(numbers, keep):
    """What the functions above make of uniform numbers."""
    return (numbers >= 0.25).float() if keep in (_rand, _rand_changed_in_place) else (numbers < 0.75).float()


class TestNumbersThatTheNetworkDraws:
    @pytest.mark.parametrize(
        ("noise", "of"),
        [
            (lambda x: torch.randn_like(x), lambda n: n),
            (lambda x: torch.randn(x.shape), lambda n: n),
            (lambda x: torch.randn_like(x).mul_(0.5).add_(1.0), lambda n: n * 0.5 + 1),
            (lambda x: torch.empty_like(x).normal_(1.0, 0.5), lambda n: n * 0.5 + 1),
            (lambda x: nn.init.normal_(torch.empty_like(x), 1.0, 0.5), lambda n: n * 0.5 + 1),
            (lambda x: nn.init.uniform_(torch.empty_like(x), b=3.0), lambda n: n * 3),
            (lambda x: torch.normal(1.0, 0.5, x.shape), lambda n: n * 0.5 + 1),
            (lambda x: torch.normal(torch.ones_like(x), 0.5), lambda n: n * 0.5 + 1),
            (lambda x: torch.normal(torch.ones_like(x), torch.full_like(x, 0.5)), lambda n: n * 0.5 + 1),
            (lambda x: torch.distributions.Normal(1.0, 0.5).sample(x.shape), lambda n: n * 0.5 + 1),
            (lambda x: torch.distributions.Normal(x, 0.5).rsample(), None),
            (lambda x: torch.distributions.Uniform(1.0, 3.0).rsample(x.shape), None),
        ],
    )
    def test_are_a_site_and_their_own_to_overwrite(self, noise, of):
        network = find(Custom(lambda self, x: x * noise(x) if self.training else x), torch.randn(2, 4))
        assert [site.shape for site in network.sites] == [(4,)]
        x, numbers = torch.randn(3, 4), torch.rand(3, 4)
        before = numbers.clone()
        found = ran(network, x, masks=[numbers])
        assert torch.equal(numbers, before)
        assert torch.equal(ran(network, x, masks=[numbers]), found)
        if of is not None:
            same(found, x * of(numbers))

    @pytest.mark.parametrize(
        "draw",
        [
            lambda x, out: torch.rand(x.shape, out=out),
            lambda x, out: torch.randn(x.shape, out=out),
            lambda x, out: torch.bernoulli(torch.full_like(x, 0.8), out=out),
        ],
    )
    def test_are_written_to_where_the_network_wants_them(self, draw):
        def forward(self, x):
            if not self.training:
                return x
            numbers = torch.empty_like(x).fill_(torch.nan)
            draw(x, numbers)
            return x * numbers

        network = find(Custom(forward), torch.randn(2, 4))
        x, numbers = torch.randn(3, 4), torch.full((3, 4), 0.5)
        assert torch.isfinite(ran(network, x, masks=[numbers])).all()
        assert not torch.equal(ran(network, x, masks=[numbers]), ran(network, x, masks=[numbers + 0.4]))

    @pytest.mark.parametrize(
        ("draw", "kind", "deviation"),
        [
            (lambda z: torch.randn_like(z), "normal", 0.5**0.5),
            (lambda z: torch.randn(z.shape, dtype=z.dtype), "normal", 0.5**0.5),
            (lambda z: torch.empty_like(z).normal_(0.0, 2.0), "normal", 2.0**0.5),
            (lambda z: torch.rand(z.shape, dtype=z.dtype), "uniform", 1.0),
            (lambda z: torch.rand_like(z), "uniform", 1.0),
        ],
    )
    def test_of_complex_type_have_an_imaginary_part_as_pytorchs_own_have(self, draw, kind, deviation):
        def forward(self, x):
            twice = x.repeat(1, 2)
            return twice + torch.view_as_real(draw(torch.complex(x, x))).flatten(1) if self.training else twice

        network = find(Custom(forward), torch.randn(2, 4))
        assert [(site.kind, site.shape) for site in network.sites] == [(kind, (4, 2))]
        numbers = torch.rand(3, 4, 2)
        same(ran(network, torch.zeros(3, 4), masks=[numbers]), deviation * numbers.flatten(1))

    @pytest.mark.parametrize(
        "draw",
        [
            lambda x: torch.rand_like(x),
            lambda x: torch.rand(x.shape, dtype=x.dtype),
            lambda x: torch.empty_like(x).uniform_(),
        ],
    )
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_of_a_narrow_type_are_never_rounded_to_1(self, draw, dtype):
        def forward(self, x):
            return x + draw(x.to(dtype)).float() if self.training else x

        network = find(Custom(forward), torch.randn(2, 4))
        found = ran(network, torch.zeros(3, 4), masks=[torch.full((3, 4), 1 - 2.0**-24)])
        assert torch.equal(found, torch.full((3, 4), 1 - torch.finfo(dtype).eps / 2))
        assert draw(torch.empty(100_000, dtype=dtype)).max() == found[0, 0]  # as PyTorch's own

    @pytest.mark.parametrize(
        "factor",
        [
            lambda self, x: self.table[(torch.rand(x.shape[0]) * 3).long()],
            lambda self, x: self.table[(torch.rand(x.shape[0], dtype=torch.bfloat16) * 3).long()],
            lambda self, x: self.table[int(torch.rand(()) * 3)],
            lambda self, x: -torch.log(1 - torch.rand_like(x)),
        ],
        ids=["indices for each row", "in a narrow type", "one for all rows", "exponential"],
    )
    def test_are_never_1_while_it_is_tried(self, factor):
        module = Custom(lambda self, x: x * factor(self, x) if self.training else x, table=torch.randn(3, 4))
        engine = Engine.from_module(module, torch.randn(3, 4), runtime="eager")
        assert [site.kind for site in engine.sites] == ["uniform"]
        assert np.isfinite(engine.samples(np.ones((2, 4), np.float32), 20, 1)).all()

    def test_of_relaxed_bernoulli_variables_make_concrete_dropout(self):
        def forward(self, x):
            if not self.training:
                return x
            drop = torch.distributions.RelaxedBernoulli(0.1, probs=torch.full_like(x, 0.3)).rsample()
            return x * (1 - drop) / 0.7

        module = nn.Sequential(nn.Linear(4, 8), Custom(forward), nn.Linear(8, 3))
        engine = Engine.from_module(module, torch.randn(3, 4), runtime="eager")
        assert [(site.name, site.kind, site.shape) for site in engine.sites] == [("1", "uniform", (8,))]

    @pytest.mark.wide
    @pytest.mark.parametrize("std", [0.8, 0.9, 1.0])
    def test_noise_that_is_drawn_again_where_it_is_out_of_bounds_is_refused(self, std):
        def forward(self, x):
            hidden = self.first(x)
            if self.training:
                hidden = hidden + nn.init.trunc_normal_(torch.empty_like(hidden), std=std)
            return self.last(hidden)

        torch.manual_seed(0)
        module = Custom(forward, first=nn.Linear(4, 8), last=nn.Linear(8, 3))
        with pytest.raises(UnsupportedModelError, match=r"makes a random call \(normal\) that was not made when"):
            Engine.from_module(module, torch.randn(4, 4))

    def test_noise_that_is_hardly_ever_out_of_bounds_is_served(self):
        def forward(self, x):
            hidden = self.first(x)
            if self.training:
                hidden = hidden + nn.init.trunc_normal_(torch.empty_like(hidden), std=0.2)
            return self.last(hidden)

        torch.manual_seed(0)
        engine = Engine.from_module(Custom(forward, first=nn.Linear(4, 8), last=nn.Linear(8, 3)), torch.randn(4, 4))
        assert [(site.kind, site.shape) for site in engine.sites] == [("normal", (8,))]


def _written(network):
    network.noise.copy_(torch.randn(4))


def _drawn_in_place(network):
    network.noise.normal_()


def _put_there(network):
    network.noise = torch.randn(4)


def _averaged(network):
    network.noise.mul_(0.9).add_(torch.randn(4))


def _partly_written(network):
    network.noise[:2] += torch.randn(2)


class TestNoiseThatIsKeptInABuffer:
    @staticmethod
    def module(write):
        def forward(self, x):
            if self.training:
                write(self)
                x = x * (1.0 + 0.2 * self.noise)
            return self.last(x)

        torch.manual_seed(0)
        module = Custom(forward, last=nn.Linear(4, 3))
        module.register_buffer("noise", torch.zeros(4))
        return module

    @pytest.mark.wide
    @pytest.mark.parametrize("runtime", ["auto", "eager"])
    @pytest.mark.parametrize("write", [_written, _drawn_in_place, _put_there])
    def test_that_each_pass_writes_anew_is_served(self, write, runtime):
        module, x = self.module(write), torch.randn(3, 4)
        engine = Engine.from_module(module, x, "regression", runtime=runtime)
        assert torch.equal(module.noise, torch.zeros(4))
        (site,) = engine.sites
        assert (site.kind, site.shape, site.scope) == ("normal", (4,), "pass")
        noise = torch.randn(4)
        (found,) = engine.outputs(x, [noise.numpy()])
        same(torch.from_numpy(found), module.last(x * (1.0 + 0.2 * noise)))

    @pytest.mark.parametrize("write", [_averaged, _partly_written])
    def test_that_keeps_something_of_the_pass_before_is_refused(self, write):
        with pytest.raises(EngineError):
            Engine.from_module(self.module(write), torch.randn(3, 4), "regression")


class TestDropBlock:
    @staticmethod
    def over_the_batch(p, width=6):
        """What is kept is scaled by how much of the whole batch is kept."""

        def forward(self, x):
            if not self.training:
                return x
            dropped = (torch.rand(x.shape) < p / 9).float()
            mask = 1 - F.max_pool2d(dropped, 3, 1, 1)
            return x * mask * (mask.numel() / mask.sum())

        return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), Custom(forward), nn.Flatten(), nn.Linear(2 * width**2, 3))

    @pytest.mark.parametrize("p", [0.05, 0.1, 0.5])
    def test_normalized_over_the_whole_batch_runs_each_row_alone(self, p):
        engine = Engine.from_module(self.over_the_batch(p), torch.randn(3, 1, 6, 6), runtime="auto")
        assert (engine.program.strategy, engine.program.runtime) == ("mapped", "eager")
        x = torch.randn(5, 1, 6, 6)
        together = engine.samples(x, 20, 1)
        alone = engine.samples(x[:1], 20, 1)
        np.testing.assert_allclose(together[:, :1], alone, atol=1e-6)

    def test_normalized_over_the_whole_batch_answers_as_a_batch_of_one_does(self):
        module = self.over_the_batch(0.5)
        engine = Engine.from_module(module, torch.randn(3, 1, 6, 6), runtime="eager")
        x, numbers = torch.randn(2, 1, 6, 6), torch.rand(2, 2, 6, 6)
        (found,) = engine.outputs(x, [numbers.numpy()])
        for row in range(2):
            mask = 1 - F.max_pool2d((numbers[row : row + 1] < 0.5 / 9).float(), 3, 1, 1)
            hidden = module[0](x[row : row + 1]) * mask * (mask.numel() / mask.sum())
            same(torch.from_numpy(found[row]), module[3](module[2](hidden))[0])

    @pytest.mark.wide
    @pytest.mark.parametrize(
        ("drawn", "strategy"),
        [
            (lambda x: torch.empty(x.shape).bernoulli_(0.1), "mapped"),
            (lambda x: (torch.empty(x.shape).uniform_(-1.0, 1.0) > 0.8).float(), "mapped"),
            (lambda x: (torch.empty(x.shape).normal_() > 1.0).float(), "mapped"),
            (lambda x: [number := torch.zeros(x.shape), number.bernoulli_(0.1)][0], "loop"),
            (lambda x: [number := torch.ones(x.shape), number.uniform_(), number < 0.1][2].float(), "loop"),
        ],
        ids=["bernoulli", "uniform", "normal", "a tensor that is read later", "a tensor that is compared later"],
    )
    def test_that_fills_a_tensor_is_mapped_where_that_answers_as_one_row_after_another(self, drawn, strategy):
        def forward(self, x):
            if not self.training:
                return x
            mask = 1 - F.max_pool2d(drawn(x), 3, 1, 1)
            return x * mask * (mask.numel() / (mask.sum() + 1e-7))

        module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), Custom(forward), nn.Flatten(), nn.Linear(2 * 6**2, 3))
        subject = understand(module, torch.randn(3, 1, 6, 6).numpy())
        assert subject.network.alone
        *_, program = subject.programs(Target(runtime="eager"))
        assert program.strategy == strategy
        x, masks = torch.randn(2, 1, 6, 6), list(map(torch.from_numpy, subject.source.draw([1, 2], [0, 1], 0, 1)))
        found = subject.network.run([x], masks)
        subject.network.maps = False
        same(found[0], subject.network.run([x], masks)[0])

    @pytest.mark.long
    def test_within_a_branch_that_is_dropped_at_random_is_a_site_too(self):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.convolution, self.block, self.path = (
                    nn.Conv2d(2, 2, 3, padding=1),
                    DropBlock2d(0.3, 2),
                    drop_path(0.8),
                )

            def forward(self, x):
                return x + self.path(self.block(torch.relu(self.convolution(x))))

        network = find(nn.Sequential(*(Block() for _ in range(6))), torch.randn(2, 2, 4, 4))
        assert names(network) == [f"{block}.{drop}" for block in range(6) for drop in ("block", "path")]

    def test_normalized_over_each_row_shares_batches(self):
        module = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), DropBlock2d(0.3, 3), nn.Flatten(), nn.Linear(72, 3))
        engine = Engine.from_module(module, torch.randn(3, 1, 6, 6), runtime="torch")
        assert (engine.program.strategy, engine.shares_rows) == ("split", True)
        assert [(site.name, site.shape) for site in engine.sites] == [("1", (2, 4, 4))]


class TestDropConnect:
    def test_drops_weights_that_all_rows_of_a_pass_share(self):
        def forward(self, x):
            return F.linear(x, F.dropout(self.linear.weight, 0.25, self.training), self.linear.bias)

        module = Custom(forward, linear=nn.Linear(4, 3))
        engine = Engine.from_module(module, torch.randn(3, 4), "regression", runtime="torch")
        (site,) = engine.sites
        assert (site.kind, site.p, site.scope, site.shape) == ("dropconnect", 0.25, "pass", (3, 4))
        assert not engine.shares_rows
        x = torch.randn(1, 4).expand(4, 4)
        samples = engine.samples(x, 10, 1)
        assert (samples == samples[:, :1]).all()
        assert len(np.unique(samples[:, 0], axis=0)) > 5

    @pytest.mark.parametrize("gated", [False, True])
    def test_through_a_parametrization(self, gated):
        def forward(self, weight):
            if gated and not self.training:
                return weight
            return F.dropout(weight, 0.25, self.training)

        linear = nn.Linear(4, 3)
        nn.utils.parametrize.register_parametrization(linear, "weight", Custom(forward))
        network = find(linear, torch.randn(2, 4))
        (site,) = network.sites
        assert (site.name, site.kind, site.scope, site.shape, site.in_eval) == (
            "parametrizations.weight.0",
            "dropconnect",
            "pass",
            (3, 4),
            not gated,
        )
        x, (mask,) = torch.randn(3, 4), drawn(network, 3)
        original = linear.parametrizations.weight.original
        same(ran(network, x, masks=[mask]), F.linear(x, original * mask, linear.bias))

    def test_of_the_recurrent_weights_of_an_lstm(self):
        def forward(self, x):
            weights = dict(self.lstm.named_parameters())
            weights["weight_hh_l0"] = F.dropout(weights["weight_hh_l0"], 0.5, self.training)
            return torch.func.functional_call(self.lstm, weights, (x,))[0]

        module = Custom(forward, lstm=nn.LSTM(4, 6, batch_first=True))
        network = find(module, torch.randn(2, 5, 4))
        assert [(site.kind, site.scope, site.shape) for site in network.sites] == [("dropconnect", "pass", (24, 6))]
        x, (mask,) = torch.randn(3, 5, 4), drawn(network, 3)
        other = copy.deepcopy(module.lstm)
        with torch.no_grad():
            other.weight_hh_l0.mul_(mask)
        same(ran(network, x, masks=[mask]), other(x)[0])


class TestMissingNumbers:
    """A network that takes NaN for what is missing, as one does that puts a learned value in its place."""

    @staticmethod
    def module():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
        return Custom(
            lambda self, x: self.net(torch.where(torch.isnan(x), self.value, x)),
            net=network,
            value=nn.Parameter(torch.rand(4)),
        )

    X = torch.tensor([[0.1, torch.nan, 0.3, 0.4], [0.5, 0.6, torch.nan, torch.nan], [0.9, 1.0, 1.1, 1.2]])

    @pytest.mark.parametrize("runtime", ["eager", "auto"])
    def test_are_what_the_network_makes_of_them(self, runtime, tmp_path):
        module = self.module()
        engine = Engine.from_module(module, self.X, runtime=runtime, missing=True)
        filled = torch.where(torch.isnan(self.X), module.value, self.X).detach()
        np.testing.assert_allclose(engine.samples(self.X, 9, 1), engine.samples(filled, 9, 1), atol=1e-6)
        if runtime == "auto":
            engine.save(tmp_path)
            loaded = Engine.load(tmp_path)
            np.testing.assert_array_equal(loaded.samples(self.X, 9, 1), engine.samples(self.X, 9, 1))

    def test_are_refused_where_they_may_not_be_and_infinity_anywhere(self):
        engine = Engine.from_module(self.module(), self.X.nan_to_num(), runtime="eager")
        with pytest.raises(InvalidInputError, match=r"holds NaN or infinity at \[0, 1\]; finite numbers are accepted"):
            engine.predict(self.X)
        engine = Engine.from_module(self.module(), self.X, runtime="eager", missing=True)
        with pytest.raises(InvalidInputError, match=r"infinity at \[0, 0\]; finite numbers and NaN are accepted"):
            engine.predict(self.X / 0.0)


class TestInputsOfBfloat16:
    @pytest.mark.parametrize("runtime", ["eager", "auto"])
    def test_come_to_a_network_of_bfloat16_as_they_are(self, runtime):
        module = mlp().to(torch.bfloat16)
        x = torch.rand(3, 4, dtype=torch.bfloat16)
        engine = Engine.from_module(module, x, runtime=runtime)
        assert engine.inputs[0].dtype == np.float32
        with torch.no_grad():
            wanted = module.eval()(x).float().softmax(-1)
        np.testing.assert_allclose(engine.predict(x, 0).mean, wanted, atol=1e-2)
        found = engine.samples(x, 9, 1)
        np.testing.assert_array_equal(found, engine.samples(x.float(), 9, 1))
        assert np.ptp(found, axis=0).max() > 0.01

    def test_may_stand_beside_others_and_be_named(self):
        def forward(self, x, scale):
            assert (x.dtype, scale.dtype) == (torch.bfloat16, torch.float32)
            return self.net(x.float() * scale)

        class Named(Custom):
            def forward(self, x, scale):
                return self._run(self, x, scale)

        inputs = {"x": torch.rand(3, 4, dtype=torch.bfloat16), "scale": torch.rand(3, 1)}
        engine = Engine.from_module(Named(forward, net=mlp()), inputs, runtime="eager")
        assert engine.predict(inputs, 9, 1).mean.shape == (3, 3)


def test_a_sparse_tensor_is_refused():
    with pytest.raises(InvalidInputError, match="the example input is no array of numbers"):
        Engine.from_module(mlp(), torch.eye(4).to_sparse())


def test_what_stands_for_missing_numbers_is_not_that_of_other_rows():
    def forward(self, x):
        filled = torch.where(x.isnan(), x.nanmean(0).nan_to_num(0), x)
        return self.out(self.drop(F.relu(self.first(filled))))

    torch.manual_seed(0)
    module = Custom(forward, first=nn.Linear(3, 8), drop=nn.Dropout(0.3), out=nn.Linear(8, 2))
    engine = Engine.from_module(module, torch.randn(4, 3), "regression", missing=True)
    x = torch.tensor([[torch.nan, 1.0, 2.0], [5.0, 1.0, 2.0]])
    for passes in (0, 5):
        together = engine.predict(x, passes, seed=1).mean
        np.testing.assert_allclose(engine.predict(x[:1], passes, seed=1).mean[0], together[0], atol=1e-6)


def test_an_angle_on_the_negative_half_of_the_axis_is_pi_in_every_program():
    torch.manual_seed(0)
    module = Custom(
        lambda self, x: self.out(self.drop(self.first(torch.atan2(x[:, :1], x[:, 1:])))),
        first=nn.Linear(1, 8),
        drop=nn.Dropout(0.3),
        out=nn.Linear(8, 2),
    ).eval()
    engine = Engine.from_module(module, torch.randn(4, 2), "regression", runtime="onnx")
    x = torch.tensor([[y, x] for y in (-2.0, -0.0, 0.0, 3.0) for x in (-1.0, -0.0, 0.0, 2.0)])
    with torch.no_grad():
        wanted = module(x).numpy()
    signs = (x == 0.0).all(1).numpy()  # of two zeros the angle is a matter of their signs alone
    np.testing.assert_allclose(engine.predict(x, 0).mean[~signs], wanted[~signs], atol=1e-5)


SEEDED_ONCE = torch.Generator().manual_seed(3)
# What no mask stands for, drawn by a generator: columns that are picked, in an order.
PICKED = {
    "randperm": lambda generator: torch.randperm(4, generator=generator),
    "multinomial": lambda generator: torch.multinomial(torch.ones(4), 3, generator=generator),
    "randint": lambda generator: torch.randint(4, (3,), generator=generator),
}


def picks(drawn, generator):
    torch.manual_seed(0)
    parts = {"drop": nn.Dropout(0.5), "last": nn.Linear(4 if drawn is PICKED["randperm"] else 3, 3)}
    return Custom(lambda self, x: self.last(self.drop(x[:, drawn(generator())])), **parts).eval()


@pytest.mark.parametrize("drawn", PICKED.values(), ids=PICKED)
def test_what_a_generator_draws_that_is_seeded_anew_in_each_pass_is_not_random(drawn):
    x, module = torch.rand(3, 4), picks(drawn, lambda: torch.Generator().manual_seed(3))
    engine = Engine.from_module(module, x)
    assert names(engine) == ["drop"]
    np.testing.assert_allclose(engine.predict(x, 0).mean, module(x).softmax(-1).detach(), atol=1e-6)
    mask = engine.masks(1, 0, 0, 1)[0]
    wanted = module.last(x[:1, drawn(torch.Generator().manual_seed(3))] * torch.from_numpy(mask)).softmax(-1)
    np.testing.assert_allclose(engine.samples(x[:1], 1, seed=1)[0], wanted.detach(), atol=1e-6)


@pytest.mark.parametrize("drawn", PICKED.values(), ids=PICKED)
def test_what_a_generator_draws_that_goes_on_from_pass_to_pass_is_refused(drawn):
    with pytest.raises(UnsupportedModelError, match="does not repeat itself in eval mode: aten"):
        Engine.from_module(picks(drawn, lambda: SEEDED_ONCE), torch.rand(3, 4))
