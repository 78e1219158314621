"""Sites: found by running the network, whatever way it makes its dropout calls, and substituted by masks."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, UnsupportedModelError, VerificationError
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.find.discovery import discover
from tests.engine.networks import Custom, conv_net, drop_connect, mlp


def find(module, inputs):
    return discover(module, inputs).network


def ran(network, inputs, masks):
    (output,) = network.run(inputs, masks)
    return output


def described(network):
    return [(site.name, site.kind, site.p, site.scope, site.shape) for site in network.sites]


def drawn(network, rows, number=0):
    masks = MaskSource(network.sites).draw([1] * rows, range(rows), number, 1)
    return [torch.from_numpy(mask) for mask in masks]


KINDS = [
    (nn.Dropout(0.5), (6, 9), "element", (9,)),
    (nn.Dropout(0.5), (6, 9, 8), "element", (9, 8)),
    (nn.Dropout1d(0.5), (6, 9, 8), "channel", (9, 1)),
    (nn.Dropout1d(0.5), (40, 8), "channel", (1,)),  # two dimensions are [channels, length]
    (nn.Dropout2d(0.5), (6, 9, 8, 7), "channel", (9, 1, 1)),
    (nn.Dropout3d(0.5), (6, 9, 4, 3, 5), "channel", (9, 1, 1, 1)),
    (nn.Dropout3d(0.5), (40, 4, 3, 5), "channel", (1, 1, 1)),  # four are [channels, depth, height, width]
    (nn.AlphaDropout(0.5), (6, 9), "alpha", (9,)),
    (nn.FeatureAlphaDropout(0.5), (6, 9, 8, 7), "feature_alpha", (9, 1, 1)),
]


@pytest.mark.parametrize(("module", "shape", "kind", "mask"), KINDS)
def test_every_kind_of_dropout_module_is_a_site(module, shape, kind, mask):
    network = find(nn.Sequential(module), (torch.ones(shape),))
    assert described(network) == [("0", kind, 0.5, "row", mask)]


@pytest.mark.parametrize(("module", "shape", "kind", "mask"), KINDS)
def test_a_mask_drops_units_together_where_pytorch_drops_them_together(module, shape, kind, mask):
    torch.manual_seed(0)
    dropped = module.train()(torch.ones(shape))
    network = find(nn.Sequential(module), (torch.ones(shape),))
    masked = ran(network, (torch.ones(shape),), drawn(network, shape[0]))
    for axis in range(len(shape)):
        first = dropped.narrow(axis, 0, 1).expand(shape)
        same_in_pytorch = torch.equal(dropped, first)
        assert torch.equal(masked, masked.narrow(axis, 0, 1).expand(shape)) == same_in_pytorch
    torch.testing.assert_close(masked.unique(), dropped.unique())


@pytest.mark.parametrize(
    "function",
    [
        F.dropout,
        F.dropout1d,
        F.dropout2d,
        F.dropout3d,
        F.alpha_dropout,
        F.feature_alpha_dropout,
        torch.dropout,
        torch.feature_dropout,
        torch.alpha_dropout,
        torch.feature_alpha_dropout,
    ],
)
def test_a_functional_dropout_call_is_a_site(function):
    module = Custom(lambda self, x: function(x, 0.3, self.training))
    assert described(find(module, (torch.ones(2, 3, 4, 4, 4),)))[0][::2] == ("(network)", 0.3, _shape_of(function))


def _shape_of(function):
    return (
        (3, 4, 4, 4) if function in (F.dropout, F.alpha_dropout, torch.dropout, torch.alpha_dropout) else (3, 1, 1, 1)
    )


def test_arguments_may_be_named_or_left_to_their_defaults():
    def forward(network, x):
        x = F.dropout(input=x, training=network.training)
        return F.alpha_dropout(x, training=network.training, p=0.25)

    network = find(Custom(forward), (torch.ones(2, 3),))
    assert [(site.name, site.p) for site in network.sites] == [("(network)", 0.5), ("(network)#1", 0.25)]


def test_a_site_multiplies_its_input_by_its_mask():
    network = find(mlp(), (torch.randn(2, 4),))
    x, masks = torch.randn(5, 4), drawn(network, 5)
    first, relu, _, last = network.module
    torch.testing.assert_close(ran(network, (x,), masks), last(relu(first(x)) * masks[0]))


def test_masks_that_keep_everything_give_eval_mode():
    module, x = conv_net(), torch.rand(5, 1, 6, 6)
    network = find(module, (x,))
    masks = [torch.from_numpy(mask) for mask in MaskSource(network.sites).keep_everything(5)]
    torch.testing.assert_close(ran(network, (x,), masks), module.eval()(x), rtol=0, atol=0)


def test_a_dropout_call_that_is_gone_in_eval_mode_is_a_site_and_only_its_module_leaves_eval_mode():
    def forward(network, x):
        if network.training:
            x = F.dropout(x, 0.5)
        return network.child(x)

    module = nn.Sequential(Custom(forward, child=nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))), nn.Linear(4, 3))
    network = find(module, (torch.randn(2, 4),))
    assert [(site.name, site.p, site.in_eval) for site in network.sites] == [
        ("0", 0.5, False),
        ("0.child.1", 0.1, True),
    ]
    assert [path for path, part in network.module.named_modules() if part.training] == ["0"]
    x, masks = torch.randn(3, 4), drawn(network, 3)
    linear, last = network.module[0].child[0], network.module[1]
    torch.testing.assert_close(ran(network, (x,), masks), last(linear(x * masks[0]) * masks[1]))


def test_other_behaviour_of_train_mode_stays_off():
    def forward(network, x):
        return x + 100.0 if network.training else x

    module = nn.Sequential(Custom(forward), nn.Dropout(0.5))
    network = find(module, (torch.randn(2, 4),))
    x = torch.randn(2, 4)
    torch.testing.assert_close(ran(network, (x,), [torch.ones(2, 4)]), x)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5, inplace=True), nn.Dropout2d(0.5, inplace=True)])
def test_dropout_in_place_changes_its_input_too(layer):
    def forward(network, x):
        hidden = x * 2.0
        network.drop(hidden)
        return hidden

    network = find(Custom(forward, drop=layer), (torch.ones(2, 3, 4, 4),))
    (mask,) = drawn(network, 2)
    torch.testing.assert_close(ran(network, (torch.ones(2, 3, 4, 4),), [mask]), 2.0 * mask.expand(2, 3, 4, 4))


def test_a_site_called_twice_draws_two_masks():
    module = Custom(lambda self, x: self.drop(self.drop(x) + 1.0), drop=nn.Dropout(0.5))
    network = find(module, (torch.ones(2, 50),))
    assert [site.name for site in network.sites] == ["drop", "drop#1"]
    first, second = drawn(network, 2)
    assert not torch.equal(first, second)
    torch.testing.assert_close(ran(network, (torch.ones(2, 50),), [first, second]), (first + 1.0) * second)


def test_a_dropout_module_shared_by_two_parents_draws_two_masks():
    shared = nn.Dropout(0.5)
    module = nn.Sequential(nn.Sequential(nn.Linear(4, 9), shared), nn.Sequential(nn.Linear(9, 5), shared))
    network = find(module, (torch.ones(2, 4),))
    assert [(site.name, site.shape) for site in network.sites] == [("0.1", (9,)), ("0.1#1", (5,))]


def test_dropout_with_p_of_0_is_no_site():
    module = nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 3), nn.Dropout(0.5))
    assert [site.name for site in find(module, (torch.ones(2, 4),)).sites] == ["2"]


@pytest.mark.parametrize(
    ("module", "seen"),
    [(nn.Linear(4, 3), "none"), (nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.0)), "1: its p is 0")],
)
def test_a_network_without_dropout_is_refused(module, seen):
    with pytest.raises(UnsupportedModelError, match=f"no dropout to switch on.*seen: {seen}.*p above 0"):
        find(module, (torch.ones(2, 4),))


def test_dropout_that_no_input_reaches_is_no_site():
    module = Custom(lambda self, x: self.used(x), used=nn.Dropout(0.5), unused=nn.Dropout(0.5))
    assert [site.name for site in find(module, (torch.ones(2, 4),)).sites] == ["used"]


def test_a_transformer_layer_does_not_skip_its_dropout_on_the_fast_path_of_eval_mode():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    layer.self_attn.dropout = 0.0
    network = find(layer, (torch.randn(2, 3, 8),))
    assert [site.name for site in network.sites] == ["dropout1", "dropout", "dropout2"]
    x, keep = torch.randn(2, 3, 8), [torch.from_numpy(m) for m in MaskSource(network.sites).keep_everything(2)]
    reference = ran(network, (x,), keep)
    torch.testing.assert_close(reference, layer.eval()(x))
    for position in range(3):
        masks = [drawn(network, 2)[index] if index == position else mask for index, mask in enumerate(keep)]
        assert not torch.allclose(ran(network, (x,), masks), reference)


def test_always_on_dropout_is_a_site_that_masks_can_switch_off():
    module = Custom(lambda self, x: self.last(F.dropout(x, 0.5)), last=nn.Linear(4, 3))
    engine = Engine.from_module(module, torch.randn(2, 4), runtime="eager")
    x = np.random.default_rng(0).normal(size=(3, 4))
    wanted = torch.softmax(module.last(torch.from_numpy(x).float()), 1).detach()
    np.testing.assert_allclose(engine.predict(x, 0).mean, wanted, atol=1e-6)
    assert engine.predict(x, 50, 1).variance.min() > 0.0


class TestTheUsersModuleIsLeftAsItIs:
    @staticmethod
    def module():
        torch.manual_seed(5)
        spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(16, 8))
        module = nn.Sequential(*conv_net()[:5], spectral, nn.BatchNorm1d(8), nn.GroupNorm(2, 8), nn.Dropout(0.5))
        module = nn.Sequential(module, nn.Linear(8, 3)).train()
        module[0][1].eval()  # a frozen batch norm
        return module

    def test_to_the_bit_and_in_the_mode_of_each_of_its_parts(self):
        module = self.module()
        before, modes = copy.deepcopy(module.state_dict()), [part.training for part in module.modules()]
        engine = Engine.from_module(module, torch.rand(3, 1, 6, 6), runtime="torch")
        engine.predict(torch.rand(3, 1, 6, 6), 5)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        assert [part.training for part in module.modules()] == modes
        assert all(weight.requires_grad for weight in module.parameters())
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())

    def test_and_so_is_the_global_random_state(self):
        module = self.module()
        state = torch.get_rng_state()
        Engine.from_module(module, torch.ones(3, 1, 6, 6), runtime="eager").predict(torch.ones(1, 1, 6, 6), 5)
        assert torch.equal(torch.get_rng_state(), state)

    def test_and_the_engine_does_not_follow_later_changes_of_its_weights(self):
        module = mlp()
        engine = Engine.from_module(module, torch.ones(1, 4), runtime="eager")
        before = engine.predict(np.ones((1, 4)), 0).mean
        nn.init.zeros_(module[3].weight)
        np.testing.assert_array_equal(engine.predict(np.ones((1, 4)), 0).mean, before)


class TestRowsThatAreNotTheFirstDimension:
    def test_merged_with_another_dimension(self):
        module = Custom(lambda self, x: self.drop(x.flatten(0, 1)).unflatten(0, (-1, 4)), drop=nn.Dropout(0.5))
        network = find(module, (torch.ones(2, 4, 5),))
        (site,) = network.sites
        assert (site.shape, site.rows_per_row, site.scope) == ((4, 5), 4, "row")
        (mask,) = drawn(network, 3)
        torch.testing.assert_close(ran(network, (torch.ones(3, 4, 5),), [mask]), mask)

    def test_second_as_in_sequences_that_come_first(self):
        module = Custom(lambda self, x: self.drop(x.transpose(0, 1)).transpose(0, 1), drop=nn.Dropout(0.5))
        network = find(module, (torch.ones(2, 4, 5),))
        (site,) = network.sites
        assert (site.shape, site.row_axis) == ((4, 5), 1)
        (mask,) = drawn(network, 3)
        torch.testing.assert_close(ran(network, (torch.ones(3, 4, 5),), [mask]), mask)

    def test_merged_with_another_dimension_that_comes_first(self):
        def forward(network, x):
            merged = network.drop(x.transpose(0, 1).flatten(0, 1))
            return merged.unflatten(0, (4, -1)).transpose(0, 1)

        network = find(Custom(forward, drop=nn.Dropout(0.5)), (torch.randn(3, 4, 5),))
        (site,) = network.sites
        assert (site.shape, site.rows_per_row, site.interleaved) == ((4, 5), 4, True)
        (mask,) = drawn(network, 3)
        torch.testing.assert_close(ran(network, (torch.ones(3, 4, 5),), [mask]), mask)


def test_one_mask_a_sequence_stays_one_mask_a_sequence():
    def forward(network, x):
        return x * network.drop(x.new_ones(x.shape[0], 1, x.shape[2]))

    network = find(Custom(forward, drop=nn.Dropout(0.5)), (torch.ones(2, 7, 5),))
    assert described(network) == [("drop", "element", 0.5, "row", (1, 5))]
    (mask,) = drawn(network, 3)
    torch.testing.assert_close(ran(network, (torch.ones(3, 7, 5),), [mask]), mask.expand(3, 7, 5))


def test_dropout_on_a_weight_is_a_site_that_all_rows_share():
    network = find(drop_connect(), (torch.randn(2, 4),))
    assert described(network) == [("(network)", "dropconnect", 0.25, "pass", (3, 4))]
    x, (mask,) = torch.randn(5, 4), drawn(network, 5)
    linear = network.module.linear
    torch.testing.assert_close(ran(network, (x,), [mask]), F.linear(x, linear.weight * mask, linear.bias))


def test_dropout_whose_shape_does_not_follow_the_rows_is_refused():
    module = Custom(lambda self, x: self.drop(x @ x.T) @ x, drop=nn.Dropout(0.5))
    with pytest.raises(UnsupportedModelError, match="exactly one dimension may follow the rows"):
        find(module, (torch.randn(2, 4),))


def test_a_network_that_makes_other_calls_with_more_rows_is_refused():
    def forward(network, x):
        return F.dropout(x, 0.5, network.training) if len(x) < 3 else x

    with pytest.raises(UnsupportedModelError, match="other dropout calls with 3 rows than with 2"):
        find(Custom(forward), (torch.randn(2, 4),))


def test_a_network_that_does_not_run_on_its_example_is_refused_with_the_shape():
    with pytest.raises(UnsupportedModelError, match=r"does not run on the example input of shape \[\[1, 7\]\]"):
        find(mlp(), (torch.randn(1, 7),))


def test_a_network_that_cannot_be_copied_is_refused():
    module = mlp()
    module.lock = (value for value in ())
    with pytest.raises(UnsupportedModelError, match=r"copy.deepcopy\(module\) has to work"):
        find(module, (torch.randn(1, 4),))


def test_a_network_of_several_inputs_has_its_sites_found():
    module = Custom(lambda self, x, y: self.drop(x + y), drop=nn.Dropout(0.5))
    assert described(find(module, (torch.ones(2, 3), torch.ones(2, 3)))) == [("drop", "element", 0.5, "row", (3,))]


@pytest.mark.parametrize("output", [None, 3.0, "text"])
def test_a_network_that_returns_no_tensor_is_refused(output):
    def forward(network, x):
        network.drop(x)
        return output

    with pytest.raises(UnsupportedModelError, match="returns"):
        find(Custom(forward, drop=nn.Dropout(0.5)), (torch.ones(2, 3),))


def test_a_network_that_answers_nan_is_not_taken_for_one_with_other_randomness() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    with torch.no_grad():
        network[2].bias.fill_(torch.nan)
    with pytest.raises(VerificationError, match="NaN or infinite"):
        Engine.from_module(network, torch.rand(2, 4), runtime="torch")
