"""The extension for binary tensor data: the same numbers as in JSON, both ways; no memory for what is only claimed."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from tests.api.inference import ZOO, assert_same, by_predict, example_of
from tests.api.test_oip import assert_error
from tests.bundles import CLASSIFIER, TOKEN_FIELDS, TOKENS, write_bundle
from tests.compilations import compiled
from tests.servers import Server, serving

HEADER = "inference-header-content-length"
GAPS = CLASSIFIER.replace("self.layers(x)", "self.layers(x.nan_to_num(0.5))")
IDS, MASKS = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 19]], [[True, True, True, False, False], [True] * 5]
Numbers = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of models that take several inputs, and missing values."""
    folder = tmp_path_factory.mktemp("models")
    compiled(write_bundle(folder, "tokens", TOKENS, **TOKEN_FIELDS))
    compiled(write_bundle(folder, "gaps", GAPS, input={"shape": [4], "missing": "allowed"}))
    with serving(folder, tmp_path_factory.mktemp("log"), "--default", "tokens", "--no-compile") as running:
        running.wait_until_ready()
        yield running


def tensor_of(name: str, datatype: str, shape: Any, size: int | None) -> dict[str, Any]:
    parameters = {} if size is None else {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": parameters}


def post(
    server: Server, model: str, tensors: list[dict[str, Any]], behind: bytes, length: str | None = None, **more: Any
) -> httpx.Response:
    text = json.dumps({"parameters": {"mc": 7, "seed": 3}, "inputs": tensors} | more).encode()
    headers = {HEADER: str(len(text)) if length is None else length, "content-type": "application/octet-stream"}
    return server.client.post(f"/v2/models/{model}/infer", content=text + behind, headers=headers)


def tensors_of(answer: httpx.Response) -> dict[str, npt.NDArray[Any]]:
    """The tensors of an answer, wherever in it they are."""
    assert answer.status_code == 200, answer.text
    length = answer.headers.get(HEADER)
    size = len(answer.content) if length is None else int(length)
    end, found = size, {}
    kinds = {"BOOL": "?", "FP64": "<f8", "INT64": "<i8"}
    for one in json.loads(answer.content[:size])["outputs"]:
        more = one.get("parameters", {}).get("binary_data_size")
        if more is None:
            values = np.asarray(one["data"], None if one["datatype"] != "BYTES" else object)
        elif one["datatype"] == "BYTES":
            values = np.asarray(list(texts_of(answer.content[end : end + more])), object)
        else:
            values = np.frombuffer(answer.content[end : end + more], kinds[one["datatype"]])
        end += more or 0
        found[one["name"]] = values.reshape(one["shape"])
    assert end == len(answer.content)
    return found


def texts_of(content: bytes) -> Iterator[str]:
    while content:
        (size,) = struct.unpack_from("<I", content)
        yield content[4 : 4 + size].decode()
        content = content[4 + size :]


def bfloat16(values: npt.NDArray[Any]) -> bytes:
    """Numbers that bfloat16 holds."""
    packed: npt.NDArray[Any] = values.astype("<f4").view("<u4")
    assert not (packed & 0xFFFF).any()
    return (packed >> 16).astype("<u2").tobytes()


class TestTritonsClient:
    @pytest.mark.parametrize("model", ZOO)
    def test_gets_what_predict_answers_for_the_same_seed(self, server: Server, model: str) -> None:
        triton = pytest.importorskip("tritonclient.http")
        name, datatype, values = example_of(server, model)
        tensor = triton.InferInput(name, values.shape, datatype)
        tensor.set_data_from_numpy(values)
        client = triton.InferenceServerClient(server.url.removeprefix("http://"))
        try:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready(model, "1")
            assert not client.is_model_ready(model, "2")
            assert client.get_model_metadata(model)["inputs"][0]["name"] == name
            found = client.infer(model, [tensor], parameters={"mc": 7, "seed": 3}, request_id="q")
        finally:
            client.close()
        names = [one["name"] for one in found.get_response()["outputs"]]
        assert_same({one: found.as_numpy(one) for one in names}, by_predict(server, model, values))
        assert found.get_response()["id"] == "q"

    def test_raises_the_sentence_of_an_error(self, server: Server) -> None:
        triton = pytest.importorskip("tritonclient.http")
        tensor = triton.InferInput("image", [1, 3], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 3), np.float32))
        client = triton.InferenceServerClient(server.url.removeprefix("http://"))
        try:
            with pytest.raises(Exception, match=r"inputs.image has the shape \[1, 3\]; \[1, 28, 28\] for one row"):
                client.infer("mnist-cnn", [tensor])
        finally:
            client.close()


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [
        *((f"FP{8 * size}", f"<f{size}") for size in (2, 4, 8)),
        *((f"INT{8 * size}", f"<i{size}") for size in (2, 4, 8)),
        *((f"UINT{8 * size}", f"<u{size}") for size in (1, 2, 4, 8)),
    ],
)
def test_values_of_any_datatype_are_answered_as_the_same_numbers(
    server: Server, seven: Numbers, datatype: str, dtype: str
) -> None:
    values = np.concatenate([seven, np.round(seven / 2)])
    packed = values.astype(dtype).tobytes()
    answer = post(server, "mnist-cnn", [tensor_of("image", datatype, values.shape, len(packed))], packed)
    assert_same(tensors_of(answer), by_predict(server, "mnist-cnn", values))


