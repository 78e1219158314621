"""Texts by the Open Inference Protocol: what /predict says of them, whichever way they come."""

import json
import shutil
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from mcdropout.api.oip.json_text import read_content
from mcdropout.catalogue.checks import RowsError
from tests.api.inference import assert_same
from tests.api.test_hooks import TEXTS
from tests.api.test_oip import assert_error, tensors_of
from tests.bundles import TOKEN_FIELDS, TOKENS, write_bundle
from tests.compilations import compiled
from tests.conftest import MODELS
from tests.servers import Server, free_port, serving

REVIEWS = ["a warm, funny and engaging film!", 'dreadful: "never" again, {mon ami} — très long', "meh"]
HEADER = "inference-header-content-length"
Given = tuple[Server, Any]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    """A server of models of texts, over HTTP and gRPC, whose steps no clock cuts."""
    grpc_calls = pytest.importorskip("tests.api.test_grpc")
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(MODELS / "sentiment-cnn", folder / "sentiment-cnn")
    tokens = write_bundle(folder, "tokens", TOKENS, preprocess="preprocess.py:rows", **TOKEN_FIELDS)
    (tokens / "preprocess.py").write_text(TEXTS)
    compiled(tokens)
    port = free_port()
    flags = "--default", "sentiment-cnn", "--grpc-port", str(port), "--no-compile"
    with serving(folder, tmp_path_factory.mktemp("log"), *flags, MCDROPOUT_STEP_SECONDS="100") as running:
        running.wait_until_ready()
        rpc = grpc_calls.Rpc(port)
        yield running, rpc
        rpc.close()


def packed(texts: Sequence[str | bytes]) -> bytes:
    """Texts in binary, before each the number of its bytes."""
    contents = (text.encode() if isinstance(text, str) else text for text in texts)
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


def tensor_of(data: Any = None, shape: Any = None, name: str = "words", datatype: str = "BYTES", **more: Any) -> Any:
    found = {"name": name, "datatype": datatype, "shape": [len(data)] if shape is None else shape, "data": data} | more
    return {key: value for key, value in found.items() if value is not None}


def in_json(server: Server, *tensors: Any, model: str = "sentiment-cnn") -> Any:
    request = {"parameters": {"mc": 7, "seed": 3}, "inputs": list(tensors)}
    return server.client.post(f"/v2/models/{model}/infer", json=request)


def in_binary(server: Server, content: bytes, shape: Any, size: int | None = None) -> Any:
    size = len(content) if size is None else size
    tensor = tensor_of(shape=shape, parameters={"binary_data_size": size})
    text = json.dumps({"parameters": {"mc": 7, "seed": 3}, "inputs": [tensor]}).encode()
    headers = {HEADER: str(len(text))}
    return server.client.post("/v2/models/sentiment-cnn/infer", content=text + content, headers=headers)


def by_grpc(rpc: Any, shape: Any, *, raw: bytes | None = None, typed: Sequence[bytes] = ()) -> Any:
    from tests.api import test_grpc

    request = test_grpc.interface.message_class("ModelInferRequest")(model_name="sentiment-cnn")
    tensor = request.inputs.add(name="words", datatype="BYTES", shape=shape)
    tensor.contents.bytes_contents.extend(typed)
    if raw is not None:
        request.raw_input_contents.append(raw)
    return rpc("ModelInfer", test_grpc.with_parameters(request, mc=7, seed=3))


def by_predict(server: Server, texts: Any, model: str = "sentiment-cnn") -> Any:
    answer = server.client.post(f"/models/{model}/predict?mc=7&seed=3", json={"inputs": texts})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


@pytest.mark.parametrize("reviews", [REVIEWS, REVIEWS[:1], REVIEWS * 1000], ids=["three", "one", "thousands"])
def test_texts_are_answered_as_predict_answers_them_whichever_way_they_come(texts: Given, reviews: list[str]) -> None:
    from tests.api import test_grpc

    server, rpc = texts
    expected, rows = by_predict(server, reviews), len(reviews)
    contents = [review.encode() for review in reviews]
    for answer in (
        in_json(server, tensor_of(reviews)),
        in_json(server, tensor_of(reviews, [rows, 1])),
        in_json(server, tensor_of([[review] for review in reviews], [rows, 1])),
        in_binary(server, packed(reviews), [rows]),
    ):
        assert_same(tensors_of(answer), expected)
    for response in (by_grpc(rpc, [rows], raw=packed(reviews)), by_grpc(rpc, [rows, 1], typed=contents)):
        assert_same(test_grpc.tensors_of(response), expected)


