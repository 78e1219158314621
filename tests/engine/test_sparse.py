"""The native runtime: chains of masked linear layers without the multiplications by zero."""

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine, UnsupportedModelError
from mcdropout.engine.arrays import with_rows
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.native import chains, library
from mcdropout.engine.native.chains import Linear, MaskedChain
from mcdropout.engine.native.masks import MaskTable, Passes, UnitLayout
from mcdropout.engine.pytorch.cut.conversion import convert
from mcdropout.engine.pytorch.cut.export import EXAMPLE_PAIRS, axes_of, example_masks, export
from mcdropout.engine.pytorch.cut.split import split
from mcdropout.engine.pytorch.eager import EagerRuntime
from mcdropout.engine.pytorch.find.discovery import discover
from mcdropout.engine.runtimes.sparse import SparseRuntime
from mcdropout.engine.subject import EXAMPLE_ROWS
from mcdropout.engine.threads import pool, thread_count
from tests.engine.networks import Custom
from tests.patience import patience

needs_extension = pytest.mark.skipif(
    not library.available(),
    reason="the C extension was not built: there was no C compiler when the package was installed",
)


def chain(widths, rates, bias=True):
    """Dropout in front of each linear layer where its rate is above 0, a ReLU behind each but the last."""
    torch.manual_seed(len(widths))
    parts = []
    for inputs, outputs, p in zip(widths[:-1], widths[1:], rates, strict=True):
        parts += [nn.Dropout(p)] if p else []
        parts += [nn.Linear(inputs, outputs, bias=bias), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def converted(module, x, whole=False):
    """The network, its mask source, and its program as ONNX."""
    x = with_rows(x, EXAMPLE_ROWS)
    network = discover(module, (x,)).network
    source = MaskSource(network.sites)
    cut = split(export(network, (x,), source), 1, whole=whole)
    per_pair = [site.scope == "row" for site in network.sites]
    axes = axes_of(None, network.sites, 1)
    return network, source, convert(cut, (x,), example_masks(source, EXAMPLE_PAIRS), per_pair, axes)


def found(module, x, whole=False):
    _, source, halves = converted(module, x, whole)
    return halves.write(source.sites).chain


def both(module, x, whole=False):
    """The sparse runtime and the eager one, and the source of their masks."""
    network, source, halves = converted(module, x, whole)
    graphs = halves.write(source.sites)
    assert graphs.chain is not None
    return SparseRuntime(graphs, graphs.chain), EagerRuntime(network), source


@cache
def both_of(widths, rates, bias=True):
    """The same of a chain; it is converted once for all tests that ask for it."""
    return both(chain(widths, rates, bias), torch.from_numpy(random(EXAMPLE_ROWS, widths[0])))


def outputs(runtime, x, rows, masks):
    (out,) = runtime.suffix(runtime.prefix((x,)), rows, masks)
    return out


def draw(source, pairs):
    return source.draw([7], [0], 0, pairs)


def random(*shape):
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def conv_then_chain():
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *chain([72, 130, 70, 3], [0.25, 0.5, 0.5])
    )


@cache
def both_of_conv_then_chain():
    return both(conv_then_chain(), torch.from_numpy(random(EXAMPLE_ROWS, 1, 8, 8)))


@cache
def engine_of(widths, rates):
    return Engine.from_module(chain(widths, rates), random(2, widths[0]))