def test_bfloat16_is_read_exactly(server: Server, seven: Numbers) -> None:
    values = seven // 2 * 2  # of 8 bits at most, as its significand has
    packed = bfloat16(values)
    answer = post(server, "mnist-cnn", [tensor_of("image", "BF16", values.shape, len(packed))], packed)
    assert_same(tensors_of(answer), by_predict(server, "mnist-cnn", values))
    short = post(server, "mnist-cnn", [tensor_of("image", "BF16", values.shape, len(packed) - 2)], packed[:-2])
    assert_error(short, 422, "inputs.image has 1566 bytes of values; 1568, for BF16, are accepted")


def test_one_row_and_many_are_taken(server: Server, seven: Numbers) -> None:
    row = seven[0].astype("<f4")
    one = post(server, "mnist-cnn", [tensor_of("image", "FP32", row.shape, row.nbytes)], row.tobytes())
    assert_same(tensors_of(one), by_predict(server, "mnist-cnn", seven))
    rows = seven.repeat(300, axis=0).astype("<u1")
    many = post(server, "mnist-cnn", [tensor_of("image", "UINT8", rows.shape, rows.nbytes)], rows.tobytes())
    assert_same(tensors_of(many), by_predict(server, "mnist-cnn", rows))


def test_several_inputs_come_in_any_order_and_either_way(several: Server) -> None:
    expected = by_predict_of_tokens(several)
    ids, masks = np.array(IDS, "<i8"), np.array(MASKS)
    packed = [
        tensor_of("attention_mask", "BOOL", masks.shape, masks.nbytes),
        tensor_of("input_ids", "INT64", ids.shape, ids.nbytes),
    ]
    assert_same(tensors_of(post(several, "tokens", packed, masks.tobytes() + ids.tobytes())), expected)
    mixed = [tensor_of("input_ids", "INT64", ids.shape, None) | {"data": IDS}, packed[0]]
    assert_same(tensors_of(post(several, "tokens", mixed, masks.tobytes())), expected)
    listed = [mixed[0], tensor_of("attention_mask", "BOOL", masks.shape, None) | {"data": MASKS}]
    assert_same(tensors_of(post(several, "tokens", listed, b"")), expected)
    wrong = bytes([2]) + masks.tobytes()[1:] + ids.tobytes()
    assert_error(post(several, "tokens", packed, wrong), 422, "inputs.attention_mask holds the byte 2; 0 for false")
    one = [tensor_of("attention_mask", "BOOL", (1, 5), 5), packed[1]]
    answer = post(several, "tokens", one, masks.tobytes()[:5] + ids.tobytes())
    assert_error(answer, 422, "inputs.attention_mask is a list of 1")
    twos = [tensor_of("attention_mask", "BOOL", (2, 5), None) | {"data": [[2] * 5] * 2}, packed[1]]
    assert_error(post(several, "tokens", twos, ids.tobytes()), 422, "holds 2; true and false, or 1 and 0, are accepted")


