"""Added dropout: a network trained without any answers as a loop that drops behind the modules that were named."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine, InvalidInputError, Selection, UnsupportedModelError, inspection
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.find.discovery import discover
from mcdropout.engine.pytorch.module import understand
from mcdropout.engine.pytorch.saved.archives import load_archive
from mcdropout.engine.reading import Reading
from tests.engine.networks import Custom, conv_net, drop_path, mlp
from tests.engine.test_untouched import differences, picture_of

X = torch.linspace(-1, 1, 12).reshape(3, 4)
MAPS = torch.linspace(-30, 30, 108).sin().reshape(3, 1, 6, 6)


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _timed_once(monkeypatch):
    monkeypatch.setattr(inspection, "_TIMED_SECONDS", 0.0)


def nested():
    """A classifier of `[rows, 4]` without dropout, with modules in modules."""
    backbone = nn.ModuleDict(
        {"layer1": nn.Sequential(nn.Linear(4, 8), nn.ReLU()), "layer2": nn.Sequential(nn.Linear(8, 8), nn.ReLU())}
    )
    module = Custom(
        lambda self, x: self.head(self.backbone["layer2"](self.backbone["layer1"](x))),
        backbone=backbone,
        head=nn.Linear(8, 3),
    )
    return module.eval()


def without_dropout():
    """The convolutional network, with nothing of its own that drops."""
    network = conv_net()
    network[5] = nn.Identity()
    return network.eval()


def take(module, add, x=X, runtime="eager", task="classification", **of_the_selection):
    return Engine.from_module(module, x, task, runtime=runtime, selection=Selection(add=add, **of_the_selection))


def listed(engine):
    return [(site.name, site.p, site.injected) for site in engine.sites]


def looped(module, masks_of, x=X):
    """The outputs of a loop over passes, in which hooks multiply what modules return by masks.

    Args:
        module: the network, in eval mode.
        masks_of: for each pass, what each module's calls are multiplied by, in order, by the module's path.
        x: `[rows, ...]`.
    """
    module = copy.deepcopy(module).eval()
    parts, passes = dict(module.named_modules()), []
    for masks in masks_of:
        waiting = {path: list(own) for path, own in masks.items()}
        hooks = [
            parts[path].register_forward_hook(lambda _m, _i, out, own=own: out * torch.as_tensor(own.pop(0)))
            for path, own in waiting.items()
        ]
        with torch.no_grad():
            passes.append(module(x))
        assert not any(waiting.values())
        for hook in hooks:
            hook.remove()
    return torch.stack(passes, 1)


def masks_of_passes(engine, rows, passes, seed):
    """What `looped` takes: the engine's own masks."""
    for number in range(passes):
        drawn = [engine.masks(seed, row, number, 1) for row in range(rows)]
        masks = {}
        for index, site in enumerate(engine.sites):
            masks.setdefault(site.path, []).append(np.concatenate([own[index] for own in drawn]))
        yield masks


def answers_as_a_loop(engine, module, x=X, passes=6, seed=7):
    """Its statistics are those of the loop with its masks, and its baseline is the network's eval mode."""
    outputs = looped(module, masks_of_passes(engine, len(x), passes, seed), x)
    wanted, found = engine.summarize([outputs.numpy()]), engine.predict(x, passes, seed)
    np.testing.assert_allclose(found.mean, wanted.mean, atol=1e-6)
    np.testing.assert_allclose(found.variance, wanted.variance, atol=1e-6)
    assert np.max(found.variance) > 1e-6
    with torch.no_grad():
        plain = copy.deepcopy(module).eval()(x).softmax(-1)
    np.testing.assert_allclose(engine.predict(x, 0).mean, plain, atol=1e-6)