@needs_extension
class TestOutputs:
    @pytest.mark.wide
    @pytest.mark.parametrize(
        ("widths", "rates", "bias"),
        [
            ([64, 64, 64], [0.5, 0.5], True),
            ([128, 192, 10], [0.2, 0.5], True),
            ([1, 1, 1], [0.5, 0.5], True),
            ([5, 63, 65, 2], [0.1, 0.5, 0.3], True),
            ([129, 300, 257, 127, 3], [0.25, 0.5, 0.0, 0.9], True),
            ([784, 100, 10], [0.2, 0.5], False),
        ],
    )
    @pytest.mark.parametrize("pairs", [1, 2, 31, 33, 400])
    def test_equal_the_eager_loop_under_the_same_masks(self, widths, rates, bias, pairs):
        x = random(4, widths[0])
        sparse, eager, source = both_of(tuple(widths), tuple(rates), bias)
        rows, masks = np.arange(pairs) % 4, draw(source, pairs)
        wanted = outputs(eager, x, rows, masks)
        np.testing.assert_allclose(outputs(sparse, x, rows, masks), wanted, rtol=1e-5, atol=1e-5)

    def test_do_not_depend_on_how_many_pairs_are_taken_at_a_time(self, monkeypatch):
        x = random(3, 90)
        sparse, _, source = both_of((90, 200, 5), (0.5, 0.5))
        rows, masks = np.arange(100) % 3, draw(source, 100)
        wanted = outputs(sparse, x, rows, masks)
        taken: list[int] = []
        scratch = sparse._chain._bytes
        monkeypatch.setattr(
            sparse._chain, "_bytes", lambda block, stride: taken.append(block) or scratch(block, stride)
        )
        monkeypatch.setattr(chains, "SCRATCH_BYTES", 20_000)
        assert np.array_equal(outputs(sparse, x, rows, masks), wanted)
        assert 1 < taken[-1] < 100 // thread_count()

    def test_are_right_where_rows_are_repeated_skipped_and_out_of_order(self):
        x = random(5, 90)
        sparse, eager, source = both_of((90, 200, 5), (0.5, 0.5))
        rows, masks = np.array([4, 0, 0, 3, 4, 4, 1]), draw(source, 7)
        wanted = outputs(eager, x, rows, masks)
        np.testing.assert_allclose(outputs(sparse, x, rows, masks), wanted, rtol=1e-5, atol=1e-5)

    def test_are_right_behind_a_prefix(self):
        x = random(3, 1, 8, 8)
        sparse, eager, source = both_of_conv_then_chain()
        rows, masks = np.repeat(np.arange(3), 20), draw(source, 60)
        wanted = outputs(eager, x, rows, masks)
        np.testing.assert_allclose(outputs(sparse, x, rows, masks), wanted, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("first", [0.0, 0.2])
    @pytest.mark.parametrize("whole", [True, False])
    def test_are_right_where_a_picture_is_flattened(self, first, whole):
        x = random(3, 1, 8, 8)
        module = nn.Sequential(nn.Flatten(), *chain([64, 100, 3], [first, 0.5]))
        sparse, eager, source = both(module, torch.from_numpy(x), whole=whole)
        rows, masks = np.repeat(np.arange(3), 20), draw(source, 60)
        wanted = outputs(eager, x, rows, masks)
        np.testing.assert_allclose(outputs(sparse, x, rows, masks), wanted, rtol=1e-5, atol=1e-5)

    def test_are_the_biases_where_everything_is_dropped(self):
        x, module = random(2, 90), chain([90, 200, 5], [0.5, 0.5])
        sparse, _, source = both_of((90, 200, 5), (0.5, 0.5))
        out = outputs(sparse, x, np.arange(2), [np.zeros_like(mask) for mask in draw(source, 2)])
        assert np.array_equal(out, np.tile(module[-1].bias.detach().numpy(), (2, 1)))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("kept", [0.0, 1.0])
    def test_are_not_finite_in_just_the_rows_that_held_nan_or_infinity(self, value, kept):
        x = random(4, 100)
        x[2, 37] = value
        sparse, eager, source = both_of((100, 130, 3), (0.5, 0.5))
        rows, masks = np.repeat(np.arange(4), 10), draw(source, 40)
        masks[0][:, 37] = kept
        out, wanted = outputs(sparse, x, rows, masks), outputs(eager, x, rows, masks)
        assert np.array_equal(~np.isfinite(wanted).all(1), rows == 2)
        assert np.array_equal(np.isnan(out), np.isnan(wanted))
        assert np.array_equal(~np.isfinite(out).all(1), rows == 2)

    def test_are_the_same_from_many_threads_at_once(self):
        x = random(8, 150)
        sparse, _, source = both(chain([150, 200, 130, 4], [0.2, 0.5, 0.5]), torch.from_numpy(x))
        sizes = [1, 7, 40, 200, 333] * 20
        tasks = {size: (np.arange(size) % 8, draw(source, size)) for size in set(sizes)}
        alone = {size: outputs(sparse, x, *task) for size, task in tasks.items()}
        with ThreadPoolExecutor(8) as threads:
            together = threads.map(lambda size: outputs(sparse, x, *tasks[size]), sizes)
            assert all(np.array_equal(out, alone[size]) for size, out in zip(sizes, together, strict=True))

    def test_do_not_wait_for_threads_that_are_busy(self, monkeypatch):
        x = random(2, 150)
        sparse, _, source = both(chain([150, 200, 4], [0.5, 0.5]), torch.from_numpy(x))
        task = np.arange(300) % 2, draw(source, 300)
        wanted = outputs(sparse, x, *task)
        go_on = threading.Event()
        monkeypatch.setattr(chains, "thread_count", lambda: 2)
        busy = [pool().submit(go_on.wait, patience(30)) for _ in range(2 * thread_count())]
        try:
            found = outputs(sparse, x, *task)
            assert not any(one.done() for one in busy)
        finally:
            del task
            go_on.set()
        wait(busy)
        assert np.array_equal(found, wanted)


@needs_extension
class TestDrawing:
    """Masks that are drawn while the chain runs are to the bit those that are drawn before."""

    @pytest.mark.wide
    @pytest.mark.parametrize(
        ("widths", "rates"),
        [
            ([128, 192, 10], [0.5, 0.5]),
            ([5, 63, 65, 2], [0.1, 0.5, 0.3]),
            ([129, 300, 257, 127, 3], [0.25, 0.5, 0.0, 0.9]),
            ([1000, 1030, 3], [1.0, 0.003]),
            ([1000, 1030, 3], [1e-3, 1e-4]),
            ([515, 90, 3], [1e-12, 0.5]),
        ],
    )
    @pytest.mark.parametrize("passes", [[1, 1, 1], [7, 1, 40], [200, 0, 3]])
    def test_gives_the_same_outputs(self, widths, rates, passes):
        x = random(3, widths[0])
        sparse, _, source = both_of(tuple(widths), tuple(rates))
        self.check(sparse, source, x, passes)

    def test_gives_the_same_behind_a_prefix(self):
        x = random(3, 1, 8, 8)
        sparse, _, source = both_of_conv_then_chain()
        self.check(sparse, source, x, [9, 30, 1])

    def test_gives_the_same_without_what_draws_natively(self, monkeypatch):
        x = random(3, 90)
        sparse, _, source = both_of((90, 200, 5), (0.5, 0.5))
        monkeypatch.setattr(library, "available", lambda: False)
        self.check(sparse, source, x, [9, 30, 1])
        self.check(sparse, source, x, [9, 0, 1])

    def check(self, sparse, source, x, passes):
        taken = np.repeat([2, 0, 1], passes)
        undrawn = source.undrawn([9, 2**63, 9], [5, 0, 3], [2, 0, 1000], passes)
        found = sparse.suffix_drawing(sparse.prefix((x,)), taken, undrawn)[0]
        drawn = source.draw([9, 2**63, 9], [5, 0, 3], [2, 0, 1000], passes)
        assert np.array_equal(found, outputs(sparse, x, taken, drawn))
        assert len(np.unique(found, axis=0)) > 1


@needs_extension
class TestArrays:
    """What would make the extension read where it must not is refused."""

    def run(self, **changed):
        layers = MaskedChain([Linear.pack(random(3, 5), None, relu=False)])
        arguments = {
            "x": random(2, 5),
            "rows": np.array([0, 1, 1]),
            "masks": [random(3, 5)],
            "out": np.empty((3, 3), np.float32),
        }
        layers.run(**{**arguments, **changed})

    def run_drawn(self, units=5, drawn=None, **changed):
        layers = MaskedChain([Linear.pack(random(3, 5), None, relu=False)])
        arguments = {
            "x": random(2, 5),
            "rows": np.array([0, 1, 1]),
            "table": MaskTable([UnitLayout(0, 3, units, 32 if drawn else 1, 1, [2.0], [0.0], drawn)], 4),
            "sites": np.array([0]),
            "passes": self.passes([3]),
            "out": np.empty((3, 3), np.float32),
        }
        layers.run_drawn(**{**arguments, **changed})

    @pytest.mark.parametrize(
        "place",
        [
            UnitLayout(3, 2, 5, 1, 1, [2.0], [0.0]),
            UnitLayout(-1, 2, 5, 1, 1, [2.0], [0.0]),
            UnitLayout(0, 1, 65, 1, 1, [2.0], [0.0]),
            UnitLayout(0, 1, 9, 8, 1, [2.0], [0.0]),
            UnitLayout(0, 4, 5, 24, 1, [2.0], [0.0]),
            UnitLayout(0, 1, 3, 32, 1, [2.0], [0.0]),
            UnitLayout(0, 1, 2, 64, 1, [2.0], [0.0]),
            UnitLayout(0, 4, 5, 0, 1, [2.0], [0.0]),
        ],
    )
    def test_places_that_do_not_fit_are_refused(self, place):
        MaskTable([UnitLayout(3, 1, 64, 1, 1, [2.0], [0.0])], 4)
        with pytest.raises(ValueError, match="does not fit"):
            MaskTable([place], 4)
        with pytest.raises(ValueError, match="multiple of 4"):
            MaskTable([], 3)

    def passes(self, counts):
        return Passes(0, np.zeros(len(counts), np.uint64), 0, counts)

    @pytest.mark.parametrize(
        "changed",
        [
            {"x": random(2, 6)},
            {"x": random(2, 5).astype(np.float64)},
            {"x": random(5, 2).T},
            {"rows": np.array([0, 1, 2])},
            {"rows": np.array([0, -1, 1])},
            {"rows": np.array([0, 1, 1], np.int32)},
            {"masks": [random(2, 5)]},
            {"masks": []},
            {"out": np.empty((3, 4), np.float32)},
        ],
    )
    def test_of_another_shape_dtype_or_range_are_refused(self, changed):
        self.run()
        with pytest.raises(ValueError, match=r"accepted|rows|pairs|zip"):
            self.run(**changed)

    @pytest.mark.parametrize(
        "changed",
        [{"sites": [1]}, {"sites": [-2]}, {"sites": [0, 0]}, {"units": 4}, {"counts": [2]}, {"drawn": "uniform"}],
    )
    def test_masks_that_are_none_of_the_layers_are_refused(self, changed):
        self.run_drawn()
        self.run_drawn(sites=np.array([-1]))
        arguments = {"sites": [0], "counts": [3], "units": 5, "drawn": None, **changed}
        sites, passes = np.array(arguments.pop("sites")), self.passes(arguments.pop("counts"))
        with pytest.raises(ValueError, match=r"accepted|is not one of"):
            self.run_drawn(sites=sites, passes=passes, **arguments)

    @pytest.mark.parametrize("counts", [[-1], [3, -1]])
    def test_rows_of_less_than_no_passes_are_refused(self, counts):
        with pytest.raises(ValueError, match="0 or more are accepted"):
            self.passes(counts)


@needs_extension
class TestRecognition:
    def test_finds_the_layers_and_what_stands_before_each(self):
        layers = found(chain([20, 30, 40, 3], [0.2, 0.0, 0.5]), torch.rand(2, 20)).layers
        assert [tuple(layer.weight.shape) for layer in layers] == [(30, 20), (40, 30), (3, 40)]
        assert [layer.mask for layer in layers] == [0, None, 1]
        assert [layer.relu for layer in layers] == [False, True, True]
        assert [layer.density for layer in layers] == pytest.approx([0.8, 0.5, 0.25])

    def test_knows_that_a_picture_need_only_be_read_flat(self):
        module = nn.Sequential(nn.Flatten(), *chain([64, 30, 3], [0.2, 0.5]))
        assert found(module, torch.rand(2, 1, 8, 8)).input == 0
        assert found(conv_then_chain(), torch.rand(2, 1, 8, 8)).input is None

    def test_knows_of_a_relu_at_the_end_of_the_prefix(self):
        (layer,) = found(chain([20, 30, 3], [0.0, 0.5]), torch.rand(2, 20)).layers
        assert (layer.relu, layer.density) == (False, 0.25)

    @pytest.mark.wide
    @pytest.mark.parametrize(
        "module",
        [
            nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)),
            nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)),
            nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU(), nn.AlphaDropout(0.5), nn.Linear(8, 3)),
            nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3)),
            nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5), nn.Linear(8, 3)),
            nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3), nn.ReLU()),
            nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8), nn.Unflatten(1, (2, 4)), nn.Flatten(0, 1), nn.Linear(4, 3)),
            nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Dropout1d(0.5), nn.Flatten(), nn.Linear(8, 3)),
            nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(8, 3)),
            Custom(
                lambda self, x: self.last(x + self.first(nn.functional.dropout(x, 0.5, self.training))),
                first=nn.Linear(8, 8),
                last=nn.Linear(8, 3),
            ),
            Custom(
                lambda self, x: nn.functional.linear(
                    x, nn.functional.dropout(self.linear.weight, 0.5, self.training), self.linear.bias
                ),
                linear=nn.Linear(8, 3),
            ),
        ],
        ids=[
            "tanh",
            "layer norm",
            "alpha dropout",
            "dropout before the relu",
            "two masks",
            "relu at the end",
            "rows made of units",
            "dropout1d",
            "dropout2d",
            "skip connection",
            "dropped weights",
        ],
    )
    def test_leaves_anything_else_alone(self, module):
        assert found(module, torch.rand(3, 8)) is None

    @pytest.mark.parametrize(
        "module",
        [
            nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
            nn.Sequential(nn.Dropout(0.5), nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))),
        ],
        ids=["batch norm", "computed weights"],
    )
    def test_takes_what_is_folded_into_a_layer_when_it_is_written(self, module):
        x = random(4, 8)
        sparse, eager, source = both(module.eval(), torch.from_numpy(x))
        masks = draw(source, 30)
        wanted = outputs(eager, x, np.arange(30) % 4, masks)
        np.testing.assert_allclose(outputs(sparse, x, np.arange(30) % 4, masks), wanted, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_leaves_weights_alone_that_are_not_finite(self, value):
        _, source, halves = converted(chain([8, 8, 3], [0.5, 0.5]), torch.rand(3, 8))
        weights = next(tensor for tensor in halves.suffix.graph.initializer if list(tensor.dims) == [8, 8])
        weights.raw_data = np.float32(value).tobytes() + weights.raw_data[4:]
        assert halves.write(source.sites).chain is None

    def test_leaves_double_precision_alone(self):
        assert found(chain([8, 8, 3], [0.5, 0.5]).double(), torch.rand(3, 8, dtype=torch.float64)) is None


@needs_extension
class TestChoice:
    @pytest.mark.parametrize(
        ("widths", "rates", "runtime"),
        [
            ([300, 512, 512, 10], [0.2, 0.5, 0.5], "sparse"),
            ([300, 512, 10], [0.0, 0.5], "onnx"),  # what the masks reach is small
            ([30, 20, 10], [0.2, 0.5], "onnx"),
            ([600, 512, 10], [0.2, 0.5], "onnx"),  # the large layer is dense
        ],
    )
    def test_is_by_the_expected_work(self, widths, rates, runtime):
        assert engine_of(tuple(widths), tuple(rates)).program.runtime == runtime

    def test_counts_outputs_as_they_are_padded(self):
        x = torch.rand(2, 2000)
        for outputs, worthwhile in (64, True), (65, False):
            layers = found(nn.Sequential(nn.ReLU(), nn.Dropout(0.25), nn.Linear(2000, outputs)), x)
            assert layers.worthwhile is worthwhile

    def test_an_engine_of_it_predicts_what_another_does(self):
        module, x = chain([300, 512, 512, 10], [0.2, 0.5, 0.5]), random(3, 300)
        engine = engine_of((300, 512, 512, 10), (0.2, 0.5, 0.5))
        eager = Engine.from_module(module, x, runtime="eager")
        assert (engine.program.runtime, engine.program.device, engine.program.strategy) == ("sparse", "cpu", "split")
        assert engine.program.reason is None
        np.testing.assert_allclose(engine.samples(x, 20, seed=1), eager.samples(x, 20, seed=1), atol=1e-5)
        np.testing.assert_allclose(engine.predict(x, 0).mean, eager.predict(x, 0).mean, atol=1e-5)

    def test_it_can_be_asked_for_where_it_is_not_worth_it(self):
        engine = Engine.from_module(chain([8, 8, 3], [0.5, 0.5]), random(2, 8), runtime="sparse")
        assert engine.program.runtime == "sparse"

    def test_asking_for_it_elsewhere_is_refused(self):
        module = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
        with pytest.raises(UnsupportedModelError, match=r"cannot run on sparse: it takes float32 linear layers"):
            Engine.from_module(module, random(2, 8), runtime="sparse")


class TestWithoutTheExtension:
    @needs_extension
    def test_one_of_another_version_is_none(self, monkeypatch):
        monkeypatch.setattr(library, "_INTERFACE", library._INTERFACE + 1)
        assert library._loaded.__wrapped__(ctypes.CDLL) is None

    def test_onnx_does_its_work(self, monkeypatch):
        monkeypatch.setattr(library, "available", lambda: False)
        engine = Engine.from_module(chain([300, 512, 512, 10], [0.2, 0.5, 0.5]), random(2, 300))
        assert (engine.program.runtime, engine.program.reason) == ("onnx", None)

    def test_asking_for_it_says_what_is_missing(self, monkeypatch):
        monkeypatch.setattr(library, "available", lambda: False)
        with pytest.raises(UnsupportedModelError, match="cannot run on sparse: its C extension was not built"):
            Engine.from_module(chain([8, 8, 3], [0.5, 0.5]), random(2, 8), runtime="sparse")
