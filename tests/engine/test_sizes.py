"""Networks whose inputs differ in size from row to row: rows of one size together, nobody padded, each as if alone."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from mcdropout.engine import Engine, InvalidInputError, UnsupportedModelError, VerificationError
from mcdropout.engine.sites import Site
from mcdropout.engine.sizes import Named, Sizing, check_extents, extents_of

TOKENS = {"tokens": (1, 40)}
WORDS = 30


class Convolved(nn.Module):
    """Masks of two lengths: of the words, and of every second place between them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop = nn.Embedding(WORDS, 8), nn.Dropout(0.25)
        self.convolution, self.head = nn.Conv1d(8, 6, 3, stride=2, padding=1), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        words = self.drop(self.embedding(tokens))
        return self.head(self.drop(self.convolution(words.transpose(1, 2)).relu()).amax(-1))

    def under(self, tokens: Tensor, words: Tensor, hidden: Tensor) -> Tensor:
        """What `forward` gives where dropout multiplies by these masks: written by hand."""
        convolved = self.convolution((self.embedding(tokens) * words).transpose(1, 2))
        return self.head((convolved.relu() * hidden).amax(-1))


class Pooled(nn.Module):
    """Dropout behind the pooling alone: what differs in size runs once a row."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8)
        self.head = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).mean(1))


class Attending(nn.Module):
    """Dropout of attention, whose mask has a size for two of its dimensions, beside heads that share one with rows."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.embedding, self.places = nn.Embedding(WORDS, 8), nn.Embedding(40, 8)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embedding(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.encoder(embedded).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop, self.head = nn.Embedding(WORDS, 8), nn.Dropout(0.5), nn.Linear(12, 3)
        self.gru = nn.GRU(8, 6, num_layers=2, dropout=0.3, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.drop(self.gru(self.embedding(tokens))[0].mean(1)))


class Tagging(nn.Module):
    """A label for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Embedding(WORDS, 8), nn.Dropout(0.25), nn.Linear(8, 3))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)


class Pictures(nn.Module):
    """Of any height and width: channels are dropped, whose masks have no size, and places, whose masks have both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 3, 1)
        self.channels, self.places = nn.Dropout2d(0.3), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.places(self.channels(self.first(x).relu()))).mean((2, 3))


class Patches(nn.Module):
    """As a vision transformer: as many tokens as patches, and one more."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.drop, self.head = nn.Conv2d(1, 6, 4, stride=4), nn.Dropout(0.2), nn.Linear(6, 3)
        self.first = nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.drop(tokens).mean(1))


class Masked(nn.Module):
    """Two inputs of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop, self.head = nn.Embedding(WORDS, 8), nn.Dropout(0.25), nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        kept = mask[..., None].float()
        return self.head((self.drop(self.embedding(ids)) * kept).sum(1) / kept.sum(1).clamp(min=1))


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(1, WORDS, (rows, length), generator=torch.Generator().manual_seed(100 * seed + length))


def of_text(network: nn.Module, runtime: str = "auto", **options: object) -> Engine:
    example = tokens(3, 7)
    return Engine.from_module(  # type: ignore[arg-type]
        network.eval(), example, shapes=("tokens",), sizes=TOKENS, runtime=runtime, **options
    )


