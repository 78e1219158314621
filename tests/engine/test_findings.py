"""Findings: each place where dropout is known to go wrong is found where it is, and nowhere else."""

from functools import partial

import pytest
import torch
from torch import nn

from mcdropout.engine import inspection
from mcdropout.engine.findings import findings_of_sites
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.cut.export import export
from mcdropout.engine.pytorch.find.discovery import discover
from mcdropout.engine.pytorch.find.findings import findings_of_graph
from mcdropout.engine.pytorch.module import understand
from mcdropout.engine.reading import Reading
from mcdropout.engine.runtimes import Target
from mcdropout.layers import DropConnectLinear, StochasticDepth, VariationalDropout, VariationalLSTM
from tests.engine.networks import Custom, conv_net, mlp


@pytest.fixture(autouse=True)
def _timed_once(monkeypatch):
    monkeypatch.setattr(inspection, "_TIMED_SECONDS", 0.0)


def inspect(module, x, passes=50, row_axis=0, runtime="auto"):
    understanding = partial(understand, module, x, row_axis=row_axis)
    return inspection.inspect(understanding, Reading("classification"), Target(runtime=runtime), passes=passes)


def found(module, *shape):
    """Code and site of everything that is found in a network of one input."""
    x = torch.rand(3, *shape)
    discovery = discover(module, [x])
    network = discovery.network
    graph = export(network, (x,), MaskSource(network.sites))
    findings = [
        *findings_of_sites(network.sites, discovery.off),
        *findings_of_graph(graph, 1, network.sites),
    ]
    assert all(finding.text and finding.source for finding in findings)
    return [(finding.code, finding.site) for finding in findings]


@pytest.mark.parametrize(("module", "shape"), [(mlp(), (4,)), (conv_net(), (1, 6, 6))])
def test_sound_networks_have_no_findings(module, shape):
    assert found(module, *shape) == []


def blocks(*layers):
    return nn.Sequential(nn.Conv2d(1, 4, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def test_dropout_that_feeds_a_batch_norm_directly_or_through_a_convolution():
    assert found(blocks(nn.Dropout2d(0.1), nn.BatchNorm2d(4)), 1, 6, 6) == [("dropout-before-batch-norm", "1")]
    through = blocks(nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    assert found(through, 1, 6, 6) == [("dropout-before-batch-norm", "2")]


def test_a_batch_norm_is_told_of_the_dropout_before_it_and_of_none_further_up():
    module = blocks(nn.Dropout2d(0.1), nn.Conv2d(4, 4, 3), nn.Dropout2d(0.2), nn.BatchNorm2d(4))
    assert found(module, 1, 6, 6) == [("dropout-before-batch-norm", "3")]


def test_other_normalizations_after_dropout_are_no_finding():
    assert found(blocks(nn.Dropout2d(0.1), nn.GroupNorm(2, 4)), 1, 6, 6) == []


def test_dropout_on_the_output():
    assert found(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1)), 4) == [("dropout-on-output", "1")]
    scaled = Custom(lambda self, x: 2 * self.drop(self.body(x)) + 1, body=mlp(), drop=nn.Dropout(0.1))
    assert found(scaled, 4) == [("dropout-on-output", "drop")]


def test_dropout_of_the_last_layers_weights_is_not_dropout_on_the_output():
    assert found(nn.Sequential(nn.Linear(4, 5), DropConnectLinear(5, 3)), 4) == [("shared-mask", "1")]


def test_a_fresh_mask_for_each_step_between_recurrent_layers():
    module = Custom(
        lambda self, x: self.last(self.lstm(x)[0][:, -1]),
        lstm=nn.LSTM(4, 8, 2, dropout=0.2, batch_first=True),
        last=nn.Linear(8, 3),
    )
    assert found(module, 5, 4) == [("fresh-mask-each-step", "lstm")]


def test_a_fresh_mask_for_each_step_of_what_a_recurrent_layer_takes():
    def network(drop):
        gru = nn.GRU(4, 8, batch_first=True)
        return Custom(
            lambda self, x: self.last(self.gru(self.drop(x))[0][:, -1]), gru=gru, drop=drop, last=nn.Linear(8, 3)
        )

    assert found(network(nn.Dropout(0.2)), 5, 4) == [("fresh-mask-each-step", "drop")]
    assert found(network(VariationalDropout(0.2)), 5, 4) == []


def test_a_fresh_mask_for_each_step_of_a_loop_over_cells():
    def forward(network, x):
        state = x.new_zeros(x.shape[0], 8)
        for step in x.unbind(1):
            state = network.drop(network.cell(step, state))
        return network.last(state)

    module = Custom(forward, cell=nn.GRUCell(4, 8), drop=nn.Dropout(0.2), last=nn.Linear(8, 3))
    assert found(module, 5, 4) == [("fresh-mask-each-step", "drop")]
    variational = Custom(
        lambda self, x: self.last(self.body(x)[:, -1]), body=VariationalLSTM(4, 8, 2, 0.2), last=nn.Linear(8, 3)
    )
    assert found(variational, 5, 4) == []


def test_one_dropout_module_between_many_layers_is_not_taken_for_a_loop():
    def forward(network, x):
        for layer in network.layers:
            x = network.drop(layer(x).relu())
        return network.last(x)

    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))
    assert found(Custom(forward, layers=layers, drop=nn.Dropout(0.2), last=nn.Linear(4, 3)), 4) == []


