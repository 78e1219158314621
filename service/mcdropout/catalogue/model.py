"""Models: bundles that may serve."""

import time
from dataclasses import dataclass, replace
from typing import Any

from mcdropout.catalogue.bundle import Bundle
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.manifest import MANIFEST, BundleError
from mcdropout.engine import Engine
from mcdropout.engine.arrays import with_rows

_WARM_ROWS = (1, 8)


@dataclass(frozen=True)
class Model:
    """A model that may serve.

    Attributes:
        bundle: what it is made of.
        engine: made of that, and verified.
        takes: what a client sends: what the manifest says, and of whole numbers at most those that the network takes;
            what is made of it has the network's own dtypes.
        seconds_a_pair: how long a pass of a row took among some when it was loaded.
        example: a body as a client sends it; None where the bundle holds no small one.
    """

    bundle: Bundle
    engine: Engine
    takes: tuple[Input, ...]
    seconds_a_pair: float = 0.0
    example: Any | None = None

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.bundle.manifest.name

    @property
    def version(self) -> str:
        """The bundle's version, which every answer carries."""
        return self.bundle.manifest.version


@dataclass(frozen=True)
class Member:
    """A model for rows of one size: it has the model's name, and an engine of its own."""

    name: str
    engine: Engine


def _check_inputs(bundle: Bundle, engine: Engine) -> None:
    """Raise BundleError where a bundle that is compiled alone declares other inputs than were compiled."""
    if not bundle.manifest.is_compiled_alone:
        return
    wanted = [(spec.name, spec.shape, spec.dtype.name, spec.row_axis) for spec in engine.inputs]
    by_name = bundle.manifest.inputs_by == "keyword"
    found = [
        (spec.name if by_name else None, spec.dimensions, spec.array_dtype.name, spec.row_axis)
        for spec in bundle.manifest.takes
    ]
    if found != wanted:
        raise BundleError(
            f"{bundle.folder / MANIFEST}: it declares inputs of the shapes {[list(map(str, x[1])) for x in found]} and "
            f"dtypes {[x[2] for x in found]}; those that were compiled, {[list(map(str, x[1])) for x in wanted]} and "
            f"{[x[2] for x in wanted]}, are accepted"
        )


def model_of(bundle: Bundle, engine: Engine) -> Model:
    """A bundle with its engine, which is run once, so that the first request finds it warm.

    Whoever compiles a bundle and whoever serves it come here, so that both refuse the same.

    Raises:
        BundleError: what the bundle says does not fit what its network answers.
        EngineError: the network cannot be run.
    """
    manifest = bundle.manifest
    _check_inputs(bundle, engine)
    # Of the manifest, as it is now: nothing has to be compiled anew for it.
    pairs = list(zip(engine.inputs, manifest.takes, strict=True))
    engine.inputs = tuple(replace(spec, missing=given.takes_missing) for spec, given in pairs)
    try:
        takes = tuple(given.within(spec.lowest, spec.highest, spec.dtype) for spec, given in pairs)
    except ValueError as error:
        raise BundleError(f"{bundle.folder / MANIFEST}: {error}") from error
    _ = bundle.hook  # which is refused now, and not with the first request
    examples = bundle.examples(max(_WARM_ROWS))
    passes = max(1, manifest.passes.default)
    for count in (*_WARM_ROWS, _WARM_ROWS[-1]):  # the last time it is warm
        rows = [with_rows(x, count) for x in examples]
        started = time.perf_counter()
        prediction = engine.predict(manifest.for_network(rows), passes, seed=0)
    seconds_a_pair = (time.perf_counter() - started) / (count * passes)
    reading = engine.reading
    if reading.classes is not None and reading.class_axis is not None:
        found = prediction.mean.shape[reading.class_axis]
        if found != reading.classes:
            raise BundleError(
                f"{bundle.folder / MANIFEST}: labels has {reading.classes} entries; the network's {found} classes are "
                "accepted"
            )
    return Model(bundle, engine, takes, seconds_a_pair, bundle.example())