def eval_answer(network: nn.Module, *inputs: Tensor) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(*inputs).softmax(-1).numpy()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class TestRules:
    """How the shape of a mask follows a size, found by looking."""

    def extent(self, number, least=1, most=512, multiple=1, base=24):
        dimension = Named("n", least, most, multiple)
        sizing = Sizing(((dimension,),), {"n": base})
        looked = []

        def site(size):
            return Site("drop", 0, "element", 0.5, "row", (number(size), 8), 0)

        def look(sizes):
            looked.append(sizes["n"])
            return [site(sizes["n"])]

        ((extent, eight),) = extents_of(sizing, [site(base)], look)
        assert not eight.growths
        return extent, looked

    @pytest.mark.parametrize(
        "number",
        [
            lambda n: n,
            lambda n: 3 * n + 2,
            lambda n: (n - 1) // 2 + 1,
            lambda n: 2 * ((n + 3) // 4),
            lambda n: -(-n // 16),
            lambda n: (((n + 1) // 2 + 1) // 2 + 1) // 2,
            lambda n: -(-n // 7) * 7,
        ],
    )
    def test_strides_paddings_and_windows_are_found_and_hold_at_every_size(self, number):
        extent, looked = self.extent(number)
        assert [extent.at({"n": size}) for size in range(1, 513)] == [number(size) for size in range(1, 513)]
        assert len(set(looked)) < 100  # not by looking at each

    def test_what_is_the_same_at_all_sizes_follows_none(self):
        extent, _ = self.extent(lambda n: 5)
        assert not extent.growths
        assert extent.at({"n": 300}) == 5

    def test_of_few_sizes_each_is_looked_at_whatever_the_rule(self):
        extent, _ = self.extent(lambda n: min(n, 9) + n % 3 * (n > 20), most=60)
        assert [extent.at({"n": n}) for n in range(1, 61)] == [min(n, 9) + n % 3 * (n > 20) for n in range(1, 61)]

    def test_multiples_count(self):
        extent, _ = self.extent(lambda n: n // 32, least=32, most=4096, multiple=32, base=64)
        assert extent.at({"n": 1024}) == 32

    def test_one_that_is_not_found_is_refused_by_its_site_and_size(self):
        with pytest.raises(UnsupportedModelError, match=r"mask of drop .* follows n \(1 to 512\) by no rule"):
            self.extent(lambda n: int(n**0.5))

    def test_that_a_size_is_cut_beyond_the_first_few_is_noticed(self):
        with pytest.raises(UnsupportedModelError, match="by no rule"):
            self.extent(lambda n: min(n, 400))

    def test_one_size_that_keeps_to_no_rule_is_found_by_looking_at_each(self):
        dimension = Named("n", 1, 512)
        sizing = Sizing(((dimension,),), {"n": 24})

        def look(sizes):
            return [Site("drop", 0, "element", 0.5, "row", (sizes["n"] + (sizes["n"] == 305), 8), 0)]

        sites = look({"n": 24})
        ruled = replace(sizing, extents=extents_of(sizing, sites, look))
        assert ruled.extents[0][0].at({"n": 305}) == 305
        with pytest.raises(UnsupportedModelError, match=r"mask of drop has the shape \[306, 8\] at n 305"):
            check_extents(ruled, sites, look)

    def test_of_sizes_too_many_to_be_looked_at_together_each_is_with_the_ends_of_the_others(self):
        few, many = (Sizing(((Named("n", 1, most), Named("m", 1, most)),), {"n": 7, "m": 8}) for most in (60, 2000))
        assert few.few
        assert len(few.each()) == 3600
        assert not many.few
        each = many.each()
        assert {"n": 1234, "m": 1} in each
        assert {"n": 2000, "m": 1234} in each
        assert {"n": 1234, "m": 1234} not in each
        assert many.each(["m"]) == [{"n": 7, "m": size} for size in range(1, 2001)]


class TestOfAnyLength:
    @pytest.mark.wide
    @pytest.mark.parametrize("runtime", ["onnx", "torch", "eager"])
    @pytest.mark.parametrize("length", [1, 2, 7, 8, 40])
    def test_outputs_under_masks_are_those_of_code_written_by_hand(self, runtime, length):
        network = Convolved()
        engine = of_text(network, runtime).at({"tokens": length})
        assert [site.shape for site in engine.sites] == [(length, 8), (6, (length - 1) // 2 + 1)]
        x = tokens(2, length)
        words, hidden = (
            torch.from_numpy(np.concatenate(pair))
            for pair in zip(*(engine.masks(5, row, 3, 1) for row in (0, 1)), strict=True)
        )
        with torch.no_grad():
            wanted = network.under(x, words, hidden).numpy()
        (found,) = engine.outputs(x, [words.numpy(), hidden.numpy()])
        np.testing.assert_allclose(found, wanted, atol=1e-6)

    @pytest.mark.wide
    @pytest.mark.parametrize("network", [Convolved, Pooled, Attending, Recurrent])
    def test_nothing_dropped_is_eval_mode_at_every_length(self, network):
        network = network()
        engine = of_text(network, "onnx" if isinstance(network, Convolved) else "torch")
        for length in (1, 3, 8, 21, 40):
            x = tokens(2, length)
            np.testing.assert_allclose(engine.predict(x, passes=0).mean, eval_answer(network, x), atol=1e-6)

    @pytest.mark.parametrize("network", [Convolved, Attending])
    def test_a_row_among_longer_ones_is_answered_as_it_is_alone(self, network):
        engine = of_text(network(), "torch")
        rows = [tokens(1, length, seed)[0] for seed, length in enumerate((9, 2, 40, 9, 1, 2, 40))]
        together = engine.predict(rows, passes=30, seed=4)
        for index, row in enumerate(rows):
            alone = engine.at({"tokens": len(row)}).run((row[None].numpy(),), [4], [index], 30).prediction
            for name, value in alone.values.items():
                np.testing.assert_allclose(together.values[name][index], value[0], atol=1e-6, err_msg=name)

    @pytest.mark.long
    def test_recurrent_layers_which_exporters_say_are_of_one_length_are_converted_for_any(self):
        network = Recurrent()
        engine = of_text(network)
        assert (engine.program.runtime, engine.program.strategy, engine.program.reason) == ("onnx", "split", None)
        x = tokens(2, 33)
        np.testing.assert_allclose(engine.predict(x, passes=0).mean, eval_answer(network, x), atol=1e-6)

    def test_what_differs_in_length_runs_once_a_row_where_no_mask_touches_it(self):
        engine = of_text(Pooled())
        assert engine.program.strategy == "split"
        assert engine.program.frontier[0].shape in ((8,), (16,))
        at = [check.name for check in engine.program.checks if "holds at" in check.name]
        assert [name.split(" at ")[1] for name in at] == ["tokens 1 too", "tokens 12 too", "tokens 40 too"]
        assert engine.site_shapes == [[16]]
        assert of_text(Convolved()).site_shapes == [["tokens", 8], [6, "f(tokens)"]]

    def test_the_distribution_is_that_of_the_module_with_its_dropout_on(self):
        # 4,000 passes each: the mean probabilities are known to 0.003, and 4 such are allowed.
        network = Convolved()
        engine, x = of_text(network), tokens(1, 13)
        found = engine.predict(x, passes=4000, seed=1)
        network.train()
        with torch.no_grad():
            drawn = torch.stack([network(x).softmax(-1)[0] for _ in range(4000)]).double().numpy()
        error = np.sqrt(drawn.var(0) / 4000 + found.variance[0] / 4000)
        assert (np.abs(drawn.mean(0) - found.mean[0]) < 4 * error + 1e-6).all()
        assert (np.abs(drawn.var(0) / found.variance[0] - 1) < 0.2).all()

    def test_save_and_load_answer_byte_for_byte(self, tmp_path):
        engine = of_text(Convolved())
        engine.save(tmp_path)
        loaded = Engine.load(tmp_path)
        rows = [tokens(1, length)[0] for length in (5, 40, 1, 5)]
        for passes in (0, 20):
            before, after = (one.predict(rows, passes=passes, seed=2) for one in (engine, loaded))
            for name, value in before.values.items():
                assert value is after.values[name] is None or np.array_equal(value, after.values[name])
        assert loaded.sizing == engine.sizing

    def test_a_program_that_is_right_at_the_examples_length_alone_is_not_used(self, monkeypatch):
        from mcdropout.engine.runtimes.onnx import OnnxRuntime

        suffix = OnnxRuntime.suffix

        def wrong_where_long(self, frontier, rows, masks):
            outputs = suffix(self, frontier, rows, masks)
            return tuple(out + (masks[0].shape[1] > 30) for out in outputs)

        monkeypatch.setattr(OnnxRuntime, "suffix", wrong_where_long)
        engine = of_text(Convolved())
        assert engine.program.runtime == "torch"
        assert "tokens 40" in engine.program.reason

    def test_labels_of_tokens_have_a_place_for_each(self):
        network = Tagging()
        engine = of_text(network, class_axis=-1)
        assert engine.at({"tokens": 4}).places == (4,)
        assert engine.predict(tokens(2, 4), passes=10).entropy.shape == (2, 4)
        with pytest.raises(InvalidInputError, match="answers of different shapes"):
            engine.predict([tokens(1, 4)[0], tokens(1, 5)[0]], passes=3)


class TestOfSeveralSizes:
    def test_pictures_of_any_height_and_width(self):
        network = Pictures()
        engine = Engine.from_module(
            network.eval(),
            torch.randn(2, 3, 20, 20),
            shapes=(3, "height", "width"),
            sizes={"height": (8, 96), "width": (8, 64, 4)},
        )
        assert engine.site_shapes == [[4, 1, 1], [4, "f(height)", "f(width)"]]
        for height, width in ((8, 8), (20, 20), (33, 12), (96, 64)):
            x = torch.randn(2, 3, height, width)
            np.testing.assert_allclose(engine.predict(x, passes=0).mean, eval_answer(network, x), atol=1e-6)
            assert engine.predict(x, passes=5, seed=1).variance.min() > 0

    def test_a_mask_of_their_product(self):
        network = Patches()
        engine = Engine.from_module(
            network.eval(),
            torch.randn(2, 1, 24, 28),
            shapes=(1, "height", "width"),
            sizes={"height": (8, 64, 4), "width": (8, 64, 4)},
        )
        assert engine.at({"height": 40, "width": 12}).sites[0].shape == (31, 6)
        x = torch.randn(1, 1, 64, 12)
        np.testing.assert_allclose(engine.predict(x, passes=0).mean, eval_answer(network, x), atol=1e-6)

    def test_two_inputs_of_one_size_differ_together(self):
        network = Masked()
        engine = Engine.from_module(
            network.eval(),
            {"ids": tokens(2, 7), "mask": torch.ones(2, 7, dtype=torch.long)},
            shapes={"ids": ("tokens",), "mask": ("tokens",)},
            sizes=TOKENS,
        )
        ids, mask = tokens(2, 5), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
        found = engine.predict({"ids": ids, "mask": mask}, passes=0)
        np.testing.assert_allclose(found.mean, eval_answer(network, ids, mask), atol=1e-6)
        with pytest.raises(InvalidInputError, match="row 0 has the shapes"):
            engine.predict({"ids": ids, "mask": torch.ones(2, 6, dtype=torch.long)})


class TestRefusals:
    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (np.zeros((2, 41), int), r"\[2, 41\]; \[rows, tokens \(1 to 40\)\] is accepted"),
            ([np.zeros(3, int), np.zeros(41, int)], r"row 1: .*tokens \(1 to 40\)"),
            ([np.zeros(3, int), np.zeros(0, int)], "row 1: "),
            ([[1, 2], [3, [4]]], "row 1 .* is no array"),
            ([[1, 2], [0.5]], "row 1: .*dtype"),
            (np.zeros(3, int), r"\[3\]; \[rows, tokens"),
        ],
    )
    def test_rows_that_do_not_fit(self, rows, message):
        engine = of_text(Pooled(), "eager")
        with pytest.raises(InvalidInputError, match=message):
            engine.predict(rows)
        assert len(engine.predict(tokens(2, 3), passes=2).mean) == 2

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"shapes": ("tokens",)}, r"shapes names \['tokens'\] and sizes \[\]"),
            ({"sizes": TOKENS}, "there are no shapes"),
            ({"shapes": ("words",), "sizes": TOKENS}, r"names \['words'\] and sizes \['tokens'\]"),
            ({"shapes": ("tokens", 3), "sizes": TOKENS}, r"example row has the shape \[7\]"),
            ({"shapes": ("tokens",), "sizes": {"tokens": (8, 40)}}, r"shape \[7\]; \[tokens \(8 to 40\)\]"),
            ({"shapes": ("tokens",), "sizes": {"tokens": (9, 2)}}, "9 to 2"),
            ({"shapes": ("tokens",), "sizes": {"tokens": (1, 40, 2)}}, "multiples of 2"),
            ({"shapes": ("tokens",), "sizes": {"tokens": (1, 2**31)}}, "sizes of at most 16777216 are accepted"),
            ({"shapes": ("tokens",), "sizes": {"tokens": 40}}, "are 40; the least and the most"),
            ({"shapes": (("tokens",), ("tokens",)), "sizes": TOKENS}, "for each of 1 inputs"),
        ],
    )
    def test_arguments_that_do_not_fit(self, options, message):
        with pytest.raises(InvalidInputError, match=message):
            Engine.from_module(Pooled().eval(), tokens(3, 7), runtime="eager", **options)

    def test_a_network_that_drops_otherwise_where_rows_are_long(self):
        class Otherwise(Pooled):
            def forward(self, tokens):
                embedded = self.embedding(tokens)
                return self.head(
                    F.dropout(embedded, 0.1, self.training).mean(1) if tokens.shape[1] > 9 else embedded.mean(1)
                )

        with pytest.raises(
            UnsupportedModelError, match="a random call that it does not make at the sizes of the examples"
        ):
            of_text(Otherwise(), "eager")

    def test_a_network_that_does_not_run_at_a_size_that_is_accepted(self):
        class Wide(Pooled):
            def forward(self, tokens):
                return self.head(F.conv1d(self.embedding(tokens).transpose(1, 2), torch.ones(8, 8, 3)).mean(2))

        with pytest.raises(
            UnsupportedModelError, match=r"does not run at tokens 1: .*sizes at which it does are accepted"
        ):
            of_text(Wide(), "eager")

    def test_one_that_takes_another_way_at_some_sizes_in_between_is_not_exported(self):
        class InBetween(Pooled):
            def forward(self, tokens):
                out = self.head(self.embedding(tokens).mean(1))
                return 3.0 * out if 20 < tokens.shape[1] < 25 else out

        network = InBetween()
        engine = of_text(network)
        assert engine.program.runtime == "eager"
        assert "for some sizes alone, tokens 21 not among them" in engine.program.reason
        for length in (9, 22, 30):
            x = tokens(2, length)
            np.testing.assert_allclose(engine.predict(x, passes=0).mean, eval_answer(network, x), atol=1e-6)

    def test_one_that_the_exporter_fixes_runs_as_it_is_and_says_why(self):
        class Fixed(Pooled):
            def forward(self, tokens):
                steps = [self.embedding(tokens[:, step]) for step in range(int(tokens.shape[1]))]
                return self.head(torch.stack(steps).mean(0))

        network = Fixed()
        engine = of_text(network)
        assert engine.program.runtime == "eager"
        assert "it does not run at tokens 1" in engine.program.reason
        x = tokens(2, 11)
        np.testing.assert_allclose(engine.predict(x, passes=0).mean, eval_answer(network, x), atol=1e-6)


class Branching(nn.Module):
    """Doubles what it has where its sizes are so; dropout comes before."""

    def __init__(self, doubles: Callable[..., bool]) -> None:
        super().__init__()
        self.embedding, self.drop, self.head = nn.Embedding(WORDS, 8), nn.Dropout(0.3), nn.Linear(8, 3)
        self.doubles = doubles

    def forward(self, tokens: Tensor) -> Tensor:
        out = self.drop(self.embedding(tokens)).sum(1)
        return self.head(out * 2 if self.doubles(tokens.shape[1]) else out)


class Shaped(nn.Module):
    """The same of pictures."""

    def __init__(self, doubles: Callable[..., bool]) -> None:
        super().__init__()
        self.convolution, self.drop, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.3), nn.Linear(4, 3)
        self.doubles = doubles

    def forward(self, x: Tensor) -> Tensor:
        out = self.drop(self.convolution(x)).mean((2, 3))
        return self.head(out * 2 if self.doubles(*x.shape[2:]) else out)


class Placed(nn.Module):
    """Brings what it learned of places to the length of the text, but for one length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop, self.head = nn.Embedding(WORDS, 8), nn.Dropout(0.3), nn.Linear(8, 3)
        self.places = nn.Parameter(torch.randn(1, 8, 8))

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        places = F.interpolate(self.places, length, mode="linear") if length != 8 else self.places * 1.5
        return self.head(self.drop(self.embedding(tokens) + places.transpose(1, 2)).sum(1))


class DropsAtOne(nn.Module):
    """A second dropout at one length alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.drop, self.head = nn.Embedding(WORDS, 8), nn.Dropout(0.3), nn.Linear(8, 3)
        self.second = nn.Dropout(0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        out = self.drop(self.embedding(tokens)).sum(1)
        return self.head(self.second(out) if tokens.shape[1] == 37 else out)


class TestThatBranchOnSizes:
    """Networks whose code, exported at the size of an example, is another's at some size that is accepted."""

    @pytest.mark.wide
    @pytest.mark.parametrize(
        ("doubles", "elsewhere"),
        [
            (lambda n: n == 7, 7),
            (lambda n: n != 8, 8),
            (lambda n: n % 2 == 0, 1),
            (lambda n: 3 < n < 5, 4),
            (lambda n: min(n, 4) == 4, 1),
            (lambda n: n * n == 49, 7),
        ],
    )
    def test_on_a_length_are_answered_right_at_all(self, doubles, elsewhere):
        self.check(Branching(doubles), f"tokens {elsewhere} not among them")

    def test_between_ways_to_make_a_weight_too(self):
        self.check(Placed(), "tokens 8 not among them")

    def check(self, network: nn.Module, reason: str) -> None:
        engine = Engine.from_module(network.eval(), tokens(4, 5), shapes=("tokens",), sizes={"tokens": (1, 12)})
        assert engine.program.runtime == "eager"
        assert reason in engine.program.reason
        for length in range(1, 13):
            x = tokens(2, length)
            np.testing.assert_allclose(engine.predict(x, passes=0).mean, eval_answer(network, x), atol=1e-6)

    @pytest.mark.parametrize(
        ("doubles", "elsewhere"),
        [(lambda h, w: h == w, "h 3, w 3"), (lambda h, w: h * w == 20, "h 4, w 5")],
    )
    def test_on_two_sizes_together_too(self, doubles, elsewhere):
        network = Shaped(doubles)
        engine = Engine.from_module(
            network.eval(), torch.randn(2, 1, 6, 7), shapes=(1, "h", "w"), sizes={"h": (3, 9), "w": (3, 9)}
        )
        assert f"{elsewhere} not among them" in engine.program.reason
        for shape in ((6, 7), (7, 7), (5, 4), (9, 3)):
            x = torch.randn(2, 1, *shape)
            np.testing.assert_allclose(engine.predict(x, passes=0).mean, eval_answer(network, x), atol=1e-6)

    @pytest.mark.long
    def test_that_a_graph_may_be_another_at_more_sizes_than_can_be_looked_at_is_no_way_to_serve(self, monkeypatch):
        monkeypatch.setattr("mcdropout.engine.pytorch.cut.guards._LONGEST", 0.0)
        engine = of_text(Recurrent())
        assert engine.program.runtime == "eager"
        assert "of 39 others 0 were looked at" in engine.program.reason

    def test_one_that_drops_elsewhere_at_one_length_is_refused(self):
        with pytest.raises(UnsupportedModelError, match="second makes a random call that it does not make at the"):
            of_text(DropsAtOne(), "eager")

    def test_where_not_every_length_is_looked_at_it_is_an_error_there_and_no_exported_program_serves(self, monkeypatch):
        monkeypatch.setattr("mcdropout.engine.sizes._LONGEST", 0.0)
        engine = of_text(DropsAtOne())
        assert engine.program.runtime == "eager"
        assert engine.predict(tokens(2, 36), passes=3).variance.min() > 0
        for passes in (0, 3):
            with pytest.raises(UnsupportedModelError, match="second makes a random call"):
                engine.predict(tokens(2, 37), passes=passes)
        with pytest.raises(UnsupportedModelError, match="second makes a random call"):
            of_text(DropsAtOne(), "torch")


class TestOnnxGraphsThatBranchOnSizes:
    """Graphs with an `If` on the length, whose condition may differ from what it is at the length of an example."""

    def branching(self, operator: str, length: int, *, train: bool = True, inside: bool = False) -> onnx.ModelProto:
        """Twice what the words' sum is where the length is so; dropout of the sum there, where `inside` says so."""
        node, value = helper.make_node, helper.make_tensor_value_info
        rng = np.random.default_rng(0)
        weights = {
            "E": rng.normal(size=(WORDS, 8)).astype("f"),
            "W": rng.normal(size=(8, 3)).astype("f"),
            "ratio": np.float32(0.3),
            "train": np.bool_(train),
            "one": np.array(1),
            "axes": np.array([1]),
            "length": np.array(length),
            "two": np.float32(2),
        }
        then = [node("Mul", ["s", "two"], ["doubled"])]
        if inside:
            then = [*then, node("Dropout", ["doubled", "ratio", "train"], ["dropped"], name="inner")]
        branches = {
            "then_branch": (then, "dropped" if inside else "doubled"),
            "else_branch": ([node("Identity", ["s"], ["as_it_is"])], "as_it_is"),
        }
        nodes = [
            node("Gather", ["E", "x"], ["e"]),
            node("Dropout", ["e", "ratio", "train"], ["d"], name="drop"),
            node("ReduceSum", ["d", "axes"], ["s"], keepdims=0),
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "one"], ["n"]),
            node(operator, ["n", "length"], ["condition"]),
            node(
                "If",
                ["condition"],
                ["chosen"],
                name="branch",
                **{
                    name: helper.make_graph(inner, name, [], [value(out, TensorProto.FLOAT, None)])
                    for name, (inner, out) in branches.items()
                },
            ),
            node("MatMul", ["chosen", "W"], ["y"]),
        ]
        return self.model(nodes, weights)

    def model(self, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "graph",
            [value("x", TensorProto.INT64, ["rows", "n"])],
            [value("y", TensorProto.FLOAT, ["rows", 3])],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def engine(self, model: onnx.ModelProto, folder: Path) -> Engine:
        onnx.save(model, folder / "model.onnx")
        return Engine.from_onnx(folder / "model.onnx", tokens(4, 5), shapes=("n",), sizes={"n": (1, 12)})

    @pytest.mark.parametrize(("operator", "length"), [("Less", 4), ("Greater", 8), ("Equal", 12), ("Equal", 7)])
    def test_keep_their_branches(self, operator, length, tmp_path):
        engine = self.engine(self.branching(operator, length), tmp_path)
        assert engine.program.runtime == "onnx"
        wanted = onnxruntime.InferenceSession(self.branching(operator, length, train=False).SerializeToString())
        for size in range(1, 13):
            x = tokens(2, size)
            (logits,) = wanted.run(None, {"x": x.numpy()})
            found = engine.predict(x, passes=0).mean
            np.testing.assert_allclose(found, torch.from_numpy(logits).softmax(-1).numpy(), atol=1e-6)
            assert engine.predict(x, passes=5, seed=1).variance.min() > 0

    def test_whose_condition_is_one_at_all_accepted_sizes_have_no_branch_left(self, tmp_path):
        engine = self.engine(self.branching("Less", 13, inside=True), tmp_path)
        assert len(engine.sites) == 2
        assert engine.predict(tokens(1, 12), passes=5, seed=1).variance.min() > 0

    def test_that_draw_in_a_branch_which_follows_a_size_are_refused_by_node_and_size(self, tmp_path):
        with pytest.raises(
            UnsupportedModelError, match=r"inner \(Dropout\) is within the If branch, which follows n \(1 to 12\)"
        ):
            self.engine(self.branching("Less", 4, inside=True), tmp_path)

    def test_are_compared_with_the_graph_that_was_given(self, tmp_path, monkeypatch):
        from mcdropout.engine.onnx import model
        from mcdropout.engine.onnx.branches import branches_inlined

        monkeypatch.setattr(model, "branches_inlined", lambda flow, arrays, _: branches_inlined(flow, arrays))
        with pytest.raises(VerificationError, match=r"at n 1 the network with keep-everything masks equals its eval"):
            self.engine(self.branching("Less", 4), tmp_path)

    def test_whose_ratio_follows_a_size_are_refused(self, tmp_path):
        model = self.branching("Less", 13)
        (condition,) = [x for x in model.graph.node if x.op_type == "Less"]
        condition.input[1] = "four"
        model.graph.initializer.append(numpy_helper.from_array(np.array(4), "four"))
        model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "tenth"))
        for index, x in enumerate(model.graph.node):
            if x.op_type == "Dropout":
                x.input[1], at = "chosen_ratio", index
        nodes = list(model.graph.node)
        counted = [x for x in nodes if x.op_type in ("Shape", "Less") or list(x.output) == ["n"]]
        where = helper.make_node("Where", ["condition", "tenth", "ratio"], ["chosen_ratio"])
        del model.graph.node[:]
        model.graph.node.extend([*counted, where, *(x for x in nodes if x not in counted)])
        assert at == 1
        with pytest.raises(UnsupportedModelError, match=r"drop \(Dropout\) takes its ratio from 'chosen_ratio'"):
            self.engine(model, tmp_path)

    @pytest.mark.parametrize("follows", [True, False])
    def test_whose_written_out_dropout_has_a_threshold_that_follows_a_size_are_refused(self, follows, tmp_path):
        node, rng = helper.make_node, np.random.default_rng(0)
        weights = {
            "E": rng.normal(size=(WORDS, 8)).astype("f"),
            "W": rng.normal(size=(8, 3)).astype("f"),
            "length": np.array(4 if follows else 13),
            "few": np.float32(0.25),
            "many": np.float32(0.5),
            "one": np.array(1),
            "axes": np.array([1]),
            "scale": np.float32(1 / 0.75),
        }
        nodes = [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "one"], ["n"]),
            node("Less", ["n", "length"], ["condition"]),
            node("Where", ["condition", "few" if not follows else "many", "few"], ["p"]),
            node("Gather", ["E", "x"], ["e"]),
            node("RandomUniformLike", ["e"], ["u"], name="uniform"),
            node("Greater", ["u", "p"], ["kept"]),
            node("Cast", ["kept"], ["kept_float"], to=TensorProto.FLOAT),
            node("Mul", ["e", "kept_float"], ["dropped"]),
            node("Mul", ["dropped", "scale"], ["d"]),
            node("ReduceSum", ["d", "axes"], ["s"], keepdims=0),
            node("MatMul", ["s", "W"], ["y"]),
        ]
        if follows:
            with pytest.raises(UnsupportedModelError, match="'p', beside them, follows the sizes of the inputs"):
                self.engine(self.model(nodes, weights), tmp_path)
        else:
            assert [site.p for site in self.engine(self.model(nodes, weights), tmp_path).sites] == [0.25]


