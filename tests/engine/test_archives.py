"""Archives: networks saved by `torch.export.save` and `torch.jit.save`; what is said where their dropout is gone."""

import copy
import warnings
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcdropout.engine import Engine, Selection, UnsupportedModelError
from mcdropout.engine.kinds import ATTENTION
from mcdropout.engine.pytorch.find.discovery import discover
from mcdropout.engine.pytorch.saved.archives import load_archive
from mcdropout.engine.pytorch.signature import Signature
from tests.engine.networks import conv_net, many_sites, mlp
from tests.engine.traps.common import drawn, find, kept, names, ran, same

ROWS = torch.export.Dim("rows")


class Functional(nn.Module):
    """Dropout by a function, by a layer that is called twice, and in a loop; residual branches."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.2)) for _ in range(2)])
        self.drop = nn.Dropout(0.25)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = F.dropout(torch.relu(self.first(x)), 0.5, self.training)
        for block in self.blocks:
            x = self.drop(x + block(x))
        return self.last(x)


class Weights(nn.Module):
    """DropConnect."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return F.linear(x, F.dropout(self.linear.weight, 0.25, self.training), self.linear.bias)


class Pixels(nn.Module):
    """Channel dropout behind a batch norm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.channels = nn.Dropout2d(0.3)
        self.drop = nn.Dropout(0.5, inplace=True)
        self.last = nn.Linear(64, 3)

    def forward(self, x):
        return self.last(self.drop(self.channels(torch.relu(self.norm(self.conv(x)))).flatten(1)))


class Sequence(nn.Module):
    """Dropout between the layers of a recurrent layer."""

    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent(4, 8, num_layers=2, dropout=0.4, batch_first=True, bidirectional=True)
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        return self.last(self.recurrent(x)[0][:, -1])


class Packed(nn.Module):
    """The same of packed sequences."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.LSTM(4, 8, num_layers=2, dropout=0.4, batch_first=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        lengths = (x[:, :, 0] > 0).sum(1).clamp(min=1)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.last(self.recurrent(packed)[1][0][-1])


class Attending(nn.Module):
    """Multi-head attention, whose probability is gone in eval mode."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.drop(self.attention(x, x, x)[0]).mean(1))


class Scaled(nn.Module):
    """Scaled dot-product attention, likewise."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Linear(8, 24)
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(8, 3)
        self.p = 0.2

    def forward(self, x):
        q, k, v = self.queries(x).chunk(3, -1)
        return self.last(
            self.drop(F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0)).mean(1)
        )


class Encoder(nn.Module):
    """Transformer encoder layers, which take a fused path in eval mode."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True), 2)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.encoder(x).mean(1))


class Path(nn.Module):
    """Stochastic depth as networks write it themselves, beside a dropout layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.drop = nn.Dropout(0.1)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = self.drop(self.first(x))
        if self.training:
            x = x * (torch.rand(x.shape[0], 1) + 0.8).floor() / 0.8
        return self.last(x)


