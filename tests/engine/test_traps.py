"""Traps: what goes wrong with Monte Carlo dropout that looks right. One class for each; masks are given by the tests.

Where it can be, what a network answers under masks is compared with the same computation written out by hand.
"""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from service.engine import Engine, UnsupportedModelError, VerificationError
from service.engine.calls import attention
from service.engine.discovery import discover
from service.engine.masks import MaskSource
from service.layers import DropBlock2d
from tests.engine.networks import Custom, centred, conv_net, drop_path, mlp


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Several cost small networks time, and most of it beside other work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    torch.manual_seed(0)


def find(module, *inputs):
    return discover(module, inputs).network


def ran(network, *inputs, masks):
    outputs = network.run(inputs, masks)
    return outputs[0] if len(outputs) == 1 else outputs


def drawn(network, rows, number=0):
    masks = MaskSource(network.sites).draw([1] * rows, range(rows), number, 1)
    return [torch.from_numpy(mask) for mask in masks]


def kept(network, rows):
    return [torch.from_numpy(mask) for mask in MaskSource(network.sites).keep_everything(rows)]


def names(network):
    return [site.name for site in network.sites]


def same(found, wanted, tolerance=1e-6):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def has_eval_mode_and_every_site_has_an_effect(module, network, *inputs):
    rows = len(inputs[0])
    plain = ran(network, *inputs, masks=kept(network, rows))
    same(plain, module.eval()(*inputs), 1e-5)
    for index in range(len(network.sites)):
        one = kept(network, rows)
        one[index] = torch.zeros_like(one[index])
        assert not torch.allclose(ran(network, *inputs, masks=one), plain)


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


def multi_head(attending, queries, keys, weights_mask, blocked=None):
    """Multi-head attention of `[rows, length, features]`, written out, with a mask on its weights."""
    rows, length, features = queries.shape
    weights, biases = attending.in_proj_weight.chunk(3), attending.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, weight, bias).unflatten(-1, (attending.num_heads, -1)).transpose(1, 2)
        for x, weight, bias in zip((queries, keys, keys), weights, biases, strict=True)
    )
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if blocked is not None:
        scores = scores.masked_fill(blocked[:, None, None, :], -torch.inf)
    mixed = (scores.softmax(-1) * weights_mask) @ v
    return attending.out_proj(mixed.transpose(1, 2).reshape(rows, length, features))


def encoder_layer(layer, x, masks, blocked=None):
    """A transformer encoder layer that normalizes last, written out."""
    weights, after_attention, inner, after = masks
    x = layer.norm1(x + multi_head(layer.self_attn, x, x, weights, blocked) * after_attention)
    return layer.norm2(x + layer.linear2(torch.relu(layer.linear1(x)) * inner) * after)