class TestANetworkWithoutDropout:
    @pytest.mark.parametrize("runtime", ["eager", "torch", "onnx"])
    def test_answers_as_a_loop_that_drops_behind_a_nested_module(self, runtime):
        module = nested()
        engine = take(module, {"backbone.layer1": 0.25}, runtime=runtime)
        assert listed(engine) == [("backbone.layer1", 0.25, True)]
        answers_as_a_loop(engine, module)

    def test_is_refused_as_it_is(self):
        with pytest.raises(UnsupportedModelError, match=r"no dropout to switch on.*which the selection may add"):
            Engine.from_module(nested(), X)

    def test_takes_it_behind_modules_of_a_sequence_that_patterns_match(self):
        module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        engine = take(module, {"[13]": 0.5})
        assert listed(engine) == [("1", 0.5, True), ("3", 0.5, True)]
        answers_as_a_loop(engine, module)

    def test_takes_of_several_patterns_the_first_that_matches(self):
        engine = take(nested(), {"backbone.layer2": 0.1, "backbone.layer?": 0.4})
        assert listed(engine) == [("backbone.layer1", 0.4, True), ("backbone.layer2", 0.1, True)]

    def test_drops_its_own_outputs_where_the_pattern_is_the_networks_own(self):
        module = nested()
        engine = take(module, {"": 0.25})
        assert listed(engine) == [("(network)", 0.25, True)]
        answers_as_a_loop(engine, module)

    def test_is_split_where_the_dropout_was_added(self):
        engine = take(nested(), {"backbone.layer2": 0.2}, runtime="auto")
        assert engine.program.strategy == "split"
        assert engine.program.prefix_operations > 0

    def test_runs_on_the_sparse_kernel_where_its_like_with_dropout_would(self):
        own = mlp()
        bare = nn.Sequential(own[0], own[1], own[3])
        found, wanted = take(bare, {"1": 0.5}, runtime="sparse"), take(own, None, runtime="sparse")
        np.testing.assert_allclose(found.samples(X, 8, 3), wanted.samples(X, 8, 3), atol=1e-6)

    @pytest.mark.parametrize("mode", ["in train mode", "in eval mode"])
    def test_answers_alike_in_whichever_mode_it_comes(self, mode):
        module = without_dropout().train(mode == "in train mode")
        before, kept = picture_of(module)
        engine = take(module, {"2": 0.2}, MAPS)
        assert differences(before, picture_of(module)[0]) == []  # its batch norm too
        del kept
        answers_as_a_loop(engine, module, MAPS)
        assert not module[0]._forward_hooks
        assert module.training == (mode == "in train mode")

    def test_is_left_as_it_is_where_it_is_refused(self):
        module = nested()
        before, kept = picture_of(module)
        with pytest.raises(UnsupportedModelError):
            take(module, {"backbone": 0.2})
        assert differences(before, picture_of(module)[0]) == []
        del kept


