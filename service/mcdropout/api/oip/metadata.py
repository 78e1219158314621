"""Metadata: the server and its models, as the protocol describes them."""

from dataclasses import dataclass
from importlib.metadata import version

from mcdropout.api.formats.answers import labels_of
from mcdropout.api.oip.asking import PASSES
from mcdropout.api.oip.datatypes import BYTES, name_of
from mcdropout.api.oip.texts import name_of_texts
from mcdropout.catalogue.model import Model

SERVER, EXTENSIONS = "mcdropout", ["binary_tensor_data"]
PLATFORM = "mcdropout"


@dataclass(frozen=True)
class TensorMetadata:
    """A tensor.

    Attributes:
        name, datatype: in the protocol.
        shape: -1 for the rows, and for sizes that differ from row to row.
    """

    name: str
    datatype: str
    shape: list[int]


def server_version() -> str:
    """This package's."""
    return version("mcdropout")


def inputs_of(model: Model) -> list[TensorMetadata]:
    """What a model takes: texts, where its own hook makes rows of these; the numbers are accepted as well."""
    if model.bundle.hook is not None:
        return [TensorMetadata(name_of_texts(model.takes), BYTES, [-1])]
    return [
        TensorMetadata(
            spec.name, name_of(spec.array_dtype), [-1, *(size if isinstance(size, int) else -1 for size in spec.shape)]
        )
        for spec in model.takes
    ]


def outputs_of(model: Model) -> list[TensorMetadata]:
    """What a model answers: its statistics, and the passes of each row."""
    return [
        *(
            TensorMetadata(name, name_of(dtype) if labels_of(model, name) is None else BYTES, [-1, *shape])
            for name, (dtype, shape) in model.engine.answers.items()
        ),
        TensorMetadata(PASSES, "INT64", [-1]),
    ]