def test_a_rate_above_0_3_on_convolutions():
    assert found(blocks(nn.ReLU(), nn.Dropout2d(0.4)), 1, 6, 6) == [("high-rate-on-convolutions", "2")]
    assert found(blocks(nn.ReLU(), nn.Dropout(0.31)), 1, 6, 6) == [("high-rate-on-convolutions", "2")]
    assert found(blocks(nn.ReLU(), nn.Dropout2d(0.3)), 1, 6, 6) == []
    assert found(blocks(nn.ReLU(), StochasticDepth(0.5)), 1, 6, 6) == []


def test_two_dropouts_in_a_row():
    module = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 3))
    assert found(module, 4) == [("two-dropouts-in-a-row", "2")]
    assert found(nn.Sequential(nn.Dropout(0.5), nn.ReLU(), nn.Linear(4, 4), nn.Dropout(0.2), nn.Linear(4, 3)), 4) == []


def test_dropout_whose_p_is_0_and_dropout_that_reaches_nothing():
    module = Custom(
        lambda self, x: (self.lost(x), self.body(self.none(x)))[1],
        body=mlp(),
        none=nn.Dropout(0.0),
        lost=nn.Dropout(0.5),
    )
    assert found(module, 4) == [("off", "none"), ("off", "lost")]


def test_inspection_of_a_network_without_dropout_tells_the_error():
    told = inspect(nn.Linear(4, 3), torch.rand(3, 4))
    assert told.engine is None
    assert "no dropout to switch on" in told.error


def test_inspection_counts_the_operations_of_both_parts():
    module = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 10))
    told = inspect(module, torch.rand(3, 40), passes=20)
    cost = told.engine.program.cost
    assert (cost.prefix, cost.suffix) == (2 * 40 * 30, 2 * 30 * 10)
    assert cost.share_once == pytest.approx(0.8)
    assert cost.in_deterministic_passes(20) == pytest.approx(0.8 + 20 * 0.2)
    assert told.passes == 20
    assert min(told.seconds) > 0


@pytest.mark.parametrize("batch_first", [True, False])
def test_inspection_counts_recurrent_layers(batch_first):
    lstm = nn.LSTM(4, 8, 2, dropout=0.5, batch_first=batch_first)
    module = Custom(lambda self, x: self.lstm(x)[0].mean(1 if batch_first else 0)[:, :3], lstm=lstm)
    shape = (3, 5, 4) if batch_first else (5, 3, 4)
    told = inspect(module, torch.rand(shape), row_axis=0 if batch_first else 1, runtime="torch")
    cost = told.engine.program.cost
    assert cost.prefix == 5 * 2 * 4 * 8 * (4 + 8)
    assert cost.suffix == 5 * 2 * 4 * 8 * (8 + 8)


def test_inspection_says_where_the_flow_of_data_could_not_be_looked_at():
    def forward(network, x):
        return network.rest(x) if x.abs().sum() >= 0 else x

    told = inspect(Custom(forward, rest=mlp()), torch.rand(3, 4))
    assert "torch.export cannot follow" in told.not_analysed
    assert (told.engine.program.cost.prefix, told.findings) == (0, ())