class TestAModule:
    def test_that_is_called_twice_draws_a_mask_each_time(self):
        module = Custom(
            lambda self, x: self.last(self.twice(self.twice(x).relu())),
            twice=nn.Linear(4, 4),
            last=nn.Linear(4, 3),
        )
        engine = take(module, {"twice": 0.5}, runtime="torch")
        assert listed(engine) == [("twice", 0.5, True), ("twice#1", 0.5, True)]
        answers_as_a_loop(engine, module)

    @pytest.mark.parametrize("runtime", ["eager", "torch"])
    def test_that_returns_maps_may_have_whole_channels_dropped(self, runtime):
        module = without_dropout()
        engine = take(module, {"2": {"p": 0.5, "kind": "channel"}}, MAPS, runtime=runtime)
        (site,) = engine.sites
        assert (site.name, site.kind, site.p, site.shape, site.injected) == ("2", "channel", 0.5, (4, 1, 1), True)
        answers_as_a_loop(engine, module, MAPS)

    def test_that_has_two_paths_is_found_by_either(self):
        shared = nn.Linear(4, 4)
        module = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(4, 3))
        assert listed(take(module, {"2": 0.2})) == [("0", 0.2, True), ("0#1", 0.2, True)]

    def test_that_returns_one_tensor_in_a_tuple_still_does(self):
        class Block(nn.Linear):
            def forward(self, x):
                return (super().forward(x), None)

        module = Custom(lambda self, x: self.last(self.block(x)[0].relu()), block=Block(4, 8), last=nn.Linear(8, 3))
        engine = take(module, {"block": 0.3})
        assert engine.sites[0].shape == (8,)
        assert np.max(engine.predict(X, 8, 1).variance) > 0

    def test_whose_own_hooks_change_what_it_returns_is_dropped_from_after_them(self):
        module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
        module[0].register_forward_hook(lambda _module, _inputs, out: out[:, :2].repeat(1, 2) + 1)
        answers_as_a_loop(take(module, {"0": 0.5}), module)

    def test_that_a_fused_layer_passes_over_in_eval_mode_is_dropped_from(self):
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        module = Custom(lambda self, x: self.last(self.layer(x)[:, 0]), layer=layer, last=nn.Linear(4, 3)).eval()
        x = torch.randn(3, 5, 4)
        engine = take(module, {"layer.linear1": 0.3}, x, runtime="torch")
        assert listed(engine) == [("layer.linear1", 0.3, True)]
        answers_as_a_loop(engine, module, x)

    def test_that_has_dropout_of_its_own_gets_another_one(self):
        engine = take(mlp(), {"2": 0.25})
        assert listed(engine) == [("2", 0.5, False), ("2#1", 0.25, True)]

    def test_whose_own_dropout_is_made_in_train_mode_alone_keeps_both(self):
        class Head(nn.Linear):
            def forward(self, x):
                if self.training:
                    x = nn.functional.dropout(x, 0.5)
                return super().forward(x)

        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Head(4, 4), nn.ReLU(), nn.Linear(4, 3))
        both = take(module, {"2": 0.25})
        assert listed(both) == [("2", 0.5, False), ("2#1", 0.25, True)]
        assert [site.in_eval for site in both.sites] == [False, True]
        added = take(module, {"2": 0.25}, exclude=("2",))
        assert listed(added) == [("2#1", 0.25, True)]
        answers_as_a_loop(added, module)

    @pytest.mark.parametrize("whole", [True, False])
    def test_of_a_torchscript_program_is_dropped_from(self, whole):
        module = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 3))
        scripted = torch.jit.script(module) if whole else nn.Sequential(torch.jit.script(module[0]), module[1])
        found, wanted = take(scripted, {"0.1": 0.5}), take(module, {"0.1": 0.5})
        np.testing.assert_allclose(found.samples(X, 8, 3), wanted.samples(X, 8, 3), atol=1e-6)

    def test_of_a_torchscript_file_is_dropped_from(self, tmp_path):
        module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        torch.jit.trace(module.eval(), X).save(tmp_path / "n.pt")
        found, wanted = take(load_archive(tmp_path / "n.pt", bare=True), {"1": 0.5}), take(module, {"1": 0.5})
        np.testing.assert_allclose(found.samples(X, 8, 3), wanted.samples(X, 8, 3), atol=1e-6)


