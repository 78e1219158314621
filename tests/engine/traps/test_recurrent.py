"""Traps of recurrent layers: dropout inside one fused call, packed sequences, one mask a sequence."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mcdropout.engine import Engine, UnsupportedModelError
from tests.engine.networks import Custom
from tests.engine.traps.common import drawn, find, kept, names, ran, same

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
    @pytest.mark.wide
    @pytest.mark.parametrize("both_ways", [False, True])
    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.parametrize("layers", [2, 3])
    @pytest.mark.parametrize(("kind", "options"), RECURRENT)
    @torch.no_grad()
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

    @pytest.mark.wide
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

    @pytest.mark.wide
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
