"""Engine: a network, made ready to answer with its uncertainty. What a Python user imports."""

# What help and notebooks show is then what stands here, and not what its aliases stand for.
from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from mcdropout.engine.arguments import (
    as_count,
    as_folder,
    as_levels,
    as_path,
    as_tolerance,
    check_as_many,
    check_kinds,
    check_reading,
    check_step_bytes,
)
from mcdropout.engine.arrays import Array
from mcdropout.engine.bundled import label_of, write_bundle
from mcdropout.engine.compiled import read_compiled, write_compiled
from mcdropout.engine.display import engine as display
from mcdropout.engine.display.progress import PassesShown
from mcdropout.engine.errors import InvalidInputError
from mcdropout.engine.inputs import Bounds, Inputs, Shapes, as_array, in_order
from mcdropout.engine.masks import MAX_SEED, Masks, drawn_seed
from mcdropout.engine.members import Members
from mcdropout.engine.preparation import Prepared, prepare
from mcdropout.engine.ragged import Batch, as_rows, batches_of, in_order_of_rows
from mcdropout.engine.reading import Entries, Form, LikelihoodName, Reading, Task, in_entries
from mcdropout.engine.runtimes import Target
from mcdropout.engine.runtimes.sessions import SessionOptions
from mcdropout.engine.selection import Selection
from mcdropout.engine.sizes import Sizes, resized
from mcdropout.engine.statistics import TASKS, Prediction, Statistics, check_usable, concatenate, places_of
from mcdropout.engine.steps import STEP_BYTES, Outcome, Steps
from mcdropout.engine.stopping import until
from mcdropout.engine.subject import Subject
from mcdropout.engine.verify import run_pairs

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

_MOST_DROPPING = 16  # engines with another p that are kept