class TestBesideDropoutOfItsOwn:
    def test_each_has_its_p(self):
        module = mlp()
        engine = take(module, {"0": 0.1}, runtime="auto")
        assert listed(engine) == [("0", 0.1, True), ("2", 0.5, False)]
        answers_as_a_loop(engine, module)

    def test_it_has_an_effect_beside_code_that_draws_its_own_numbers_and_none_on_the_baseline(self):
        module = Custom(
            lambda self, x: self.head(self.path(self.first(x))),
            first=nn.Linear(4, 4),
            path=drop_path(0.2),
            head=nn.Linear(4, 3),
        )
        engine = take(module, {"first": 0.25}, runtime="torch")
        assert listed(engine) == [("first", 0.25, True), ("path", None, False)]
        np.testing.assert_allclose(engine.predict(X, 0).mean, module.eval()(X).softmax(-1).detach(), atol=1e-6)
        without = Engine.from_module(module, X, runtime="eager")
        assert np.all(engine.predict(X, 400, 1).variance > without.predict(X, 400, 1).variance)

    def test_it_is_not_taken_for_dropout_that_the_network_has_on_in_eval_mode(self):
        assert not discover(mlp(), [X], selection=Selection(add={"0": 0.1})).network.always_on

    def test_copies_of_the_network_have_it_too(self):
        network = discover(mlp(), [X], selection=Selection(add={"0": 0.5})).network
        masks = [torch.from_numpy(mask) for mask in MaskSource(network.sites).draw([1] * 3, range(3), 0, 1)]
        found, wanted = network.copy().run([X], masks), network.run([X], masks)
        torch.testing.assert_close(found, wanted)
        assert not torch.allclose(wanted[0], network.eval_outputs([X])[0])

    @pytest.mark.parametrize("without", [{"exclude": ("*",)}, {"include": ("2",), "p": {"*": 0.0}}])
    def test_include_exclude_and_p_are_about_the_networks_own(self, without):
        assert listed(take(mlp(), {"0": 0.1}, **without)) == [("0", 0.1, True)]

    def test_a_p_for_what_is_added_alone_is_refused(self):
        said = r"names '0', which matches the path of no site of the network's own; the paths are \['2'\]"
        with pytest.raises(InvalidInputError, match=said):
            take(mlp(), {"0": 0.1}, p={"0": 0.3})


class TestRefused:
    @pytest.mark.parametrize("p", [0, 0.0, 1, 1.0, -0.1, 1.5, float("nan"), True, "0.2", None])
    def test_is_a_p_that_is_not_between_0_and_1(self, p):
        with pytest.raises(InvalidInputError, match=rf"'head' with the p {p!r}; a number between 0 and 1 is accepted"):
            take(nested(), {"head": p})

    def test_is_a_pattern_that_matches_no_module_with_those_that_there_are(self):
        with pytest.raises(InvalidInputError, match=r"'layer9.*', which matches no module; \['', 'backbone', .*'head'"):
            take(nested(), {"head": 0.1, "layer9.*": 0.1})
        deep = nn.Sequential(*(nn.Linear(4, 4) for _ in range(30)))
        with pytest.raises(InvalidInputError, match=r"'31', which matches no module; \['3', .* and 11 others are"):
            take(deep, {"31": 0.1})

    @pytest.mark.parametrize(
        ("part", "said"),
        [
            (
                nn.LSTM(4, 4),
                r"part \(LSTM\), which returns float32 of .* and .* and float32 of .*; a module that returns one",
            ),
            (
                Custom(lambda self, x: {"a": x, "b": x}),
                r"part \(Custom\), which returns float32 of .* and float32 of",
            ),
            (Custom(lambda self, x: None), r"part \(Custom\), which returns NoneType and no tensor"),
            (Custom(lambda self, x: x.argmax(-1)), r"part \(Custom\), which returns int64 of shape \[2\]"),
        ],
    )
    def test_is_a_module_that_does_not_return_one_tensor(self, part, said):
        def forward(self, x):
            self.part(x)
            return self.last(x)

        with pytest.raises(UnsupportedModelError, match=said):
            take(Custom(forward, part=part, last=nn.Linear(4, 3)), {"part": 0.1})

    def test_is_a_pattern_whose_modules_are_not_called(self):
        with pytest.raises(UnsupportedModelError, match=r"to 'backbone', but nothing that it matches \(backbone\) is"):
            take(nested(), {"head": 0.1, "backbone": 0.2})

    def test_is_a_module_of_an_exported_program_which_calls_it_no_more(self):
        module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        program = torch.export.export(module, (X,), dynamic_shapes=({0: torch.export.Dim("rows")},))
        with pytest.raises(
            UnsupportedModelError, match=r"nothing that it matches \(0\) is called.*of a torch.export archive"
        ):
            take(program, {"0": 0.1})

    def test_is_channel_dropout_of_what_has_no_places(self):
        said = r"head \(Linear\), which returns float32 of shape \[2, 3\]; .* \[rows, channels, ...\], is"
        with pytest.raises(UnsupportedModelError, match=said):
            take(nested(), {"head": {"p": 0.1, "kind": "channel"}})

    @pytest.mark.parametrize("what", [{"p": 0.1, "kind": "attention"}, {"p": 0.1, "scope": "row"}])
    def test_is_a_kind_that_is_not_known(self, what):
        with pytest.raises(InvalidInputError, match=r"to 'head'; a p, and a kind of element or channel, are accepted"):
            take(nested(), {"head": what})

    @pytest.mark.parametrize("add", [["head"], {1: 0.2}, "head", 0.2])
    def test_is_what_is_no_mapping_of_patterns(self, add):
        with pytest.raises(InvalidInputError, match=r"add of the selection is .*; patterns of module paths, with a"):
            take(nested(), add)

    def test_is_a_module_that_returns_more_in_train_mode(self):
        part = Custom(lambda self, x: (x, x) if self.training else x)
        module = Custom(lambda self, x: self.last(self.part(x)[0] if self.training else self.part(x)), part=part)
        module.last = nn.Linear(4, 3)
        with pytest.raises(
            UnsupportedModelError, match=r"matches \(part\) is called, and returns one tensor, in train mode as"
        ):
            take(module, {"part": 0.1})

    def test_is_what_does_not_reach_the_output_alone(self):
        def forward(self, x):
            self.aside(x)
            return self.last(x)

        module = Custom(forward, aside=nn.Linear(4, 4), last=nn.Linear(4, 3))
        with pytest.raises(UnsupportedModelError, match="aside: it does not reach the output"):
            take(module, {"aside": 0.1})