class TestTransformersThatTakeAFastPathInEvalMode:
    @staticmethod
    def layer(batch_first=True):
        return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=batch_first)

    SITES = ("self_attn", "dropout1", "dropout", "dropout2")

    def test_a_layer(self):
        layer = self.layer()
        network = find(layer, torch.randn(2, 5, 8))
        assert names(network) == list(self.SITES)
        x, masks = torch.randn(3, 5, 8), drawn(network, 3)
        same(ran(network, x, masks=masks), encoder_layer(layer, x, masks))
        has_eval_mode_and_every_site_has_an_effect(layer, network, x)

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_an_encoder(self, batch_first):
        def forward(self, x):
            return self.encoder(x) if batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)

        encoder = nn.TransformerEncoder(self.layer(batch_first), 2, enable_nested_tensor=batch_first)
        module = Custom(forward, encoder=encoder)
        network = find(module, torch.randn(2, 5, 8))
        assert names(network) == [f"encoder.layers.{layer}.{site}" for layer in range(2) for site in self.SITES]
        x, masks = torch.randn(3, 5, 8), drawn(network, 3)
        wanted = encoder_layer(encoder.layers[1], encoder_layer(encoder.layers[0], x, masks[:4]), masks[4:])
        same(ran(network, x, masks=masks), wanted)
        has_eval_mode_and_every_site_has_an_effect(module, network, x)

    def test_an_encoder_with_padding(self):
        encoder = nn.TransformerEncoder(self.layer(), 2)
        first = Custom(lambda self, x, ends: self.encoder(x, src_key_padding_mask=ends)[:, 0], encoder=encoder)
        x, ends = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([[5], [3], [4]])
        network = find(first, x, ends)
        assert len(network.sites) == 8
        masks = drawn(network, 3)
        hidden = encoder_layer(encoder.layers[0], x, masks[:4], ends)
        same(ran(network, x, ends, masks=masks), encoder_layer(encoder.layers[1], hidden, masks[4:], ends)[:, 0])
        has_eval_mode_and_every_site_has_an_effect(first, network, x, ends)

    def test_an_encoder_whose_eval_mode_zeroes_what_is_padded_is_refused_with_the_remedy(self):
        mean = Custom(lambda self, x, ends: self.encoder(x, src_key_padding_mask=ends).mean(1))
        x, ends = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([[5], [3], [4]])
        mean.encoder = nn.TransformerEncoder(self.layer(), 2)
        with pytest.raises(VerificationError, match=r"equals its eval mode.*enable_nested_tensor=False"):
            Engine.from_module(mean, (x, ends), runtime="eager")
        mean.encoder = nn.TransformerEncoder(self.layer(), 2, enable_nested_tensor=False)
        assert len(Engine.from_module(mean, (x, ends), runtime="eager").sites) == 8

    def test_a_transformer_of_encoder_and_decoder(self):
        module = nn.Transformer(8, 2, 1, 1, 16, dropout=0.3, batch_first=True)
        network = find(module, torch.randn(2, 5, 8), torch.randn(2, 4, 8))
        decoder = ("self_attn", "dropout1", "multihead_attn", "dropout2", "dropout", "dropout3")
        assert names(network) == [
            *(f"encoder.layers.0.{site}" for site in self.SITES),
            *(f"decoder.layers.0.{site}" for site in decoder),
        ]
        assert [site.shape for site in network.sites if site.kind == "attention"] == [(2, 5, 5), (2, 4, 4), (2, 4, 5)]
        has_eval_mode_and_every_site_has_an_effect(module, network, torch.randn(3, 5, 8), torch.randn(3, 4, 8))


class TestMultiHeadAttention:
    @pytest.mark.parametrize("batch_first", [True, False])
    @pytest.mark.parametrize("need_weights", [True, False])
    def test_drops_attention_weights_that_eval_mode_does_not_drop(self, batch_first, need_weights):
        def forward(self, x):
            x = x if batch_first else x.transpose(0, 1)
            mixed, weights = self.attending(x, x, x, need_weights=need_weights)
            mixed = mixed if batch_first else mixed.transpose(0, 1)
            return (mixed, weights) if need_weights else mixed

        attending = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=batch_first)
        module = Custom(forward, attending=attending)
        network = find(module, torch.randn(2, 5, 8))
        (site,) = network.sites
        assert (site.name, site.kind, site.p, site.scope, site.shape) == (
            "attending",
            "attention",
            0.4,
            "row",
            (2, 5, 5),
        )
        x, (mask,) = torch.randn(3, 5, 8), drawn(network, 3)
        mixed = ran(network, x, masks=[mask])
        if need_weights:
            mixed, weights = mixed
            undropped = module.eval()(x)[1]
            assert weights.shape == undropped.shape
            assert not torch.allclose(weights, undropped)
        same(mixed, multi_head(attending, x, x, mask))

    def test_only_the_attention_itself_leaves_eval_mode(self):
        attending = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True)
        module = Custom(lambda self, x: self.attending(x, x, x)[0], attending=attending)
        assert find(module, torch.randn(2, 5, 8)).awake == {"attending"}

    def test_of_other_keys_and_values_with_an_added_key(self):
        attending = nn.MultiheadAttention(
            8, 2, dropout=0.4, batch_first=True, add_bias_kv=True, add_zero_attn=True, kdim=6, vdim=7
        )
        module = Custom(lambda self, *x: self.attending(*x)[0], attending=attending)
        inputs = torch.randn(3, 5, 8), torch.randn(3, 4, 6), torch.randn(3, 4, 7)
        network = find(module, *inputs)
        assert [site.shape for site in network.sites] == [(2, 5, 6)]
        has_eval_mode_and_every_site_has_an_effect(module, network, *inputs)


def _causal_mask_with_an_empty_row():
    mask = torch.ones(4, 6, dtype=torch.bool).tril()
    mask[2] = False
    return mask