class Engine:
    """Predicts with Monte Carlo dropout. Thread-safe.

    Attributes:
        task: "classification", "binary", "multilabel" or "regression".
        reading: what the network's outputs mean.
        sites: what is random, in the order in which a pass meets it.
        sites_off: what could be random and is not, with the reasons.
        program: how it runs, and which checks it passed.
        inputs: what the network takes.
        sizing: which sizes of the inputs may differ from row to row; None where none may.
        steps: runs it a step at a time.
    """

    def __init__(self, prepared: Prepared, step_bytes: int = STEP_BYTES) -> None:
        """`Engine.from_module`, `Engine.from_onnx` and `Engine.load` make one."""
        self.reading = prepared.reading
        self.task = prepared.reading.task
        self.sites = prepared.source.sites
        self.sites_off = prepared.off
        self.program = prepared.program
        self.inputs = prepared.inputs
        self._prepared = prepared
        self._source = prepared.source
        self._runtime = prepared.runtime
        self.sizing = prepared.sizing
        self._places: tuple[int, ...] | None = places_of(prepared.reference.deterministic[0].shape, prepared.reading)
        self.steps = Steps(prepared, step_bytes)
        self._step_bytes = step_bytes
        self._dropping: OrderedDict[float, Engine] = OrderedDict()
        self._lock = Lock()
        self._members = None if self.sizing is None else Members(self.sizing, partial(_member, prepared, step_bytes))

    @classmethod
    def from_module(
        cls,
        module: nn.Module | ExportedProgram,
        example_inputs: Inputs,
        task: Task = "classification",
        *,
        device: str = "cpu",
        runtime: str = "auto",
        form: Form | None = None,
        class_axis: int | None = None,
        temperature: float = 1.0,
        threshold: float = 0.5,
        likelihood: LikelihoodName = "gaussian",
        df: float | None = None,
        noise_variance: float | None = None,
        interval: float | None = 0.95,
        quantiles: Sequence[float] | None = None,
        quantile_axis: int | None = None,
        step_bytes: int = STEP_BYTES,
        row_axis: int | Sequence[int] | Mapping[str, int] = 0,
        output: Entries = None,
        output_row_axis: int = 0,
        missing: bool = False,
        shapes: Shapes | None = None,
        sizes: Bounds | None = None,
        selection: Selection | None = None,
        sessions: SessionOptions | None = None,
    ) -> Engine:
        """Find what is random in a network, make it an input, split it, and check it.

        Args:
            module: the trained network, TorchScript and exported programs included. It is copied, with the functions
                that it holds, and left as it is; later changes to it change no answer. Whatever its own `eval()` and
                `train()` do, its baseline is the network with its dropout off. For classification it returns logits or
                probabilities, `[rows, classes, ...]`; for binary one a row, `[rows]` or `[rows, 1]`; for multilabel one
                for each label, `[rows, labels, ...]`; for regression the mean `[rows, ...]`, or the mean and its noise,
                which has the mean's shape, or 1 in its last dimension, or lacks that.
            example_inputs: an input, a tuple of them, or, for a network that takes keywords, a dict of them:
                `[rows, ...]` each, of whatever dtype the network takes; in lists, tuples and dicts, where it takes them
                so. One row is enough, and is varied where the checks need more. A network that takes only some numbers
                needs as many rows: three.
            task: "classification", "binary", "multilabel" or "regression".
            device: "cpu", "cuda" or "cuda:1".
            runtime: "sparse" (CPU, chains of linear layers with ReLU and dropout), "onnx" (CPU), "torch", "eager"
                (the module itself), another that was registered, or "auto": the fastest that passes its checks.
            form: whether the outputs are "logits", "probabilities" or "log_probabilities"; found out where not given.
            class_axis: the dimension of the outputs that holds the classes or labels, the rows being 0, -1 the last;
                found out where not given.
            temperature: what logits are divided by.
            threshold: for binary and multilabel, the mean probability from which on the answer is yes.
            likelihood: for regression, how the noise is distributed: "gaussian", "laplace" or "student_t".
            df: for "student_t", its degrees of freedom, more than 2.
            noise_variance: for regression, the variance of the noise (`1 / tau`) where the network predicts none.
            interval: for regression, the share of the predictive distribution that `interval` holds; None for none,
                which saves its time and memory.
            quantiles: for regression, the levels, ascending, of the quantiles that the network predicts in place of
                a mean: `(0.05, 0.5, 0.95)`. It gives them in one output, or one for each.
            quantile_axis: the dimension of that one output that holds them, the rows being 0; found out where not
                given.
            step_bytes: the memory that one step may take, in bytes; passes are cut into steps that fit.
            row_axis: the dimension of the inputs that holds the rows; for all, or for each.
            output: which of what the network returns counts: a key, an attribute or a position ("logits"), a path
                further down ("boxes.scores"), or, for a regression, two: `{"mean": 0, "log_variance": 1}`, or
                "variance", "std", "scale" or "log_scale" in its place. All its tensors where not given.
            output_row_axis: the dimension of the outputs that holds the rows.
            missing: whether inputs may hold NaN, for what is missing.
            shapes: of one row of the input, or of each, where sizes differ from row to row: a size, or a name where it
                does: `("tokens",)`, `(3, "height", "width")`. Sizes of one name are equal in a row.
            sizes: for each of these names the least and the most, and of what they are multiples, if of any:
                `{"tokens": (1, 128), "height": (64, 512, 32)}`.
            selection: which sites to switch on, and with which p, and dropout to add; all, with their own, and none,
                where not given.
            sessions: how ONNX Runtime runs it.

        Raises:
            UnsupportedModelError: the network has no dropout, or cannot be served; the message says why.
            InvalidInputError: an argument cannot be used.
            VerificationError: it failed a check.
        """
        from mcdropout.engine.pytorch.module import understand
        from mcdropout.engine.pytorch.private.untouched import untouched

        reading = Reading(
            task,
            form,
            class_axis,
            temperature=temperature,
            threshold=threshold,
            noise=in_entries(output)[1],
            likelihood=likelihood,
            df=df,
            noise_variance=noise_variance,
            interval=interval,
            quantiles=as_levels(quantiles),
            quantile_axis=quantile_axis,
        )
        reading.check()
        check_kinds(missing, selection)
        target = Target(device, runtime, sessions or SessionOptions())
        target.check()
        with untouched(module):
            subject = understand(
                module,
                example_inputs,
                row_axis=row_axis,
                output=output,
                output_row_axis=output_row_axis,
                missing=missing,
                selection=selection,
                reading=reading,
                shapes=shapes,
                sizes=sizes,
            )
            return cls.prepare(subject, reading, target, step_bytes)

    @classmethod
    def from_onnx(
        cls,
        path: str | Path,
        example_inputs: Inputs,
        task: Task = "classification",
        *,
        runtime: str = "auto",
        form: Form | None = None,
        class_axis: int | None = None,
        temperature: float = 1.0,
        threshold: float = 0.5,
        likelihood: LikelihoodName = "gaussian",
        df: float | None = None,
        noise_variance: float | None = None,
        interval: float | None = 0.95,
        quantiles: Sequence[float] | None = None,
        quantile_axis: int | None = None,
        step_bytes: int = STEP_BYTES,
        row_axis: int | Sequence[int] | Mapping[str, int] = 0,
        output: Entries = None,
        output_row_axis: int = 0,
        missing: bool = False,
        shapes: Shapes | None = None,
        sizes: Bounds | None = None,
        selection: Selection | None = None,
        sessions: SessionOptions | None = None,
    ) -> Engine:
        """The same for a network in an ONNX file; PyTorch is not needed.

        Takes and raises what `from_module` does, but that `example_inputs` by name have the names of the graph's
        inputs, that `output` is names or positions of its outputs, and that `selection` is by names of nodes.

        Args:
            path: the file. External data may lie in its folder, and nowhere else.
        """
        from mcdropout.engine.onnx.model import understand

        reading = Reading(
            task,
            form,
            class_axis,
            temperature=temperature,
            threshold=threshold,
            noise=in_entries(output)[1],
            likelihood=likelihood,
            df=df,
            noise_variance=noise_variance,
            interval=interval,
            quantiles=as_levels(quantiles),
            quantile_axis=quantile_axis,
        )
        reading.check()
        check_kinds(missing, selection)
        target = Target("cpu", runtime, sessions or SessionOptions())
        target.check()
        subject = understand(
            as_path(path, "path"),
            example_inputs,
            row_axis=row_axis,
            output=output,
            output_row_axis=output_row_axis,
            missing=missing,
            selection=selection,
            reading=reading,
            shapes=shapes,
            sizes=sizes,
        )
        return cls.prepare(subject, reading, target, step_bytes)

    @classmethod
    def prepare(
        cls, subject: Subject, reading: Reading, target: Target | None = None, step_bytes: int = STEP_BYTES
    ) -> Engine:
        """An engine of a network whose randomness is known.

        Args:
            subject: the network.
            reading: what its outputs mean.
            target: where to run it; on the CPU, by what is fastest there, where not given.
            step_bytes: as for `from_module`.

        Raises:
            UnsupportedModelError: it cannot be run there.
            InvalidInputError: an attribute of `reading` or `target` cannot be used.
            VerificationError: it failed a check.
        """
        target = target or Target()
        check_step_bytes(step_bytes)
        reading.check()
        target.check()
        return cls(prepare(reading, subject, target), step_bytes)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        reading: Reading | None = None,
        *,
        step_bytes: int = STEP_BYTES,
        sessions: SessionOptions | None = None,
    ) -> Engine:
        """An engine that `save` wrote, checked again as it now runs; PyTorch is not needed.

        Args:
            folder: what `save` was given.
            reading: what the outputs mean, where that is to be another than was saved; what it leaves open is as saved.
            step_bytes, sessions: as for `from_module`.

        Raises:
            CompiledError: the folder holds no engine, or a damaged one, or one that another version wrote.
            InvalidInputError: an argument cannot be used.
            VerificationError: it failed a check.
        """
        target = Target(options=sessions or SessionOptions())
        check_step_bytes(step_bytes)
        target.check()
        prepared = read_compiled(as_path(folder, "folder"), target)
        if reading is not None:
            check_reading(reading)
            dimensions = prepared.reference.deterministic[0].ndim
            prepared = dataclasses.replace(prepared, reading=reading.filled_from(prepared.reading, dimensions))
        return cls(prepared, step_bytes)

    def save(self, folder: str | Path) -> None:
        """Write the engine to a folder, so that `load` can make it again without the network.

        Args:
            folder: made where there is none; files of the same names in it are replaced.

        Raises:
            UnsupportedModelError: it runs on PyTorch, because the network cannot be written as ONNX.
            InvalidInputError: the folder is none.
        """
        write_compiled(self._prepared, as_folder(folder))

    def save_bundle(self, folder: str | Path, name: str | None = None, **said: Any) -> Path:
        """Write the engine as a bundle, which `mcdropout serve` serves without the network's code, and without PyTorch.

        Args:
            folder: of the bundle; or, with a name, of bundles, in which it is a folder of that name.
            name: of the bundle; the folder's if not given.
            said: what the engine does not know: `labels`, `version`, `description`, `passes` (default and most),
                `inputs`, for each by name further fields of it as `model.yaml` has them, `preprocess`
                ("path/to/file.py:function"), and `overwrite`.

        Returns:
            The bundle's folder.

        Raises:
            UnsupportedModelError: it runs on PyTorch, because the network cannot be written as ONNX.
            InvalidInputError: a bundle is there already, or something does not fit.
        """
        place = as_folder(folder) if name is None else as_folder(folder) / name
        write_bundle(self._prepared, place, label_of(said))
        return place

    @property
    def places(self) -> tuple[int, ...]:
        """The sizes of the dimensions of its outputs beside rows and classes; empty where there are none."""
        if self._places is None:  # of an engine for rows of one size of many: what a row gives shows it
            reference = self._prepared.reference
            row = tuple(resized(x[:1], spec.shape) for x, spec in zip(reference.inputs, self.inputs, strict=True))
            kept = self._source.baseline(1)
            self._places = places_of(run_pairs(self._prepared.baseline, row, kept)[0].shape, self.reading)
        return self._places

    @cached_property
    def answers(self) -> dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        """The statistics that its predictions of several passes have: the dtype, and the shape for one row, of each.

        A size that follows the sizes of the inputs is -1.
        """
        outputs = [np.repeat(output[:1, None], 2, axis=1) for output in self._prepared.reference.deterministic]
        fields = TASKS[self.reading.task].by_name
        found: dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]] = {}
        for name, value in self.summarize(outputs).values.items():
            if value is not None:
                kept = range(value.ndim - 1 - fields[name].trailing, value.ndim - 1)
                found[name] = (
                    value.dtype,
                    tuple(
                        size if self.sizing is None or axis in kept or self._is_of_classes(name, axis) else -1
                        for axis, size in enumerate(value.shape[1:])
                    ),
                )
        return found

    def _is_of_classes(self, name: str, axis: int) -> bool:
        """Whether a dimension of a statistic of one row holds classes or labels."""
        per_class = TASKS[self.reading.task].by_name[name].per_class
        return per_class and self.reading.class_axis is not None and axis == self.reading.class_axis - 1

    @property
    def site_shapes(self) -> list[list[int | str]]:
        """The shape of each site's mask for people: where it follows a size of the inputs, its name or f(name)."""
        return [list(site.shape) for site in self.sites] if self.sizing is None else self.sizing.told_shapes()

    @property
    def shares_rows(self) -> bool:
        """Whether rows of requests with different seeds may be run together."""
        return self.steps.shares_rows

    def at(self, sizes: Sizes) -> Engine:
        """The engine for rows of some sizes, where these may differ: one of fixed sizes, with the same weights.

        Raises:
            InvalidInputError: a size is not accepted.
        """
        return self if self._members is None else self._members.at(sizes)

    def dropping(self, p: float) -> Engine:
        """The engine of the same network whose sites all drop with the probability `p`, in place of their own.

        The network was not trained so: it is for looking at what p does.

        Args:
            p: above 0 and below 1.

        Raises:
            InvalidInputError: p is no such probability, or the network draws numbers of its own.
        """
        p = float(p)
        with self._lock:
            found = self._dropping.pop(p) if p in self._dropping else None
            if found is None:
                found = Engine(self._prepared.dropping(p), self._step_bytes)
                found.inputs = self.inputs
            self._dropping[p] = found  # the last is the one used last
            while len(self._dropping) > _MOST_DROPPING:
                self._dropping.popitem(last=False)
        return found

    def __repr__(self) -> str:
        return display.as_text(self)

    def _repr_html_(self) -> str:
        return display.as_html(self)

    def predict(
        self,
        x: Inputs,
        passes: int | Literal["auto"] = 50,
        seed: int | None = None,
        *,
        tolerance: float | None = None,
        most: int = 1000,
        progress: bool | None = None,
    ) -> Prediction:
        """The prediction for each row, and how far to trust it.

        Args:
            x: `[rows, ...]`, or several as the examples were given. Where sizes may differ from row to row, rows of
                different sizes come as a list of them. They are run as batches of one size each, and answered in their
                order.
            passes: how many stochastic passes; 0 for the deterministic baseline, in which nothing is dropped; "auto"
                for as many as each row needs, of which the prediction says how many these were.
            seed: 0 to 2**64 - 1; drawn where none is given. The prediction says which.
            tolerance: with "auto", a row stops when no standard error of its mean is above this; 0.01 if not given.
            most: with "auto", how many passes a row gets at most.
            progress: whether a bar is shown, once two seconds have passed; if not given, where there is a terminal or
                a notebook.

        Raises:
            InvalidInputError: naming what was given and what would be accepted.
            UnusableOutputError: the network answered NaN, infinity, or what is no probability or no variance.
            FailedRowsError: it raised an error for some of the rows.
        """
        stops_at = None
        if passes == "auto":
            stops_at, passes = as_tolerance(tolerance), as_count("most", most, 1)
        elif tolerance is not None:
            raise InvalidInputError(f'tolerance is {tolerance!r} and passes is {passes!r}; passes="auto" takes one')
        outcome, seed = self._run_checked(x, passes, seed, samples=False, tolerance=stops_at, progress=progress)
        found = outcome.prediction
        return Prediction(found.task, found.passes, found.values, None if passes == 0 else seed)

    def samples(self, x: Inputs, passes: int = 50, seed: int | None = None) -> npt.NDArray[np.float64]:
        """What `predict` sums up, `[passes, rows, ...]`: class probabilities, or the predicted means of a regression.

        Takes and raises what `predict` does, but that `passes` is at least 1.
        """
        if passes == 0:
            raise InvalidInputError("passes is 0; samples are of 1 pass or more")
        outcome, _ = self._run_checked(x, passes, seed, samples=True)
        assert outcome.samples is not None
        return outcome.samples.swapaxes(0, 1)

    def outputs(self, x: Inputs, masks: Masks) -> tuple[Array, ...]:
        """`f(x, masks)`: the network's own outputs under masks of your choice, `[rows, ...]` each.

        Args:
            x: `[rows, ...]`, or a tuple of such.
            masks: for each of `sites`, in order, `[rows, *mask_shape]` float32, or `[*mask_shape]` where its scope is
                "pass": what a site multiplies its input by.
        """
        inputs = self.as_inputs(x)
        rows = np.arange(len(inputs[0]), dtype=np.int64)
        for site, mask in zip(self.sites, masks, strict=True):
            wanted = (len(rows), *site.mask_shape) if site.scope == "row" else site.mask_shape
            if mask.shape != wanted:
                raise InvalidInputError(f"the mask of {site.name} has the shape {mask.shape}; {wanted} is accepted")
        return self._runtime.suffix(self._runtime.prefix(inputs), rows, list(masks))

    def masks(self, seed: int, row: int, first: int, passes: int) -> Masks:
        """The masks that passes `first` to `first + passes` of row `row` of a request with this seed use.

        Returns:
            `[passes, *mask_shape]` for each site; `[*mask_shape]` of one whose scope is "pass".

        Raises:
            InvalidInputError: there are several passes, and such a site, which has a mask for one at a time.
        """
        shared = [site.name for site in self.sites if site.scope == "pass"]
        if shared and passes != 1:
            raise InvalidInputError(
                f"passes is {passes!r}, and {shared[0]} draws one mask for all rows of a pass; 1, one pass at a time, "
                "is accepted"
            )
        return self._source.draw([seed], [row], first, passes)

    def summarize(self, outputs: Sequence[Array]) -> Prediction:
        """The prediction of given network outputs, `[rows, passes, ...]` each, as passes of equal weight.

        Raises:
            UnusableOutputError: they hold NaN, infinity, or what is no probability or no variance.
        """
        statistics = Statistics(self.reading)
        block = statistics.update(outputs)
        check_usable(statistics.faults(outputs, block))
        return statistics.prediction()

    def batches(self, x: Inputs) -> list[Batch]:
        """Check `x`, bring it into the network's dtypes, and sort its rows into batches of one size.

        Raises:
            InvalidInputError: naming what was given and what would be accepted.
        """
        if self.sizing is None:
            inputs = self.as_inputs(x)
            return [Batch({}, np.arange(len(inputs[0]), dtype=np.int64), inputs)]
        given = in_order(x, self.inputs)
        rows = [as_rows(value, spec) for value, spec in zip(given, self.inputs, strict=True)]
        check_as_many(rows)
        return batches_of(rows, self.sizing)

    def as_inputs(self, x: Inputs) -> tuple[Array, ...]:
        """Check `x`, and bring it into the network's dtypes.

        Raises:
            InvalidInputError: naming what was given and what would be accepted.
        """
        given = in_order(x, self.inputs)
        arrays = tuple(as_array(value, spec) for value, spec in zip(given, self.inputs, strict=True))
        check_as_many(arrays)
        return arrays

    def run(
        self,
        inputs: tuple[Array, ...],
        seeds: npt.ArrayLike,
        rows: npt.ArrayLike,
        passes: int,
        *,
        samples: bool = False,
        tolerance: float | None = None,
        ran: Callable[[int], object] = lambda _pairs: None,
    ) -> Outcome:
        """Run rows that may belong to different requests.

        Args:
            inputs: `[rows, ...]` each, as `as_inputs` returns them.
            seeds: `[rows]`, the seed of each row's request. They must be equal unless `shares_rows`.
            rows: `[rows]`, each row's index in its request.
            passes: how many passes; 0 for the deterministic baseline.
            samples: whether to keep the samples, which takes memory for every pass.
            tolerance: a row stops, at `passes` at the latest, when no standard error of its mean is above this; None
                for all passes.
            ran: called after each step with the passes that were run in it, of all rows.
        """
        seed_of, row_of = np.asarray(seeds, np.uint64), np.asarray(rows, np.uint64)
        count = len(inputs[0])
        blocks = [slice(start, start + self.steps.most_pairs) for start in range(0, count, self.steps.most_pairs)]
        outcomes = [
            self._run_block(
                tuple(x[block] for x in inputs), seed_of[block], row_of[block], passes, samples, tolerance, ran
            )
            for block in blocks
        ]
        if len(outcomes) == 1:
            return outcomes[0]
        kept = [outcome.samples for outcome in outcomes if outcome.samples is not None]
        return Outcome(
            prediction=concatenate([outcome.prediction for outcome in outcomes]),
            samples=np.concatenate(kept) if kept else None,
            faults=np.concatenate([outcome.faults for outcome in outcomes]),
        )

    def _run_checked(
        self,
        x: Inputs,
        passes: int,
        seed: int | None,
        *,
        samples: bool,
        tolerance: float | None = None,
        progress: bool | None = None,
    ) -> tuple[Outcome, int]:
        passes = as_count("passes", passes, 0)
        if seed is None:
            seed = drawn_seed()
        if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
            raise InvalidInputError(f"seed is {seed!r}; an integer from 0 to {MAX_SEED} is accepted")
        batches = self.batches(x)
        total = passes * sum(len(batch.rows) for batch in batches)
        with PassesShown(total, wanted=progress) as shown:
            outcomes = [
                self.at(batch.sizes).run(
                    batch.inputs,
                    np.array([seed], np.uint64).repeat(len(batch.rows)),
                    batch.rows,
                    passes,
                    samples=samples,
                    tolerance=tolerance,
                    ran=shown.ran,
                )
                for batch in batches
            ]
        outcome = (
            outcomes[0] if len(outcomes) == 1 else in_order_of_rows(outcomes, np.concatenate([x.rows for x in batches]))
        )
        check_usable(outcome.faults)
        return outcome, int(seed)

    def _run_block(
        self,
        inputs: tuple[Array, ...],
        seeds: npt.NDArray[np.uint64],
        rows: npt.NDArray[np.uint64],
        passes: int,
        samples: bool,
        tolerance: float | None,
        ran: Callable[[int], object],
    ) -> Outcome:
        if passes == 0:
            return self.steps.deterministic(inputs)
        if tolerance is not None:
            found = list(until(self.steps, inputs, seeds, rows, passes, tolerance, ran))
            return in_order_of_rows([one for _, one in found], np.concatenate([places for places, _ in found]))
        places = np.arange(len(rows), dtype=np.int64)
        cohort = self.steps.cohort(self.steps.admit(inputs), places, seeds, rows, samples=samples)
        while cohort.passes < passes:
            count = min(passes - cohort.passes, self.steps.most_passes(len(cohort)))
            self.steps.run([(cohort, count)])
            ran(count * len(cohort))
        return Outcome(cohort.prediction(), cohort.all_samples(), cohort.faults)


def _member(prepared: Prepared, step_bytes: int, sizes: Sizes) -> Engine:
    """The engine for rows of some sizes, of one for many."""
    member = Engine(prepared.at(sizes), step_bytes)
    if member._places:  # those of the examples, and it has others
        member._places = None
    return member