class Branch(nn.Module):
    """Stochastic depth as torchvision and timm write it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x)
        branch = torch.relu(x)
        if self.training:
            noise = torch.empty([x.shape[0], 1], dtype=x.dtype, device=x.device).bernoulli_(0.8)
            branch = branch * noise.div_(0.8)
        return self.last(x + branch)


KINDS = {
    "mlp": (mlp, (3, 4)),
    "many": (many_sites, (3, 6)),
    "functional": (Functional, (3, 4)),
    "weights": (Weights, (3, 4)),
    "convolutions": (conv_net, (3, 1, 6, 6)),
    "pixels": (Pixels, (3, 1, 6, 6)),
    "lstm": (lambda: Sequence(nn.LSTM), (3, 5, 4)),
    "gru": (lambda: Sequence(nn.GRU), (3, 5, 4)),
    "packed": (Packed, (3, 5, 4)),
    "attention": (Attending, (3, 5, 8)),
    "scaled": (Scaled, (3, 5, 8)),
    "encoder": (Encoder, (3, 5, 8)),
    "path": (Path, (3, 4)),
    "branch": (Branch, (3, 4)),
}
FORMS = ("exported eval", "exported train", "scripted eval", "scripted train", "traced eval", "traced train")


def make(kind):
    """A network that has seen data, in eval mode, and an input."""
    build, shape = KINDS[kind]
    torch.manual_seed(7)
    network, x = build(), torch.rand(shape)
    with torch.no_grad():
        network.train()(torch.rand(shape))
    return network.eval(), x


@cache
def known(kind):
    """The same, and what is found in it, once for all forms that it is saved in; it is left as it is."""
    network, x = make(kind)
    return network, x, find(network, x)


@cache
def split(kind):
    """An engine of the network itself, which PyTorch runs split."""
    network, x = make(kind)
    return Engine.from_module(network, x.numpy(), runtime="torch")


def save(network, x, form, folder):
    """The network, saved in this form; it is left as it is."""
    how, _, mode = form.partition(" ")
    network = copy.deepcopy(network).train(mode == "train")
    path = folder / ("network.pt2" if how == "exported" else "network.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "exported":
            torch.export.save(torch.export.export(network, (x,), dynamic_shapes=({0: ROWS},)), path)
        elif how == "scripted":
            torch.jit.save(torch.jit.script(network), path)
        else:
            state = copy.deepcopy(network.state_dict())
            traced = torch.jit.trace(network, x, check_trace=False)
            network.load_state_dict(state)  # tracing in train mode has moved the statistics
            torch.jit.save(traced, path)
    return path


def described(sites):
    return [(site.name, site.p, site.scope, site.shape) for site in sites]


# What is not as in the network itself: attention drops in train mode alone, and so do branches.
WITHOUT_ATTENTION = {
    (kind, form) for kind in ("attention", "scaled", "encoder") for form in ("exported eval", "traced eval")
}
ELSEWHERE = {
    *(("packed", form) for form in FORMS if not form.startswith("scripted")),
    *((kind, form) for kind in ("path", "branch") for form in FORMS if not form.startswith("scripted")),
}
SAME = [(kind, form) for kind in KINDS for form in FORMS if (kind, form) not in WITHOUT_ATTENTION | ELSEWHERE]


@pytest.mark.wide
@pytest.mark.parametrize(("kind", "form"), SAME)
def test_a_saved_network_has_the_sites_of_the_network_and_answers_the_same_under_the_same_masks(kind, form, tmp_path):
    network, x, original = known(kind)
    module = load_archive(save(network, x, form, tmp_path))
    loaded = find(module, x)
    assert described(loaded.sites) == described(original.sites)
    for number in range(2):
        masks = drawn(original, len(x), number)
        same(ran(loaded, x, masks=masks), ran(original, x, masks=masks), 1e-5)
    same(loaded.eval_outputs([x])[0], network(x), 1e-5)
    same(module(x), network(x), 1e-5)


@pytest.mark.parametrize(("kind", "form"), sorted(WITHOUT_ATTENTION))
def test_a_network_exported_or_traced_in_eval_mode_has_lost_the_dropout_of_attention_alone(kind, form, tmp_path):
    network, x, original = known(kind)
    loaded = find(load_archive(save(network, x, form, tmp_path)), x)
    others = [site for site in original.sites if site.kind != ATTENTION]
    assert described(loaded.sites) == described(others)
    masks = dict(zip(names(original), kept(original, len(x)), strict=True))
    own = drawn(loaded, len(x))
    masks |= dict(zip(names(loaded), own, strict=True))
    same(ran(loaded, x, masks=own), ran(original, x, masks=list(masks.values())), 1e-5)
    same(loaded.eval_outputs([x])[0], network(x), 1e-5)


def refusal(path):
    """The message, which is one sentence for a user."""
    with pytest.raises(UnsupportedModelError) as raised:
        load_archive(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "accepted" in message
    assert "\n" not in message
    return message.removeprefix(str(path)).strip()


@pytest.mark.parametrize("form", FORMS)
def test_dropout_that_is_off_is_told(form, tmp_path):
    network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.0), nn.Dropout(0.5), nn.Linear(8, 3))
    found = discover(load_archive(save(network, torch.rand(3, 4), form, tmp_path)), [torch.rand(3, 4)])
    assert [site.name for site in found.network.sites] == ["2"]
    assert [(site.name, site.reason) for site in found.off] == [("1", "its p is 0")]


class TestDropoutThatANetworkWritesItself:
    @pytest.mark.parametrize("form", ["exported eval", "traced eval"])
    def test_is_gone_in_eval_mode_while_the_rest_stays(self, form, tmp_path):
        network, x = make("path")
        assert names(find(load_archive(save(network, x, form, tmp_path)), x)) == ["drop"]

    def test_is_refused_where_eval_mode_is_not_in_the_archive(self, tmp_path):
        assert refusal(save(*make("path"), "exported train", tmp_path)) == (
            "is a torch.export archive, but (network) draws numbers (aten.rand.default) whatever the mode, as it did "
            "in train mode when it was exported; what eval mode does instead is not in the file; network.eval() "
            "exported keeps its dropout, and is accepted"
        )

    @pytest.mark.parametrize("kind", ["path", "branch"])
    def test_is_refused_where_it_was_traced_in_train_mode(self, kind, tmp_path):
        message = refusal(save(*make(kind), "traced train", tmp_path))
        assert message.startswith(
            f"is a TorchScript file, but it draws numbers (aten::{'rand' if kind == 'path' else 'be'}"
        )
        assert message.endswith("is accepted, or network scripted with torch.jit.script")

    def test_is_dropout_of_ones_where_it_is_scaled_by_its_mean(self, tmp_path):
        network, x = make("branch")
        loaded = find(load_archive(save(network, x, "exported train", tmp_path)), x)
        assert described(loaded.sites) == [("(network)", 0.2, "row", (1,))]
        same(loaded.eval_outputs([x])[0], network(x), 1e-5)
        (mask,) = drawn(loaded, len(x))
        plain = network.first(x)
        same(ran(loaded, x, masks=[mask]), network.last(plain + torch.relu(plain) * mask), 1e-5)

    @pytest.mark.parametrize("form", ["exported eval", "traced eval"])
    def test_is_missed_where_there_is_nothing_else(self, form, tmp_path):
        assert "but it holds no dropout; " in refusal(save(*make("branch"), form, tmp_path))


class TestAnEngine:
    @pytest.mark.wide
    @pytest.mark.parametrize("form", FORMS)
    def test_serves_it_cut_where_the_network_is_cut(self, form, tmp_path):
        network, x = make("convolutions")
        original = split("convolutions")
        engine = Engine.from_module(load_archive(save(network, x, form, tmp_path)), x.numpy(), runtime="torch")
        assert engine.program.strategy == original.program.strategy == "split"
        assert engine.program.frontier == original.program.frontier
        assert engine.program.prefix_operations == original.program.prefix_operations
        assert engine.program.suffix_operations == original.program.suffix_operations
        for passes in (0, 20):
            found, wanted = (each.predict(x.numpy(), passes=passes, seed=5) for each in (engine, original))
            np.testing.assert_allclose(found.mean, wanted.mean, atol=1e-5)

    @pytest.mark.parametrize("form", ["scripted eval", "traced train"])
    def test_runs_its_attention_on_onnx_runtime(self, form, tmp_path):
        network, x = make("attention")
        engine = Engine.from_module(load_archive(save(network, x, form, tmp_path)), x.numpy())
        assert (engine.program.strategy, engine.program.runtime) == ("split", "onnx")
        original = Engine.from_module(network, x.numpy(), runtime="eager")
        found, wanted = (each.predict(x.numpy(), passes=5, seed=5) for each in (engine, original))
        np.testing.assert_allclose(found.mean, wanted.mean, atol=1e-5)

    @pytest.mark.parametrize("form", FORMS)
    def test_takes_a_selection_by_the_paths_of_the_network(self, form, tmp_path):
        network, x = make("functional")
        loaded = load_archive(save(network, x, form, tmp_path))
        engine = Engine.from_module(loaded, x.numpy(), runtime="eager", selection=Selection(include=("blocks.*",)))
        assert [site.name for site in engine.sites] == ["blocks.0.2", "blocks.1.2"]


class Entries(NamedTuple):
    logits: Tensor
    features: Tensor


class Returning(nn.Module):
    """Takes two inputs, one of which it may do without; returns what its last line says."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(8, 3)

    def features(self, x, mask: Tensor | None):
        hidden = self.drop(self.first(x)) + torch.zeros(x.shape[0], 8, device=x.device)
        return hidden if mask is None else hidden * mask