ATTENTION = [
    {},
    {"attn_mask": torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) > 0.4},
    {"attn_mask": torch.rand(3, 1, 4, 6, generator=torch.Generator().manual_seed(2)) > 0.2},
    {"attn_mask": torch.randn(4, 6, generator=torch.Generator().manual_seed(3))},
    {"attn_mask": torch.randn(3, 4, 4, 6, generator=torch.Generator().manual_seed(4))},
    {"attn_mask": _causal_mask_with_an_empty_row()},
    {"attn_mask": torch.zeros(4, 6).masked_fill(~_causal_mask_with_an_empty_row(), -torch.inf)},
    {"attn_mask": torch.zeros(4, 6).masked_fill(~_causal_mask_with_an_empty_row(), torch.finfo(torch.float32).min)},
    {"is_causal": True},
    {"scale": 0.2},
    {"enable_gqa": True},
    {"enable_gqa": True, "is_causal": True, "scale": 0.2},
]


class TestScaledDotProductAttention:
    """The weights that PyTorch computes are read off by letting each value be a unit vector of its own."""

    @staticmethod
    def tensors(options, keys=6):
        heads = 2 if options.get("enable_gqa") else 4
        return torch.randn(3, 4, 4, 8), torch.randn(3, heads, keys, 8), torch.randn(3, heads, keys, 5)

    @staticmethod
    def network(options):
        def forward(self, *inputs):  # a fourth is a mask
            return F.scaled_dot_product_attention(*inputs, dropout_p=self.p if self.training else 0.0, **options)

        return Custom(forward, p=0.4)

    @pytest.mark.parametrize("options", ATTENTION)
    def test_drops_weights_though_in_eval_mode_its_p_is_0_and_keeps_them_otherwise(self, options):
        query, key, value = self.tensors(options)
        inputs = query, key, value
        of_network = dict(options)
        if options.get("attn_mask", query[0]).dim() == 4:  # one for each row
            inputs = *inputs, of_network.pop("attn_mask")
        network = find(self.network(of_network), *inputs)
        assert [(site.kind, site.p, site.shape) for site in network.sites] == [("attention", 0.4, (4, 4, 6))]
        (mask,), (everything,) = drawn(network, 3), kept(network, 3)
        same(ran(network, *inputs, masks=[everything]), F.scaled_dot_product_attention(query, key, value, **options))
        weights = F.scaled_dot_product_attention(query, key, torch.eye(6).expand(*key.shape[:2], 6, 6), **options)
        repeated = value.repeat_interleave(4 // value.shape[1], 1)
        same(ran(network, *inputs, masks=[mask]), (weights * mask) @ repeated)

    @pytest.mark.parametrize("keys", [3, 4, 6])
    def test_lets_a_query_see_as_far_as_pytorch_does_where_keys_are_more_or_fewer(self, keys):
        query, key, value = self.tensors({}, keys)
        ones = torch.ones(3, 4, 4, keys)
        wanted = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        same(attention(ones, query, key, value, is_causal=True), wanted)

    def test_takes_groups_of_other_sizes_for_keys_and_values(self):
        query, key, value = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 4, 5, 8)
        wanted = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        same(attention(torch.ones(2, 4, 3, 5), query, key, value, enable_gqa=True), wanted)

    def test_a_query_that_all_rows_share_has_weights_of_each_rows_own(self):
        def forward(self, x):
            heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
            p = 0.5 if self.training else 0.0
            return F.scaled_dot_product_attention(self.queries, heads, heads, dropout_p=p)

        network = find(Custom(forward, queries=nn.Parameter(torch.randn(1, 2, 3, 4))), torch.randn(2, 5, 8))
        assert [(site.scope, site.shape) for site in network.sites] == [("row", (2, 3, 5))]


RECURRENT = [
    (nn.LSTM, {}),
    (nn.GRU, {}),
    (nn.RNN, {"nonlinearity": "tanh"}),
    (nn.RNN, {"nonlinearity": "relu"}),
    (nn.LSTM, {"proj_size": 3}),
]


def its_layers(recurrent):
    """The layers of a recurrent module, each as a module of its own without dropout."""
    options = {"bidirectional": recurrent.bidirectional, "batch_first": recurrent.batch_first}
    if isinstance(recurrent, nn.RNN):
        options["nonlinearity"] = recurrent.nonlinearity
    if recurrent.proj_size:
        options["proj_size"] = recurrent.proj_size
    width = (recurrent.proj_size or recurrent.hidden_size) * (2 if recurrent.bidirectional else 1)
    layers = []
    for number in range(recurrent.num_layers):
        one = type(recurrent)(width if number else recurrent.input_size, recurrent.hidden_size, **options)
        own = {name: value for name, value in recurrent.named_parameters() if re.search(rf"_l{number}(_|$)", name)}
        one.load_state_dict({name.replace(f"_l{number}", "_l0"): value for name, value in own.items()})
        layers.append(one.requires_grad_(False))
    return layers