class TestOnnxFiles:
    def exported(self, network: nn.Module, path: Path, *, any_length: bool = True) -> Path:
        dynamic = {0: torch.export.Dim.DYNAMIC} | ({1: torch.export.Dim.DYNAMIC} if any_length else {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(network.train(), (tokens(3, 7),), path, dynamic_shapes=(dynamic,), verbose=False)
        return path

    @pytest.mark.long
    def test_serve_any_length(self, tmp_path):
        for network in (Convolved(), Recurrent()):
            path = self.exported(network, tmp_path / "network.onnx")
            engine = Engine.from_onnx(path, tokens(3, 7), shapes=("tokens",), sizes={"tokens": (2, 40)})
            assert engine.program.runtime == "onnx"
            for length in (2, 9, 40):
                x = tokens(2, length)
                np.testing.assert_allclose(engine.predict(x, passes=0).mean, eval_answer(network, x), atol=1e-5)
            rows = [tokens(1, length)[0].numpy() for length in (3, 30, 2)]
            together = engine.predict(rows, passes=20, seed=3)
            alone = engine.at({"tokens": 30}).run((rows[1][None],), [3], [1], 20).prediction
            np.testing.assert_allclose(together.mean[1], alone.mean[0], atol=1e-6)

    def test_that_fix_the_length_are_refused(self, tmp_path):
        path = self.exported(Convolved(), tmp_path / "network.onnx", any_length=False)
        with pytest.raises(UnsupportedModelError, match=r"declared with 7 for tokens \(1 to 40\)"):
            Engine.from_onnx(path, tokens(3, 7), shapes=("tokens",), sizes=TOKENS)
