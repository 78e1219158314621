"""What tests of the Open Inference Protocol share: a zoo model's example as a tensor, and what /predict says of it."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.conftest import MODELS
from tests.servers import Server

ZOO = sorted(path.parent.name for path in MODELS.glob("*/model.yaml"))
_DTYPES = {"FP32": np.float32, "INT64": np.int64}


def example_of(server: Server, model: str) -> tuple[str, str, npt.NDArray[Any]]:
    """The name and the datatype of a model's one input, and its example's rows; of rows of several sizes the first."""
    (tensor,) = server.client.get(f"/v2/models/{model}").json()["inputs"]
    rows = json.loads((MODELS / model / "example.json").read_text())["inputs"]
    try:
        values = np.asarray(rows)
    except ValueError:
        values = np.asarray(rows[:1])
    if values.ndim < len(tensor["shape"]):
        values = values[None]
    datatype = tensor["datatype"]
    if datatype == "BYTES":  # the numbers that are made of texts are taken as well
        datatype = "INT64"
    return tensor["name"], datatype, values.astype(_DTYPES[datatype])


def by_predict(server: Server, model: str, values: Any, query: str = "mc=7&seed=3") -> list[dict[str, Any]]:
    """The rows that /predict answers with."""
    answer = server.client.post(f"/models/{model}/predict?{query}", json={"inputs": np.asarray(values).tolist()})
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["predictions"]
    return rows


def _is_null(value: Any) -> bool:
    return all(map(_is_null, value)) if isinstance(value, list) else value is None


def assert_same(tensors: dict[str, npt.NDArray[Any]], rows: list[dict[str, Any]]) -> None:
    """Tensors hold what rows of JSON hold that is not null, to the last bit, and nothing else."""
    known = {name for name, value in rows[0].items() if not _is_null(value)}
    assert set(tensors) == known
    for name, values in tensors.items():
        expected = np.asarray([row[name] for row in rows])
        if values.dtype == object:
            values = np.vectorize(lambda text: text.decode() if isinstance(text, bytes) else text)(values)
        assert values.shape == expected.shape, name
        np.testing.assert_array_equal(values, expected, err_msg=name)