class Dictionary(Returning):
    def forward(self, x, mask: Tensor | None = None):
        hidden = self.features(x, mask)
        return {"logits": self.last(hidden), "features": hidden}


class Named(Returning):
    def forward(self, x, mask: Tensor | None = None):
        hidden = self.features(x, mask)
        return Entries(self.last(hidden), hidden)


class TestInputsAndOutputs:
    inputs = (torch.rand(3, 4), torch.rand(3, 8))

    def exported(self, folder, *inputs, **named):
        network = Dictionary().eval()
        shapes = {name: {0: ROWS} for name in ("x", "mask")[: len(inputs) + len(named)]}
        torch.export.save(torch.export.export(network, inputs, named, dynamic_shapes=shapes), folder / "n.pt2")
        return network, load_archive(folder / "n.pt2")

    @pytest.mark.parametrize("network", [Dictionary, Named])
    def test_of_a_scripted_network_go_by_name(self, network, tmp_path):
        network = network().eval()
        torch.jit.save(torch.jit.script(network), tmp_path / "n.pt")
        loaded = load_archive(tmp_path / "n.pt")
        signature = Signature(names=("mask", "x"), outputs=("logits",))
        (found,) = discover(loaded, self.inputs[::-1], signature).network.eval_outputs(self.inputs[::-1])
        wanted = network(*self.inputs)
        same(found, wanted["logits"] if isinstance(wanted, dict) else wanted.logits)

    @pytest.mark.parametrize("by_name", [True, False])
    def test_of_an_exported_network_go_by_name_however_it_was_exported(self, by_name, tmp_path):
        x, mask = self.inputs
        network, loaded = self.exported(tmp_path, x, mask=mask) if by_name else self.exported(tmp_path, x, mask)
        signature = Signature(names=("mask", "x"), outputs=("logits",))
        (found,) = discover(loaded, [mask, x], signature).network.eval_outputs([mask, x])
        same(found, network(x, mask)["logits"])
        same(loaded(x, mask)["logits"], found)

    def test_that_were_left_out_stay_so(self, tmp_path):
        x, _ = self.inputs
        network, loaded = self.exported(tmp_path, x)
        same(loaded(x)["logits"], network(x)["logits"])
        scripted = torch.jit.script(network)
        torch.jit.save(scripted, tmp_path / "n.pt")
        same(load_archive(tmp_path / "n.pt")(x)["logits"], network(x)["logits"])

    @pytest.mark.parametrize("rows", [1, 2, 70])
    def test_have_any_number_of_rows(self, rows, tmp_path):
        network, loaded = self.exported(tmp_path, self.inputs[0])
        x = torch.rand(rows, 4)
        same(loaded(x)["logits"], network(x)["logits"])

    @pytest.mark.parametrize("wrong", [torch.rand(3, 5), torch.rand(3, 4).double(), torch.rand(3)])
    def test_that_an_exported_network_was_not_made_for_are_refused(self, wrong, tmp_path):
        _, loaded = self.exported(tmp_path, self.inputs[0])
        with pytest.raises(
            UnsupportedModelError, match=r"the input 'x' is .*; torch.float32 of shape \[any, 4\], with wh"
        ):
            discover(loaded, [wrong])

    def test_may_lie_elsewhere_than_where_the_network_was_saved(self, tmp_path):
        _, exported = self.exported(tmp_path, *self.inputs)
        torch.jit.save(torch.jit.script(Dictionary()), tmp_path / "n.pt")
        elsewhere = [x.to("meta") for x in self.inputs]
        for loaded in (exported, load_archive(tmp_path / "n.pt")):
            assert loaded.to("meta")(*elsewhere)["logits"].device.type == "meta"