def flat(output, states):
    """What a recurrent layer that takes rows first returns, as `[rows, features]`."""
    states = states if isinstance(states, tuple) else (states,)
    return torch.cat([output.flatten(1), *(state.transpose(0, 1).flatten(1) for state in states)], 1)


class TestRecurrentLayersWithDropoutBetweenThem:
    @pytest.mark.parametrize("both_ways", [False, True])
    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.parametrize("layers", [2, 3])
    @pytest.mark.parametrize(("kind", "options"), RECURRENT)
    def test_equal_layers_with_a_mask_between_each_and_the_next_to_the_bit(
        self, kind, options, layers, batch_first, both_ways
    ):
        def order(x):
            return x if batch_first else x.transpose(0, 1)

        def forward(self, x):
            output, states = self.recurrent(order(x))
            return flat(order(output), states)

        recurrent = kind(4, 6, layers, dropout=0.3, batch_first=batch_first, bidirectional=both_ways, **options)
        module = Custom(forward, recurrent=recurrent)
        network = find(module, torch.randn(2, 5, 4))
        width = (options.get("proj_size") or 6) * (1 + both_ways)
        assert [(site.path, site.kind, site.p, site.shape) for site in network.sites] == [
            ("recurrent", "element", 0.3, (5, width))
        ] * (layers - 1)
        x, masks = torch.randn(3, 5, 4), drawn(network, 3)
        hidden, ends = order(x), []
        for layer, mask in zip(its_layers(recurrent), [*masks, None], strict=True):
            hidden, end = layer(hidden)
            ends.append(end if isinstance(end, tuple) else (end,))
            hidden = hidden if mask is None else hidden * order(mask)
        states = tuple(torch.cat(parts) for parts in zip(*ends, strict=True))
        assert torch.equal(ran(network, x, masks=masks), flat(order(hidden), states))
        same(ran(network, x, masks=kept(network, 3)), module.eval()(x))

    def test_start_from_the_states_that_they_are_given(self):
        def forward(self, x, start):
            return flat(*self.recurrent(x, start.transpose(0, 1).contiguous()))

        recurrent = nn.GRU(4, 6, 2, dropout=0.3, batch_first=True)
        module = Custom(forward, recurrent=recurrent)
        x, start = torch.randn(3, 5, 4), torch.randn(3, 2, 6)
        network = find(module, x, start)
        (mask,) = drawn(network, 3)
        (first, second), starts = its_layers(recurrent), start.transpose(0, 1).contiguous()
        hidden, end = first(x, starts[:1])
        output, last = second(hidden * mask, starts[1:])
        assert torch.equal(ran(network, x, start, masks=[mask]), flat(output, torch.cat([end, last])))

    def test_without_dropout_or_with_one_layer_they_have_no_site(self):
        module = nn.Sequential(Custom(lambda self, x: self.lstm(x)[0], lstm=nn.LSTM(4, 6, 2)), nn.Dropout(0.5))
        assert names(find(module, torch.randn(2, 5, 4))) == ["1"]