@pytest.mark.parametrize("datatype", ["BOOL", "INT64", "UINT8"])
def test_a_mask_may_come_as_the_ones_and_zeros_that_tokenizers_give(several: Server, datatype: str) -> None:
    expected = by_predict_of_tokens(several)
    ids, masks = np.array(IDS, "<i8"), np.array(MASKS, {"BOOL": "?", "INT64": "<i8", "UINT8": "u1"}[datatype])
    tokens = tensor_of("input_ids", "INT64", ids.shape, ids.nbytes)
    packed = [tokens, tensor_of("attention_mask", datatype, masks.shape, masks.nbytes)]
    assert_same(tensors_of(post(several, "tokens", packed, ids.tobytes() + masks.tobytes())), expected)
    numbers = masks.astype(int).tolist()
    listed = [tokens, tensor_of("attention_mask", datatype, masks.shape, None) | {"data": numbers}]
    assert_same(tensors_of(post(several, "tokens", listed, ids.tobytes())), expected)
    numbers[1][2] = 2
    listed[1]["data"] = numbers
    assert_error(post(several, "tokens", listed, ids.tobytes()), 422, "inputs.attention_mask holds 2; true and false")


def by_predict_of_tokens(server: Server) -> list[dict[str, Any]]:
    inputs = {"input_ids": IDS, "attention_mask": MASKS}
    answer = server.client.post("/models/tokens/predict?mc=7&seed=3", json={"inputs": inputs})
    rows: list[dict[str, Any]] = answer.json()["predictions"]
    return rows


def test_what_is_missing_is_nan_or_null_where_that_is_allowed(several: Server, server: Server, seven: Numbers) -> None:
    given: list[list[float | None]] = [[1.0, None, 2.0, 3.0]]
    sent = several.client.post("/models/gaps/predict?mc=7&seed=3", json={"inputs": given})
    packed = np.array([[1.0, np.nan, 2.0, 3.0]], "<f4")
    answer = post(several, "gaps", [tensor_of("input", "FP32", (1, 4), 16)], packed.tobytes())
    assert_same(tensors_of(answer), sent.json()["predictions"])
    listed = post(several, "gaps", [tensor_of("input", "FP32", (1, 4), None) | {"data": given}], b"")
    assert tensors_of(listed)["mean"].tolist() == tensors_of(answer)["mean"].tolist()
    holes = np.where(seven > 200, np.nan, seven).astype("<f8")
    refused = post(server, "mnist-cnn", [tensor_of("image", "FP64", holes.shape, holes.nbytes)], holes.tobytes())
    assert_error(refused, 422, "inputs.image holds NaN; finite numbers are accepted")


class TestOutputs:
    def ask(self, server: Server, seven: Numbers, **more: Any) -> httpx.Response:
        packed = seven.astype("<f4")
        tensors = [tensor_of("image", "FP32", packed.shape, packed.nbytes)]
        return post(server, "mnist-cnn", tensors, packed.tobytes(), **more)

    def test_come_in_binary_where_that_is_asked_for_and_as_json_else(self, server: Server, seven: Numbers) -> None:
        expected = by_predict(server, "mnist-cnn", seven)
        plain = self.ask(server, seven)
        assert plain.headers["content-type"] == "application/json"
        assert HEADER not in plain.headers
        whole = self.ask(server, seven, parameters={"mc": 7, "seed": 3, "binary_data_output": True})
        assert whole.headers["content-type"] == "application/octet-stream"
        assert_same(tensors_of(whole), expected)
        listed = json.loads(whole.content[: int(whole.headers[HEADER])])["outputs"]
        assert [one for one in listed if "data" in one] == []

    def test_may_come_some_one_way_and_some_the_other(self, server: Server, seven: Numbers) -> None:
        outputs = [
            {"name": "label", "parameters": {"binary_data": True}},
            {"name": "mean", "parameters": {"binary_data": False}},
            {"name": "entropy"},
        ]
        parameters = {"mc": 7, "seed": 3, "binary_data_output": True}
        answer = self.ask(server, seven, parameters=parameters, outputs=outputs)
        (row,) = by_predict(server, "mnist-cnn", seven)
        assert_same(tensors_of(answer), [{name: row[name] for name in ("label", "mean", "entropy")}])
        listed = json.loads(answer.content[: int(answer.headers[HEADER])])["outputs"]
        assert [("data" in one) for one in listed] == [False, True, False]
        assert listed[0]["parameters"] == {"binary_data_size": 5}  # four bytes of length, and "7"

    def test_of_maps_hold_the_labels_of_each_place(self, server: Server) -> None:
        name, datatype, canvas = example_of(server, "digits-segmentation")
        tensors = [tensor_of(name, datatype, canvas.shape, canvas.nbytes)]
        answer = post(
            server,
            "digits-segmentation",
            tensors,
            canvas.tobytes(),
            outputs=[{"name": "label"}],
            parameters={"mc": 7, "seed": 3, "binary_data_output": True},
        )
        (row,) = by_predict(server, "digits-segmentation", canvas, "mc=7&seed=3&fields=label")
        assert_same(tensors_of(answer), [{"label": row["label"]}])
        assert "background" in tensors_of(answer)["label"]