class Changing(nn.Module):
    """Goes on otherwise for other inputs."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        with torch.no_grad():
            x = self.drop(x)
        if bool(x.sum() > 1.0):
            x = x * 2.0
        for turn in range(2):
            x = x + turn
        return self.last(x)


class TestAScriptedNetwork:
    def load(self, network, folder):
        torch.jit.save(torch.jit.script(network), folder / "n.pt")
        return load_archive(folder / "n.pt")

    @pytest.mark.parametrize("scale", [0.01, 1.0])
    def test_branches_as_it_comes(self, scale, tmp_path):
        network = Changing().eval()
        x = torch.rand(3, 4) * scale
        same(self.load(network, tmp_path)(x), network(x))

    def test_keeps_dropout_that_does_not_heed_eval_mode(self, tmp_path):
        class Always(Weights):
            def forward(self, x):
                return self.linear(F.dropout(x, 0.5, True))

        network = self.load(Always(), tmp_path)
        found = find(network, torch.rand(3, 4))
        assert found.always_on
        assert described(found.sites) == [("(network)", 0.5, "row", (4,))]

    def test_keeps_weights_that_are_tied(self, tmp_path):
        network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 4))
        network[2].weight = network[0].weight
        loaded = self.load(network, tmp_path)
        assert loaded.get_parameter("0.weight") is loaded.get_parameter("2.weight")

    def test_is_refused_where_it_does_what_is_not_followed(self, tmp_path):
        class Sorted(Weights):
            def forward(self, x):
                futures = torch.jit.fork(self.linear, x)
                return F.dropout(torch.jit.wait(futures), 0.1, self.training)

        torch.jit.save(torch.jit.script(Sorted()), tmp_path / "n.pt")
        assert "(network) uses prim::fork, which is not followed here; " in refusal(tmp_path / "n.pt")


class TestDropoutIsGone:
    def refused(self, scripted, folder):
        torch.jit.save(scripted, folder / "n.pt")
        return refusal(folder / "n.pt")

    def exported(self, kind, mode, folder, **options):
        network, x = make(kind)
        program = torch.export.export(network.train(mode == "train"), (x,), dynamic_shapes=({0: ROWS},))
        torch.export.save(program.run_decompositions(**options), folder / "n.pt2")
        return folder / "n.pt2"

    def test_from_a_frozen_network(self, tmp_path):
        frozen = torch.jit.freeze(torch.jit.script(mlp().eval()))
        assert "it was frozen (torch.jit.freeze or torch.jit.optimize_for_infer" in self.refused(frozen, tmp_path)

    def test_from_transformer_layers_that_were_fused(self, tmp_path):
        network, x = make("encoder")
        with torch.no_grad():
            traced = torch.jit.trace(network, x)
        assert "a fused transformer layer (aten::_transformer_encoder_layer_fwd), " in self.refused(traced, tmp_path)

    def test_from_a_network_that_never_had_any(self, tmp_path):
        assert "it holds no dropout; " in self.refused(torch.jit.script(nn.Linear(4, 3)), tmp_path)
        program = torch.export.export(nn.Linear(4, 3), (torch.rand(3, 4),), dynamic_shapes=({0: ROWS},))
        torch.export.save(program, tmp_path / "n.pt2")
        assert "it holds no dropout; " in refusal(tmp_path / "n.pt2")

    @pytest.mark.parametrize(
        ("kind", "named"),
        [
            ("convolutions", "5"),
            ("functional", "drop, blocks.0.2, blocks.1.2"),
            ("encoder", "encoder.layers.0.dropout1"),
        ],
    )
    def test_from_an_archive_that_was_decomposed_in_eval_mode(self, kind, named, tmp_path):
        message = refusal(self.exported(kind, "eval", tmp_path, decomp_table={}))
        assert message.startswith("is a torch.export archive, but the dropout of ")
        assert set(named.split(", ")) <= set(
            message.partition("the dropout of ")[2].partition(" is gone, ")[0].split(", ")
        )
        assert message.endswith("what torch.export.export returns, saved as it is, is accepted")

    def test_from_a_recurrent_layer_that_was_taken_apart(self, tmp_path):
        class Last(nn.Module):
            def __init__(self):
                super().__init__()
                self.recurrent = nn.GRU(4, 4, num_layers=2, dropout=0.4)

            def forward(self, x):
                return self.recurrent(x)[0]

        program = torch.export.export(Last(), (torch.rand(1, 3, 4),), dynamic_shapes=({1: ROWS},))
        torch.export.save(program.run_decompositions(), tmp_path / "n.pt2")
        assert "the dropout of recurrent is gone, as run_decompositions() does" in refusal(tmp_path / "n.pt2")

    @pytest.mark.wide
    @pytest.mark.parametrize("kind", ["functional", "pixels", "attention", "encoder", "weights"])
    def test_but_not_from_one_that_was_decomposed_in_train_mode(self, kind, tmp_path):
        network, x = make(kind)
        loaded = find(load_archive(self.exported(kind, "train", tmp_path, decomp_table={})), x)
        original = find(network.eval(), x)
        assert [site.shape for site in loaded.sites] == [site.shape for site in original.sites]
        masks = drawn(original, len(x))
        same(ran(loaded, x, masks=masks), ran(original, x, masks=masks), 1e-5)
        same(loaded.eval_outputs([x])[0], network(x), 1e-5)

    def test_from_branches_of_an_archive(self, tmp_path):
        class Conditional(Weights):
            def forward(self, x):
                return torch.cond(x.sum() > 0, lambda x: F.dropout(x, 0.5, self.training), lambda x: x.clone(), (x,))

        program = torch.export.export(Conditional(), (torch.rand(3, 4),), dynamic_shapes=({0: ROWS},))
        torch.export.save(program, tmp_path / "n.pt2")
        assert "(network) draws (aten.dropout.default) inside cond, " in refusal(tmp_path / "n.pt2")


class TestAFileIsRefused:
    def test_where_the_rows_are_fixed(self, tmp_path):
        torch.export.save(torch.export.export(mlp(), (torch.rand(3, 4),)), tmp_path / "n.pt2")
        assert refusal(tmp_path / "n.pt2") == (
            "is a torch.export archive, but its input 'input' has the fixed shape [3, 4], with no dimension for any "
            "number of rows; one that is exported with dynamic_shapes, as in torch.export.export(network, (x,), "
            "dynamic_shapes=({0: torch.export.Dim('rows')},)), is accepted"
        )

    @pytest.mark.parametrize("saved", [mlp(), mlp().state_dict()])
    def test_that_torch_save_has_written(self, saved, tmp_path):
        torch.save(saved, tmp_path / "n.pt")
        assert refusal(tmp_path / "n.pt").startswith("was written by torch.save: weights, or a module that only its")

    def test_that_does_not_exist(self, tmp_path):
        assert refusal(tmp_path / "n.pt") == (
            "is no file; a network saved by torch.export.save (.pt2) or by torch.jit.save is accepted"
        )

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(100)])
    def test_that_is_no_archive(self, content, tmp_path):
        (tmp_path / "n.pt").write_bytes(content)
        assert refusal(tmp_path / "n.pt").startswith("cannot be read as an archive (")

    @pytest.mark.parametrize("form", ["exported eval", "scripted eval"])
    def test_that_is_cut_off(self, form, tmp_path):
        path = save(*make("mlp"), form, tmp_path)
        content = path.read_bytes()
        for share in (0.3, 0.9, 0.999):
            path.write_bytes(content[: int(len(content) * share)])
            assert refusal(path).startswith(("cannot be read as an archive (", "is damaged: its end is not what"))

    @pytest.mark.parametrize("form", ["exported eval", "scripted eval"])
    def test_whose_weights_are_damaged(self, form, tmp_path):
        network, x = make("mlp")
        path = save(network, x, form, tmp_path)
        content, weights = path.read_bytes(), network[0].weight.detach().numpy().tobytes()
        assert weights in content
        path.write_bytes(content.replace(weights, weights[::-1]))
        assert refusal(path).startswith("is damaged: network/data/")

    def test_whatever_bytes_are_wrong(self, tmp_path):
        generator = np.random.default_rng(0)
        for form in ("exported eval", "scripted eval"):
            path = save(*make("mlp"), form, tmp_path)
            content = np.frombuffer(path.read_bytes(), np.uint8)
            for _ in range(10):
                wrong = content.copy()
                wrong[generator.integers(0, len(wrong), 20)] ^= 255
                path.write_bytes(wrong.tobytes())
                refusal(path)

    def test_that_holds_objects_of_classes(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantized = torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear})
            torch.jit.save(torch.jit.script(quantized), tmp_path / "n.pt")
        assert "0._packed_params holds an object of a class (_packed_params), as quan" in refusal(tmp_path / "n.pt")

    def test_that_has_hooks(self, tmp_path):
        def double(module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            return output * 2

        network = mlp()
        network[2].register_forward_hook(double)
        torch.jit.save(torch.jit.script(network), tmp_path / "n.pt")
        assert "2 has forward hooks; " in refusal(tmp_path / "n.pt")