class TestPackedSequences:
    @pytest.fixture(autouse=True)
    def _without_kernels_compiled_for_each_length(self):
        with torch.backends.mkldnn.flags(enabled=False):
            yield

    CALLS = (lambda layer, packed: layer(packed), lambda layer, packed: layer(input=packed))

    @staticmethod
    def module(kind, call, layers=2, **options):
        def forward(self, x, lengths):
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            output, states = call(self.recurrent, packed)
            return flat(pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0], states)

        return Custom(forward, recurrent=kind(4, 6, layers, dropout=0.3, batch_first=True, **options))

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("both_ways", [False, True])
    @pytest.mark.parametrize(("kind", "options"), RECURRENT)
    def test_give_each_row_what_it_gets_alone(self, kind, options, both_ways, call):
        module = self.module(kind, call, layers=3, bidirectional=both_ways, **options)
        network = find(module, torch.randn(2, 5, 4), torch.tensor([5, 5]))
        x, lengths, masks = torch.randn(4, 5, 4), torch.tensor([2, 5, 3, 4]), drawn(network, 4)
        found = ran(network, x, lengths, masks=masks)
        for row, length in enumerate(lengths.tolist()):
            hidden, ends = x[row : row + 1, :length], []
            for layer, mask in zip(its_layers(module.recurrent), [*masks, None], strict=True):
                hidden, end = layer(hidden)
                ends.append(end if isinstance(end, tuple) else (end,))
                hidden = hidden if mask is None else hidden * mask[row : row + 1, :length]
            states = tuple(torch.cat(parts) for parts in zip(*ends, strict=True))
            padded = F.pad(hidden, (0, 0, 0, 5 - length))
            same(found[row : row + 1], flat(padded, states))

    @pytest.mark.parametrize("lengths", [[5, 5, 5], [2, 3, 4], [1, 1, 5], [4, 2, 1]])
    def test_may_be_longer_or_shorter_than_the_examples(self, lengths):
        engine = Engine.from_module(
            self.module(nn.LSTM, self.CALLS[0]), (torch.randn(3, 5, 4), torch.tensor(lengths)), runtime="eager"
        )
        x, longest, shortest = np.ones((2, 5, 4), np.float32), np.array([5, 2]), np.array([1, 2])
        assert engine.sites[0].shape == (5, 6)
        assert np.isfinite(engine.samples((x, longest), 3, 1)).all()
        np.testing.assert_allclose(
            engine.samples((x, longest), 3, 1)[:, 1], engine.samples((x, shortest), 3, 1)[:, 1], atol=1e-7
        )

    def test_whose_order_cannot_be_known_are_refused(self):
        module = self.module(nn.LSTM, lambda layer, packed: layer.forward(packed))
        with pytest.raises(UnsupportedModelError, match="in an order that is not known"):
            find(module, torch.randn(2, 5, 4), torch.tensor([5, 5]))


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

    def test_of_relaxed_bernoulli_variables_make_concrete_dropout(self):
        def forward(self, x):
            if not self.training:
                return x
            drop = torch.distributions.RelaxedBernoulli(0.1, probs=torch.full_like(x, 0.3)).rsample()
            return x * (1 - drop) / 0.7

        module = nn.Sequential(nn.Linear(4, 8), Custom(forward), nn.Linear(8, 3))
        engine = Engine.from_module(module, torch.randn(3, 4), runtime="eager")
        assert [(site.name, site.kind, site.shape) for site in engine.sites] == [("1", "uniform", (8,))]


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


class TestRecurrentDropout:
    """`[rows, steps, features]`; the state is dropped from before each step."""

    @staticmethod
    def cell(mask_of):
        def forward(self, x):
            state = x.new_zeros(x.shape[0], 6)
            once = F.dropout(x.new_ones(x.shape[0], 6), 0.5, self.training) if mask_of == "sequence" else None
            for step in x.unbind(1):
                state = self.cell(step, F.dropout(state, 0.5, self.training) if once is None else state * once)
            return state

        return Custom(forward, cell=nn.RNNCell(4, 6))

    def test_with_one_mask_a_sequence_draws_one(self):
        module = self.cell("sequence")
        network = find(module, torch.randn(2, 5, 4))
        assert [(site.name, site.shape) for site in network.sites] == [("(network)", (6,))]
        x, (mask,) = torch.randn(3, 5, 4), drawn(network, 3)
        state = torch.zeros(3, 6)
        for step in x.unbind(1):
            state = module.cell(step, state * mask)
        same(ran(network, x, masks=[mask]), state)

    def test_with_a_fresh_mask_a_step_draws_one_for_each(self):
        module = self.cell("step")
        network = find(module, torch.randn(2, 5, 4))
        assert names(network) == ["(network)", *(f"(network)#{step}" for step in range(1, 5))]
        x, masks = torch.randn(3, 5, 4), drawn(network, 3)
        state = torch.zeros(3, 6)
        for step, mask in zip(x.unbind(1), masks, strict=True):
            state = module.cell(step, state * mask)
        same(ran(network, x, masks=masks), state)


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

    def test_by_a_module_that_drops_units_itself_too_are_refused(self):
        def forward(self, x):
            for layer in self.layers:
                if self.training and torch.rand(1) < 0.5:
                    continue
                x = F.dropout(layer(x), 0.25, self.training)
            return x

        module = Custom(forward, layers=nn.ModuleList(nn.Linear(4, 4) for _ in range(3)))
        with pytest.raises(UnsupportedModelError, match=r"another random call.*for other numbers"):
            find(module, torch.randn(2, 4))


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

        engine = Engine.from_module(Custom(forward), torch.rand(3, 4), runtime="eager")
        if (p, width) == (0.5, 4):  # nothing tells them apart, and nothing has to: the mask is as good for the other
            assert np.isfinite(engine.samples(np.full((1, 4), 1e3, np.float32), 5)).all()
            return
        with pytest.raises(UnsupportedModelError, match="not made when sites were"):
            engine.predict(np.full((1, 4), 1e3, np.float32), 5)


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
