"""Engine: the answers that a Python user gets, whatever runs the network and whoever shares the batch."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine, InvalidInputError, UnsupportedModelError, UnusableOutputError
from mcdropout.engine.masks import MAX_SEED, MaskSource
from mcdropout.engine.program import FrontierValue
from mcdropout.engine.pytorch.cut.export import export
from mcdropout.engine.pytorch.cut.split import split
from mcdropout.engine.pytorch.find.discovery import discover
from mcdropout.engine.runtimes.tensors import TorchRuntime
from mcdropout.engine.statistics import take
from tests.engine.networks import Custom, conv_net, drop_connect, many_sites, mlp

RUNTIMES = ["torch", "onnx", "eager"]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(logits):
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def assert_same(found, wanted, atol=1e-6):
    """Every field is the same, the seed aside."""
    assert (found.task, list(found.values)) == (wanted.task, list(wanted.values))
    assert found.passes.tolist() == wanted.passes.tolist()
    for name, wanted_value in wanted.values.items():
        assert (found.values[name] is None) == (wanted_value is None), name
        if wanted_value is not None:
            np.testing.assert_allclose(found.values[name], wanted_value, rtol=0, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def engines():
    return {name: Engine.from_module(many_sites(), random(2, 6), runtime=name) for name in RUNTIMES}


@pytest.fixture(scope="module", params=RUNTIMES)
def engine(request, engines):
    return engines[request.param]


@pytest.fixture(scope="module")
def torch_engine(engines):
    return engines["torch"]


@pytest.fixture(scope="module")
def rooted():
    module = Custom(lambda self, x: self.rest(x) + x.sum(1, keepdim=True).sqrt(), rest=mlp())
    return Engine.from_module(module, np.ones((3, 4), np.float32), runtime="torch", step_bytes=2000)


@pytest.fixture(scope="module")
def shared_mask_engine():
    return Engine.from_module(drop_connect(), random(3, 4), runtime="torch")


class TestAnswers:
    def test_without_passes_are_those_of_eval_mode(self, engine):
        x = random(5, 6)
        wanted = torch.softmax(many_sites().eval()(torch.from_numpy(x)), 1).detach().numpy()
        found = engine.predict(x, passes=0)
        np.testing.assert_allclose(found.mean, wanted, rtol=0, atol=1e-5)
        assert found.passes.tolist() == [0] * 5
        assert found.seed is None
        assert found.variance is found.mutual_information is None

    def test_are_the_same_from_every_runtime(self, engine, torch_engine):
        x = random(5, 6)
        assert_same(engine.predict(x, 40, seed=3), torch_engine.predict(x, 40, seed=3), atol=1e-5)

    def test_of_every_pass_are_the_same_from_every_runtime(self, engine, torch_engine):
        x = random(5, 6)
        np.testing.assert_allclose(engine.samples(x, 20, 3), torch_engine.samples(x, 20, 3), rtol=0, atol=1e-5)

    def test_repeat_with_the_seed_that_they_name(self, engine):
        first = engine.predict(random(3, 6), 10)
        assert 0 <= first.seed < 2**53
        again = engine.predict(random(3, 6), 10, seed=first.seed)
        assert_same(again, first, atol=0)
        assert again.seed == first.seed

    def test_differ_with_another_seed(self, engine):
        one, other = (engine.predict(random(3, 6), 10, seed=seed) for seed in (1, 2))
        assert (one.mean != other.mean).any()

    def test_of_requests_without_a_seed_are_drawn_from_different_ones(self, torch_engine):
        """Two of 20 seeds of 53 bits are equal: false alarms 2e-14."""
        assert len({torch_engine.predict(random(1, 6), 1).seed for _ in range(20)}) == 20

    def test_of_equal_rows_of_one_request_are_drawn_apart(self, engine):
        found = engine.predict(np.repeat(random(1, 6), 2, axis=0), 10, seed=1)
        assert (found.mean[0] != found.mean[1]).any()

    def test_sum_up_the_samples(self, engine):
        x = random(3, 6)
        samples, found = engine.samples(x, 30, seed=4), engine.predict(x, 30, seed=4)
        assert samples.shape == (30, 3, 4)
        np.testing.assert_allclose(samples.sum(axis=2), 1.0, atol=1e-12)
        np.testing.assert_allclose(samples.mean(axis=0), found.mean, atol=1e-12)
        np.testing.assert_allclose(samples.var(axis=0, ddof=1), found.variance, atol=1e-12)

    def test_of_each_pass_are_the_networks_outputs_under_its_masks(self, engine):
        x = random(2, 6)
        samples = engine.samples(x, 7, seed=9)
        for row in range(2):
            (logits,) = engine.outputs(np.repeat(x[row : row + 1], 7, axis=0), engine.masks(9, row, 0, 7))
            np.testing.assert_allclose(softmax(logits), samples[:, row], rtol=0, atol=1e-6)

    def test_do_not_depend_on_how_the_input_is_held(self, torch_engine):
        x = np.arange(12).reshape(2, 6)
        wanted = torch_engine.predict(x.astype(np.float32), 5, 1)
        fortran = np.asfortranarray(x.astype(np.float32))
        for same in (x, x.tolist(), fortran, torch.from_numpy(x), x.astype(np.float64), torch.from_numpy(x).half()):
            assert_same(torch_engine.predict(same, 5, 1), wanted, atol=0)

    def test_of_a_regression_sum_up_predicted_means(self):
        module = Custom(lambda self, x: (self.a(x)[:, 0], self.a(x)[:, 1]), a=mlp(outputs=2))
        engine = Engine.from_module(module, random(1, 4), "regression", runtime="torch")
        x = random(3, 4)
        samples, found = engine.samples(x, 30, seed=4), engine.predict(x, 30, seed=4)
        assert samples.shape == (30, 3)
        np.testing.assert_allclose(samples.mean(axis=0), found.mean, atol=1e-12)
        np.testing.assert_allclose(samples.var(axis=0, ddof=1), found.epistemic_variance, atol=1e-12)

    def test_are_colder_with_a_lower_temperature(self):
        cold = Engine.from_module(mlp(), random(1, 4), runtime="torch", temperature=0.1)
        plain = Engine.from_module(mlp(), random(1, 4), runtime="torch")
        x = random(4, 4)
        (logits,) = plain.outputs(x, [np.ones((4, 16), np.float32)])
        np.testing.assert_allclose(cold.predict(x, 0).mean, softmax(logits * 10.0), rtol=1e-4)


class TestARequest:
    """Its answers are its own: of its seed, its rows and their positions in it."""

    def test_is_answered_the_same_alone_and_among_31_others(self, engine):
        x = random(32, 6)
        seeds, rows = np.arange(100, 132), np.arange(32) % 3
        together = engine.run(engine.as_inputs(x), seeds, rows, 25).prediction
        for position in (0, 7, 31):
            alone = engine.run(engine.as_inputs(x[position : position + 1]), seeds[[position]], rows[[position]], 25)
            assert_same(take(together, slice(position, position + 1)), alone.prediction)

    def test_draws_the_same_masks_to_the_bit_alone_and_among_others(self, engine):
        among = engine._source.draw([5, 8, 5, MAX_SEED], [0, 1, 2, 0], 3, 6)
        for position, (seed, row) in enumerate([(5, 0), (8, 1), (5, 2), (MAX_SEED, 0)]):
            for mine, all_of_them in zip(engine.masks(seed, row, 3, 6), among, strict=True):
                np.testing.assert_array_equal(mine, all_of_them[6 * position : 6 * position + 6])

    def test_may_be_cut_into_rows(self, torch_engine):
        x = random(4, 6)
        whole = torch_engine.predict(x, 20, seed=6)
        parts = torch_engine.run(torch_engine.as_inputs(x[2:]), [6, 6], [2, 3], 20).prediction
        assert_same(parts, take(whole, slice(2, 4)))

    def test_is_answered_the_same_in_small_steps_and_in_one(self, torch_engine):
        x = random(11, 6)
        small = Engine.from_module(many_sites(), random(2, 6), runtime="torch", step_bytes=3000)
        assert small.steps.most_pairs < 11  # more rows than a step holds
        assert torch_engine.steps.most_pairs > 11 * 30
        assert_same(small.predict(x, 30, 2), torch_engine.predict(x, 30, 2))
        np.testing.assert_allclose(small.samples(x, 30, 2), torch_engine.samples(x, 30, 2), rtol=0, atol=1e-6)
        assert_same(small.predict(x, 0), torch_engine.predict(x, 0))

    def test_is_answered_the_same_with_few_rows_a_step(self, torch_engine):
        one = Engine.from_module(many_sites(), random(2, 6), runtime="torch", step_bytes=1)
        assert one.steps.most_pairs == 1
        assert_same(one.predict(random(3, 6), 7, 2), torch_engine.predict(random(3, 6), 7, 2))

    def test_is_answered_the_same_while_others_run_in_other_threads(self, engine):
        x = random(3, 6)
        alone = [engine.predict(x, 30, seed=seed) for seed in range(16)]
        barrier = threading.Barrier(16)

        def predict(seed):
            barrier.wait()
            return engine.predict(x, 30, seed=seed)

        with ThreadPoolExecutor(16) as threads:
            together = list(threads.map(predict, range(16)))
        for found, wanted in zip(together, alone, strict=True):
            assert_same(found, wanted)

    def test_takes_memory_that_does_not_grow_with_its_passes(self):
        engine = Engine.from_module(mlp(hidden=256), random(1, 4), runtime="torch", step_bytes=400_000)
        x = random(4, 4)

        def peak(passes):
            engine.predict(x, passes, 1)
            with ThreadPoolExecutor(1) as thread:  # a new one, that keeps no memory for masks yet
                tracemalloc.start()
                thread.submit(engine.predict, x, passes, 1).result()
                _, most = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            return most

        assert peak(1000) < 1.2 * peak(100)


class TestAMaskThatRowsShare:
    def test_keeps_requests_apart(self, shared_mask_engine):
        assert not shared_mask_engine.shares_rows
        inputs = shared_mask_engine.as_inputs(random(2, 4))
        with pytest.raises(ValueError, match="one request at a time"):
            shared_mask_engine.run(inputs, [1, 2], [0, 0], 3)

    def test_is_the_same_for_all_rows_of_a_pass_and_another_in_the_next(self, shared_mask_engine):
        samples = shared_mask_engine.samples(np.repeat(random(1, 4), 3, axis=0), 20, seed=1)
        np.testing.assert_allclose(samples, samples[:, :1].repeat(3, axis=1), atol=1e-6)
        assert samples.var(axis=0).min() > 0.0

    def test_is_the_same_where_rows_are_cut_into_blocks(self, shared_mask_engine):
        x = random(5, 4)
        small = Engine.from_module(drop_connect(), random(3, 4), runtime="torch", step_bytes=1)
        assert_same(small.predict(x, 20, seed=1), shared_mask_engine.predict(x, 20, seed=1))


class TestPrograms:
    def test_run_what_no_mask_touches_once_a_row(self):
        x = torch.rand(3, 1, 6, 6)
        engine = Engine.from_module(conv_net(), x, runtime="torch")
        assert (engine.program.strategy, engine.program.reason) == ("split", None)
        assert engine.program.frontier == (FrontierValue((16,), True, None),)
        network = discover(conv_net(), (x,)).network
        cut = split(export(network, (x,), MaskSource(network.sites)), 1)
        in_prefix, in_suffix = (" ".join(str(n.target) for n in g.graph.nodes) for g in (cut.prefix, cut.suffix))
        for operation in ("convolution", "conv2d"):
            assert operation not in in_suffix
        assert "conv" in in_prefix
        assert "batch_norm" in in_prefix
        assert engine.program.suffix_operations == 2  # the mask, the last layer
        assert engine.program.prefix_operations >= 5

    def test_run_the_prefix_once_however_many_passes_there_are(self, monkeypatch):
        engine = Engine.from_module(conv_net(), torch.rand(3, 1, 6, 6), runtime="torch", step_bytes=1000)
        rows = []
        real = TorchRuntime.prefix
        monkeypatch.setattr(TorchRuntime, "prefix", lambda self, x: (rows.append(len(x[0])), real(self, x))[1])
        engine.predict(random(2, 1, 6, 6), 50, 1)
        assert sum(rows) == 2

    @pytest.mark.filterwarnings("ignore")
    def test_that_cannot_be_exported_run_the_module_itself_and_say_why(self):
        def forward(network, x):
            return network.rest(x) if x.abs().sum() >= 0 else x

        engine = Engine.from_module(Custom(forward, rest=mlp()), random(1, 4))
        assert (engine.program.runtime, engine.program.strategy) == ("eager", "whole")
        assert "torch.export cannot follow the network" in engine.program.reason
        plain = Engine.from_module(mlp(), random(1, 4), runtime="torch")
        assert_same(engine.predict(random(3, 4), 20, 1), plain.predict(random(3, 4), 20, 1))
        with pytest.raises(UnsupportedModelError, match=r"cannot run on onnx: torch\.export cannot follow"):
            Engine.from_module(Custom(forward, rest=mlp()), random(1, 4), runtime="onnx")

    def test_whose_rows_cross_in_another_dimension_are_split(self):
        def forward(network, x):
            return network.last(network.drop(torch.relu(network.first(x).t())).t())

        def module():
            torch.manual_seed(0)
            return Custom(forward, first=nn.Linear(4, 8), drop=nn.Dropout(0.5), last=nn.Linear(8, 3))

        engine = Engine.from_module(module(), random(1, 4), runtime="torch")
        assert (engine.program.strategy, engine.program.reason) == ("split", None)
        assert [value.shape for value in engine.program.frontier] == [(8,)]
        eager = Engine.from_module(module(), random(1, 4), runtime="eager")
        assert_same(engine.predict(random(3, 4), 20, 1), eager.predict(random(3, 4), 20, 1), atol=1e-5)

    @pytest.mark.parametrize("runtime", ["torch", "onnx"])
    def test_are_split_where_an_input_crosses_beside_a_computed_value(self, runtime):
        module = Custom(
            lambda self, x: self.last(x + self.drop(self.first(x))),
            first=nn.Linear(4, 4),
            drop=nn.Dropout(0.5),
            last=nn.Linear(4, 3),
        )
        engine = Engine.from_module(module, random(1, 4), runtime=runtime)
        assert (engine.program.strategy, engine.program.reason) == ("split", None)
        eager = Engine.from_module(module, random(1, 4), runtime="eager")
        assert_same(engine.predict(random(3, 4), 20, 1), eager.predict(random(3, 4), 20, 1), atol=1e-5)

    @pytest.mark.parametrize("runtime", RUNTIMES)
    def test_apply_the_masks_of_calls_that_are_gone_in_eval_mode(self, runtime):
        def forward(network, x):
            if network.training:
                x = nn.functional.dropout(x, 0.5)
            return network.rest(x)

        module = Custom(forward, rest=mlp())
        engine = Engine.from_module(module, random(1, 4), runtime=runtime)
        assert [site.name for site in engine.sites] == ["(network)", "rest.2"]
        x, dropped = random(3, 4), np.array([[0.0, 2.0, 0.0, 2.0]] * 3, np.float32)
        (found,) = engine.outputs(x, [dropped, np.ones((3, 16), np.float32)])
        wanted = mlp().eval()(torch.from_numpy(x * dropped)).detach().numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)

    def test_take_several_inputs(self):
        module = Custom(lambda self, x, y: self.rest(x * y), rest=mlp())
        engine = Engine.from_module(module, (random(1, 4), random(1, 4)), runtime="torch")
        plain = Engine.from_module(mlp(), random(1, 4), runtime="torch")
        x, y = random(3, 4), random(3, 4, seed=1)
        assert_same(engine.predict((x, y), 20, 1), plain.predict(x * y, 20, 1))
        with pytest.raises(InvalidInputError, match="1 inputs were given; the network takes 2"):
            engine.predict(x)

    def test_take_words_as_whole_numbers(self):
        module = Custom(lambda self, x: self.rest(self.words(x).mean(1)), words=nn.Embedding(9, 4), rest=mlp())
        engine = Engine.from_module(module, np.array([[1, 2, 3]], np.int32), runtime="torch")
        assert engine.predict([[1, 2, 8]], 10, 1).mean.shape == (1, 3)
        with pytest.raises(InvalidInputError, match="dtype is float64; int32 is accepted"):
            engine.predict([[1.0, 2.0, 3.5]])
        with pytest.raises(InvalidInputError, match=r"4294967297 at \[0, 1\].*int32"):
            engine.predict([[1, 2**32 + 1, 3]])

    def test_return_dense_outputs(self):
        module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout2d(0.5), nn.Conv2d(4, 3, 1))
        engine = Engine.from_module(module, random(1, 1, 5, 6), runtime="torch")
        found = engine.predict(random(2, 1, 5, 6), 20, 1)
        assert found.mean.shape == (2, 3, 5, 6)
        assert found.entropy.shape == found.label.shape == (2, 5, 6)

    def test_count_the_memory_of_rows_that_are_merged_with_another_dimension(self):
        def forward(network, x):
            return network.last(network.drop(network.first(x.flatten(0, 1))).unflatten(0, (-1, 50)).mean(1))

        x = torch.randn(3, 50, 4)
        module = Custom(forward, first=nn.Linear(4, 8), drop=nn.Dropout(0.5), last=nn.Linear(8, 3))
        network = discover(module, (x,)).network
        cut = split(export(network, (x,), MaskSource(network.sites)), 1, whole=True)
        assert cut.outline.suffix_bytes > 4 * 50 * (8 + 8)  # the first layer's output, and it masked

    def test_on_another_device_leave_the_reference_where_it_is(self):
        x = torch.randn(3, 4)
        network = discover(mlp(), (x,)).network
        cut = split(export(network, (x,), MaskSource(network.sites)), 1)
        TorchRuntime(cut, "meta")
        assert {weight.device.type for weight in network.module.parameters()} == {"cpu"}


class TestWhatCannotBeAnswered:
    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (random(2, 7), r"shape \[2, 7\]; \[rows, 6\] is accepted"),
            (random(6), r"shape \[6\]; \[rows, 6\] is accepted"),
            (random(0, 6), r"shape \[0, 6\]; \[rows, 6\] is accepted"),
            (np.float32(1.0), r"shape \[\]; \[rows, 6\] is accepted"),
            ([[1.0, 2.0], [3.0]], "is no array"),
            (random(2, 6).astype(complex), "dtype is complex128; float32 is accepted"),
            ([["a"] * 6], "dtype is <U1; float32 is accepted"),
            ([[None] * 6], "dtype is object; float32 is accepted"),
            (torch.ones(2, 6).to_sparse(), "is no array"),
            ([[1.0, 2.0, np.nan, 4.0, 5.0, 6.0]], r"NaN or infinity at \[0, 2\]; finite numbers are accepted"),
            ([[0.0] * 6, [0.0] * 5 + [-np.inf]], r"NaN or infinity at \[1, 5\]; finite numbers are accepted"),
        ],
    )
    def test_inputs_are_named_with_what_would_be_accepted(self, torch_engine, x, message):
        with pytest.raises(InvalidInputError, match=message):
            torch_engine.predict(x)

    @pytest.mark.filterwarnings("error")
    def test_a_number_too_large_for_float32_is_infinite_to_the_network(self, torch_engine):
        with pytest.raises(InvalidInputError, match=r"NaN or infinity at \[0, 0\]"):
            torch_engine.predict(np.full((1, 6), 1e300))

    @pytest.mark.parametrize("passes", [-1, True, 2.0, "3", None])
    def test_passes_are_named_with_what_would_be_accepted(self, torch_engine, passes):
        with pytest.raises(InvalidInputError, match=f"passes is {passes!r}; an integer of 0 or more"):
            torch_engine.predict(random(1, 6), passes)

    @pytest.mark.parametrize("seed", [-1, 2**64, True, 2.0, "3"])
    def test_seeds_are_named_with_what_would_be_accepted(self, torch_engine, seed):
        with pytest.raises(InvalidInputError, match=f"seed is {seed!r}; an integer from 0 to {MAX_SEED}"):
            torch_engine.predict(random(1, 6), 1, seed=seed)

    def test_the_largest_seed_is_accepted(self, torch_engine):
        assert torch_engine.predict(random(1, 6), 1, seed=MAX_SEED).seed == MAX_SEED
        assert torch_engine.predict(random(1, 6), np.int64(1), seed=np.uint64(7)).seed == 7

    def test_samples_are_of_one_pass_or_more(self, torch_engine):
        with pytest.raises(InvalidInputError, match="passes is 0; samples are of 1 pass or more"):
            torch_engine.samples(random(1, 6), 0)

    def test_masks_of_another_shape_are_named(self, torch_engine):
        masks = torch_engine.masks(1, 0, 0, 1)
        with pytest.raises(InvalidInputError, match=r"mask of 5 has the shape \(1, 9\); \(1, 20\) is accepted"):
            torch_engine.outputs(random(1, 6), [masks[0], masks[1][:, :9], *masks[2:]])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"task": "ranking"}, "task is 'ranking'; .*regression"),
            ({"runtime": "tensorrt"}, "runtime is 'tensorrt'; .*onnx"),
            ({"device": "abacus"}, "device is 'abacus'; .*cuda"),
            ({"temperature": 0.0}, "temperature is 0.0; .*above 0"),
            ({"temperature": float("nan")}, "temperature is nan; .*above 0"),
            ({"task": "regression", "noise_variance": -1.0}, "noise_variance is -1.0; .*above 0"),
            ({"task": "regression", "interval": 1.0}, "interval is 1.0; .*between 0 and 1, or None"),
            ({"task": "regression", "interval": 95}, "interval is 95; .*between 0 and 1"),
        ],
    )
    def test_options_are_named_with_what_would_be_accepted(self, options, message):
        with pytest.raises(InvalidInputError, match=message):
            Engine.from_module(mlp(), random(1, 4), **options)

    @pytest.mark.parametrize("x", [random(0, 4), np.float32(1.0), torch.ones(1, 4).to_sparse()])
    def test_examples_are_named_with_what_would_be_accepted(self, x):
        with pytest.raises(InvalidInputError, match="the example input"):
            Engine.from_module(mlp(), x)


class TestOutputsThatAreNotNumbers:
    """The network takes a square root, so that a row with a negative sum has no answer."""

    x = np.abs(random(5, 4)) * np.array([[1], [1], [1], [-1], [1]], np.float32)

    @pytest.mark.parametrize("passes", [0, 30])
    @pytest.mark.filterwarnings("error")
    def test_are_an_error_that_names_the_row(self, rooted, passes):
        with pytest.raises(UnusableOutputError, match="NaN or infinity for row 3") as caught:
            rooted.predict(self.x, passes, 1)
        assert caught.value.rows == [3]

    @pytest.mark.parametrize("passes", [0, 30])
    def test_fail_their_row_alone(self, rooted, passes):
        outcome = rooted.run(rooted.as_inputs(self.x), range(5), [0] * 5, passes)
        assert outcome.failed.tolist() == [False, False, False, True, False]
        others = [0, 1, 2, 4]
        without = rooted.run(rooted.as_inputs(self.x[others]), others, [0] * 4, passes)
        assert not without.failed.any()
        assert_same(take(outcome.prediction, others), without.prediction)

    @pytest.mark.filterwarnings("error")
    def test_are_no_outputs_to_sum_up(self, rooted):
        outputs = np.zeros((3, 2, *rooted.outputs(self.x[:1], rooted.masks(1, 0, 0, 1))[0].shape[1:]), np.float32)
        outputs[1, 0] = np.nan
        with pytest.raises(UnusableOutputError, match="NaN or infinity for row 1") as caught:
            rooted.summarize([outputs])
        assert caught.value.rows == [1]

    @pytest.mark.parametrize("passes", [0, 5])
    @pytest.mark.filterwarnings("error")
    def test_include_a_variance_too_large_to_be_one(self, passes):
        module = Custom(lambda self, x: (self.rest(x)[:, 0], x[:, 0]), rest=mlp())
        named = {"mean": 0, "log_variance": 1}
        engine = Engine.from_module(module, np.ones((3, 4), np.float32), "regression", output=named, runtime="torch")
        x = np.ones((2, 4), np.float32)
        x[1, 0] = 800.0
        with pytest.raises(UnusableOutputError, match="row 1"):
            engine.predict(x, passes, 1)


class TestANetworkOfAnotherTaskIsRefused:
    def refused(self, module, task, message):
        with pytest.raises(UnsupportedModelError, match=message):
            Engine.from_module(module, random(1, 4), task, runtime="torch")

    def test_classification_of_one_class(self):
        self.refused(mlp(outputs=1), "classification", r"shape \[\[3, 1\]\].*2 classes or more")

    def test_classification_with_two_outputs(self):
        module = Custom(lambda self, x: (self.rest(x), self.rest(x)), rest=mlp())
        self.refused(module, "classification", r"positions 0 \(\[3, 3\]\) and 1 .*takes one output: output that")

    def test_regression_with_three_outputs(self):
        module = Custom(lambda self, x: (self.rest(x),) * 3, rest=mlp())
        self.refused(module, "regression", "regression takes the mean, or the mean and its noise")

    def test_regression_with_two_outputs_of_different_shapes(self):
        module = Custom(lambda self, x: (self.rest(x), self.rest(x)[:, :1]), rest=mlp())
        self.refused(module, "regression", "in the same shape")

    @pytest.mark.parametrize("task", ["classification", "regression"])
    def test_an_output_without_rows(self, task):
        self.refused(Custom(lambda self, x: self.rest(x).sum(), rest=mlp()), task, r"returns outputs of shape \[\[\]\]")

    def test_an_output_whose_rows_are_not_first(self):
        module = Custom(lambda self, x: self.rest(x).t(), rest=mlp(outputs=5))
        self.refused(module, "regression", "first dimension must be the rows")