def test_what_a_pattern_matches_beside_others_and_is_not_called_is_listed_as_off():
    engine = take(nested(), {"backbone*": 0.1, "head": 0.1})
    off = [(site.name, site.reason, site.injected) for site in engine.sites_off]
    assert off == [("backbone", "its module is not called", True)]


def test_it_is_saved_and_loaded_and_still_marked(tmp_path):
    engine = take(nested(), {"backbone.layer1": 0.25}, runtime="auto")
    engine.save(tmp_path)
    loaded = Engine.load(tmp_path)
    assert loaded.sites == engine.sites
    assert loaded.sites[0].injected
    np.testing.assert_array_equal(loaded.predict(X, 20, 5).mean, engine.predict(X, 20, 5).mean)


def test_a_path_with_what_means_something_in_a_pattern_stands_for_itself():
    parts = nn.ModuleDict({"block[0]": nn.Linear(4, 8), "drop[1]": nn.Dropout(0.5), "head": nn.Linear(8, 3)})
    module = Custom(lambda self, x: self.parts["head"](self.parts["drop[1]"](self.parts["block[0]"](x))), parts=parts)
    engine = take(module, {"parts.block[0]": 0.25}, p={"parts.drop[1]": 0.125}, include=("parts.drop[1]",))
    assert listed(engine) == [("parts.block[0]", 0.25, True), ("parts.drop[1]", 0.125, False)]


def findings(module, x, add):
    inspected = inspection.inspect(
        partial(understand, module, x, selection=Selection(add=add)), Reading("classification"), passes=5
    )
    assert inspected.error is None
    return {(finding.code, finding.site): finding for finding in inspected.findings}


def test_each_is_a_finding_that_says_it_must_be_calibrated():
    found = findings(mlp(), X, {"0": 0.1})
    assert list(found) == [("added-dropout", "0")]
    finding = found["added-dropout", "0"]
    assert "was added with p = 0.1: unless the network was trained with just that, how wide" in finding.text
    assert "calibrated" in finding.text
    assert "arXiv 2302.02924" in finding.source


def test_a_batch_norm_behind_it_is_said_to_have_been_trained_without_it():
    found = findings(without_dropout(), MAPS, {"0": 0.1})
    assert "gathered without this dropout" in found["dropout-before-batch-norm", "0"].text