GOOD = [tensor_of("mixture", "FP32", (1, 8), 32)]
BYTES = np.ones(8, "<f4").tobytes()
BAD: list[tuple[list[dict[str, Any]], bytes, str | None, str]] = [
    (GOOD, BYTES, "x", "Inference-Header-Content-Length is 'x'; 0 to"),
    (GOOD, BYTES, "-1", "Inference-Header-Content-Length is '-1'; 0 to"),
    (GOOD, BYTES, "1e2", "Inference-Header-Content-Length is '1e2'; 0 to"),
    (GOOD, BYTES, "100000", "Inference-Header-Content-Length is '100000'; 0 to"),
    (GOOD, BYTES, "9" * 5000, "Inference-Header-Content-Length is '9999"),
    (GOOD, BYTES, "10", "the content is no JSON"),
    (GOOD, BYTES, "0", "the content is no JSON"),
    (GOOD, BYTES[:-1], None, "has the binary_data_size 32; behind the JSON there are 31 bytes"),
    (GOOD, BYTES + b"\0", None, "behind the JSON there are 33 bytes, and the tensors have 32 by their binary_data"),
    (GOOD, b"", None, "has the binary_data_size 32; behind the JSON there are 0 bytes"),
    ([tensor_of("mixture", "FP32", (1, 8), None)], BYTES, None, "inputs.mixture has no data; a list, or binary_data"),
    ([tensor_of("mixture", "FP64", (1, 8), 32)], BYTES, None, "inputs.mixture has 32 bytes of values; 64, for float64"),
    ([tensor_of("mixture", "FP32", (2, 8), 32)], BYTES, None, "inputs.mixture has 32 bytes of values; 64, for float32"),
    ([tensor_of("mixture", "FP32", (1, 8), -1)], BYTES, None, "inputs.mixture has the binary_data_size -1"),
    ([tensor_of("mixture", "FP32", (1, 8), 2**62)], BYTES, None, "inputs.mixture has the binary_data_size"),
    ([tensor_of("mixture", "FP32", (1, 8), True)], BYTES, None, "binary_data_size of inputs.mixture is True; a whole"),
    ([tensor_of("mixture", "FP32", (10**9, 8), 32)], BYTES, None, "inputs holds 1000000000 rows; 1 to 4096 are"),
    ([tensor_of("mixture", "BYTES", (1, 8), 32)], BYTES, None, "inputs.mixture has the datatype 'BYTES'; one of"),
    ([tensor_of("mixture", "BOOL", (1, 8), 8)], BYTES[:8], None, "inputs.mixture has the dtype bool; float16"),
    (GOOD, np.full(8, np.inf, "<f4").tobytes(), None, "inputs.mixture holds infinity; finite numbers are accepted"),
    (GOOD, np.full(8, -1, "<f4").tobytes(), None, "inputs.mixture holds values from -1 to -1; at least 0 is accepted"),
]


@pytest.mark.parametrize(("tensors", "behind", "length", "words"), BAD, ids=[words[:60] for *_, words in BAD])
def test_what_does_not_fit_is_refused_with_what_does(
    server: Server, tensors: list[dict[str, Any]], behind: bytes, length: str | None, words: str
) -> None:
    assert_error(post(server, "concrete-mlp", tensors, behind, length), 422, words)


def test_without_the_header_all_of_the_body_is_json(server: Server) -> None:
    text = json.dumps({"inputs": GOOD}).encode()
    answer = server.client.post("/v2/models/concrete-mlp/infer", content=text + BYTES)
    assert_error(answer, 422, "the content is no JSON")


def test_no_memory_is_taken_for_what_a_tensor_claims(server: Server) -> None:
    claims = [tensor_of("canvas", "FP64", (4096, 1, 48, 48), 4096 * 48 * 48 * 8)]
    lies = [tensor_of("canvas", "FP64", (4096, 1, 48, 48), 8)]

    def ask() -> None:
        assert_error(post(server, "digits-segmentation", claims, b"\0" * 8), 422, "behind the JSON there are 8 bytes")
        assert_error(post(server, "digits-segmentation", lies, b"\0" * 8), 422, "has 8 bytes of values; 75497472, for")

    assert server.peak_memory_grown_by(ask) < 20_000