def test_tritons_client_sends_texts(texts: Given) -> None:
    triton = pytest.importorskip("tritonclient.http")
    tensor = triton.InferInput("words", [3, 1], "BYTES")
    tensor.set_data_from_numpy(np.array(REVIEWS, object)[:, None])
    client = triton.InferenceServerClient(texts[0].url.removeprefix("http://"))
    try:
        found = client.infer("sentiment-cnn", [tensor], parameters={"mc": 7, "seed": 3}).as_numpy("mean")
    finally:
        client.close()
    assert found.tolist() == [row["mean"] for row in by_predict(texts[0], REVIEWS)]


def test_of_several_inputs_the_texts_are_one_tensor_called_inputs(texts: Given) -> None:
    server, _ = texts
    sentences = ["a bb ccc dddd e", "aa aa aa a a"]
    (described,) = server.client.get("/v2/models/tokens").json()["inputs"]
    assert described == {"name": "inputs", "datatype": "BYTES", "shape": [-1]}
    answer = in_json(server, tensor_of(sentences, name="inputs"), model="tokens")
    assert_same(tensors_of(answer), by_predict(server, sentences, "tokens"))
    mixed = (
        tensor_of(sentences, name="input_ids"),
        tensor_of([True] * 10, [2, 5], name="attention_mask", datatype="BOOL"),
    )
    said = (
        "inputs holds 2 tensors, ['input_ids of BYTES', 'attention_mask of BOOL']; 'inputs' of BYTES alone, or numbers"
    )
    assert_error(in_json(server, *mixed, model="tokens"), 422, said)


def test_numbers_are_taken_as_before(texts: Given) -> None:
    numbers = tensor_of([3, 14, 15], [1, 3], datatype="INT64")
    assert_same(tensors_of(in_json(texts[0], numbers)), by_predict(texts[0], [[3, 14, 15]]))


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (tensor_of(["a", 5]), "the data of inputs.words holds 5; texts are accepted"),
        (tensor_of(["a", ["b", "c"]]), "the data of inputs.words holds"),
        (tensor_of([1] * 30_000, [1]), "the data of inputs.words holds numbers; texts are accepted"),
        (tensor_of(["a", "b"], [3]), "inputs.words has 2 texts; 3, for its shape, are accepted"),
        (tensor_of(["a", "b"], [1, 2]), "inputs.words has the shape [1, 2]; [rows] or [rows, 1], of one text or more"),
        (tensor_of([], [0]), "inputs.words has the shape [0]"),
        (tensor_of(["a"], []), "inputs.words has the shape []"),
        (tensor_of(["a"], [5000]), "inputs holds 5000 rows; 1 to 4096 are accepted"),
        (tensor_of(["a"], name="text"), "['text of BYTES']; 'words' of BYTES alone, or numbers for each of ['words']"),
    ],
    ids=["a number", "a list", "numbers", "two for three", "a matrix", "none", "no rows", "5000 rows", "another name"],
)
def test_what_holds_no_texts_is_refused_in_a_sentence(texts: Given, tensor: Any, said: str) -> None:
    assert_error(in_json(texts[0], tensor), 422, said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (packed(["a"]), "inputs.words ends within its text 1: 5 bytes are there; 2 texts, before each the number"),
        (packed(["a", "bc"])[:-1], "ends within its text 1"),
        (packed(["a"]) + b"\xff\xff\xff\xffb", "ends within its text 1"),
        (packed(["a", "b", "c"]), "inputs.words has 15 bytes, and its 2 texts 10; as many are accepted"),
        (packed(["a", b"\xff"]), "the text 1 of inputs.words is no UTF-8"),
    ],
    ids=["one", "half of one", "a claim of 4 GiB", "three", "no UTF-8"],
)
def test_what_is_no_two_texts_in_binary_is_refused_in_a_sentence(texts: Given, content: bytes, said: str) -> None:
    from tests.api import test_grpc

    server, rpc = texts
    assert_error(in_binary(server, content, [2]), 422, said)
    code, details, _ = test_grpc.refused(lambda: by_grpc(rpc, [2], raw=content))
    assert (code, said in details) == ("INVALID_ARGUMENT", True)


def test_a_hook_that_refuses_texts_says_so(texts: Given) -> None:
    from tests.api import test_grpc

    assert_error(
        in_json(texts[0], tensor_of(["..."])), 422, "inputs cannot be preprocessed: ValueError: '...' has no word"
    )
    code, details, _ = test_grpc.refused(lambda: by_grpc(texts[1], [1], typed=[b"a", b"b"]))
    assert (code, "inputs.words has 2 texts; 1, for its shape" in details) == ("INVALID_ARGUMENT", True)


def test_objects_and_fields_are_bounded_before_they_are_parsed() -> None:
    for content, said in (
        (b"{" * 10_001, "10001 braces; at most 10000"),
        (b'"' * 65_537, "65537 quotes; at most 65536"),
    ):
        with pytest.raises(RowsError, match=said):
            read_content(content)
