"""The Open Inference Protocol over HTTP: what /predict says, as tensors; and a sentence for what is none of it."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from jsonschema import Draft202012Validator
from torch import nn

from mcdropout import Engine
from mcdropout.access.keys import hash_of, new_secret
from tests.api.inference import ZOO, assert_same, by_predict, example_of
from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compiled
from tests.patience import wait_until
from tests.servers import Server, serving

SECRET = new_secret()
CNN = "/v2/models/mnist-cnn/infer"
Numbers = npt.NDArray[np.float64]


def request_of(values: Any, name: str = "image", datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    array = np.asarray(values)
    tensor = {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}
    return {"parameters": {"mc": 7, "seed": 3}, "inputs": [tensor]} | more


def tensors_of(answer: httpx.Response) -> dict[str, npt.NDArray[Any]]:
    assert answer.status_code == 200, answer.text
    outputs = answer.json()["outputs"]
    kinds = {"BYTES": object, "BOOL": np.bool_, "FP64": np.float64, "INT64": np.int64}
    return {
        one["name"]: np.asarray(one["data"], kinds[one["datatype"]]).reshape(one["shape"])  # type: ignore[call-overload]
        for one in outputs
    }


def assert_error(answer: httpx.Response, status: int, words: str) -> None:
    """An error as the protocol has it, whose sentence holds these words, and what would be accepted."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    assert set(answer.json()) == {"error"}
    assert words in answer.json()["error"]


class TestAnswers:
    @pytest.mark.parametrize("model", ZOO)
    def test_are_those_of_predict_for_the_same_seed(self, server: Server, model: str) -> None:
        name, datatype, values = example_of(server, model)
        answer = server.client.post(f"/v2/models/{model}/infer", json=request_of(values, name, datatype, id="q7"))
        assert_same(tensors_of(answer), by_predict(server, model, values))
        head = {name: value for name, value in answer.json().items() if name != "outputs"}
        parameters = {"mc": 7, "seed": 3}
        assert head == {"model_name": model, "model_version": "1", "id": "q7", "parameters": parameters}

    @pytest.mark.parametrize("model", ZOO)
    def test_to_tritons_client_in_json_are_the_same(self, server: Server, model: str) -> None:
        triton = pytest.importorskip("tritonclient.http")
        name, datatype, values = example_of(server, model)
        tensor = triton.InferInput(name, values.shape, datatype)
        tensor.set_data_from_numpy(values, binary_data=False)
        names = ["mean", "passes"]
        wanted = [triton.InferRequestedOutput(one, binary_data=False) for one in names]
        client = triton.InferenceServerClient(server.url.removeprefix("http://"))
        try:
            found = client.infer(model, [tensor], outputs=wanted, parameters={"mc": 7, "seed": 3})
        finally:
            client.close()
        rows = by_predict(server, model, values)
        assert_same({one: found.as_numpy(one) for one in names}, [{one: row[one] for one in names} for row in rows])

    def test_hold_numbers_of_json_as_predict_reads_them(self, server: Server) -> None:
        mixture = [[540.1, 0.0, 0.3, 162.7, 2.5, 1040.9, 676.2, 28.0]]
        answer = server.client.post("/v2/models/concrete-mlp/infer", json=request_of(mixture, "mixture"))
        assert_same(tensors_of(answer), by_predict(server, "concrete-mlp", mixture))

    @pytest.mark.parametrize("form", ["flat", "nested", "spread"])
    @pytest.mark.parametrize("rows", [1, 60])
    def test_to_long_lists_are_those_to_their_rows(self, server: Server, seven: Numbers, rows: int, form: str) -> None:
        values = np.minimum(seven + np.random.default_rng(2).integers(0, 99, (rows, 1, 28, 28)), 255)
        body = request_of(values)
        if form != "flat":
            body["inputs"][0]["data"] = values.tolist()
        text = json.dumps(body, indent=1 if form == "spread" else None)
        assert rows == 1 or len(text) > 2**18
        expected = by_predict(server, "mnist-cnn", values)
        assert_same(tensors_of(server.client.post(CNN, content=text)), expected)

    def test_hold_the_outputs_that_are_named_in_that_order(self, server: Server, seven: Numbers) -> None:
        outputs = [{"name": "passes"}, {"name": "label"}, {"name": "entropy"}]
        found = tensors_of(server.client.post(CNN, json=request_of(seven, outputs=outputs)))
        assert list(found) == ["passes", "label", "entropy"]
        assert found["label"].tolist() == ["7"]
        alone = tensors_of(server.client.post(CNN, json=request_of(seven, outputs=[{"name": "passes"}])))
        assert {name: values.tolist() for name, values in alone.items()} == {"passes": [7]}

    def test_leave_out_what_is_null(self, server: Server, seven: Numbers) -> None:
        for mc, gone in ((0, {"variance", "mutual_information"}), (1, {"variance", "std_error"})):
            parameters = {"mc": mc, "seed": 3}
            answer = server.client.post(CNN, json=request_of(seven, parameters=parameters))
            found = tensors_of(answer)
            assert not gone & set(found)
            assert "NaN" not in answer.text
            assert_same(found, by_predict(server, "mnist-cnn", seven, f"mc={mc}&seed=3"))

    def test_heed_the_parameters_of_predict(self, server: Server, seven: Numbers) -> None:
        self_stopping = {"mc": "auto", "tolerance": 0.05, "seed": 1}
        automatic = server.client.post(CNN, json=request_of(seven, parameters=self_stopping))
        assert automatic.json()["parameters"] == {"mc": "auto", "seed": 1, "tolerance": 0.05}
        assert_same(tensors_of(automatic), by_predict(server, "mnist-cnn", seven, "mc=auto&tolerance=0.05&seed=1"))
        some = {"mc": 4, "seed": 3, "samples": True, "fields": "mean,label"}
        sampled = tensors_of(server.client.post(CNN, json=request_of(seven, parameters=some)))
        assert set(sampled) == {"mean", "label", "passes", "samples"}
        assert sampled["samples"].shape == (1, 4, 10)
        np.testing.assert_allclose(sampled["samples"].mean(axis=1), sampled["mean"])
        name, datatype, canvas = example_of(server, "digits-segmentation")
        parts = {"mc": 4, "seed": 3, "fields": "entropy", "reduce": "p95", "regions": "2x2"}
        reduced = server.client.post(
            "/v2/models/digits-segmentation/infer", json=request_of(canvas, name, datatype, parameters=parts)
        )
        query = "&".join(f"{name}={value}" for name, value in parts.items())
        assert_same(tensors_of(reduced), by_predict(server, "digits-segmentation", canvas, query))
        late = server.client.post(CNN, json=request_of(seven, parameters={"mc": 5, "deadline_ms": 60000}))
        assert tensors_of(late)["passes"].tolist() == [5]

    def test_draw_a_seed_where_none_is_given_and_say_it(self, server: Server, seven: Numbers) -> None:
        drawn = server.client.post(CNN, json=request_of(seven, parameters={"mc": 5}))
        seed = drawn.json()["parameters"]["seed"]
        again = server.client.post(CNN, json=request_of(seven, parameters={"mc": 5, "seed": seed}))
        assert again.json() == drawn.json()

    def test_come_compressed_where_they_are_large_and_the_client_takes_them_so(self, server: Server) -> None:
        name, datatype, canvas = example_of(server, "digits-segmentation")
        path, body = "/v2/models/digits-segmentation/infer", request_of(canvas, name, datatype)
        packed = server.client.post(path, json=body, headers={"accept-encoding": "gzip"})
        plain = server.client.post(path, json=body, headers={"accept-encoding": "identity"})
        assert (packed.headers["content-encoding"], plain.headers.get("content-encoding")) == ("gzip", None)
        assert packed.json() == plain.json()


class TestDescriptions:
    @pytest.mark.parametrize("model", ZOO)
    def test_say_of_each_tensor_what_answers_hold(self, server: Server, model: str) -> None:
        description = server.client.get(f"/v2/models/{model}").json()
        assert (description["name"], description["versions"]) == (model, ["1"])
        name, datatype, values = example_of(server, model)
        for shape in (values.shape, (2 * len(values), *values.shape[1:])):
            body = request_of(np.resize(values, shape), name, datatype)
            answer = server.client.post(f"/v2/models/{model}/infer", json=body).json()
            given = {one["name"]: (one["datatype"], one["shape"]) for one in answer["outputs"]}
            described = {one["name"]: (one["datatype"], one["shape"]) for one in description["outputs"]}
            assert given.keys() == described.keys()
            for tensor, (kind, sizes) in described.items():
                assert kind == given[tensor][0]
                assert sizes[0] == -1
                fits = [wanted in (-1, size) for wanted, size in zip(sizes, given[tensor][1], strict=True)]
                assert all(fits), tensor

    def test_have_texts_where_a_hook_makes_rows_of_these_and_minus_one_for_rows(self, server: Server) -> None:
        (tensor,) = server.client.get("/v2/models/sentiment-cnn").json()["inputs"]
        assert tensor == {"name": "words", "datatype": "BYTES", "shape": [-1]}
        outputs = server.client.get("/v2/models/sentiment-cnn").json()["outputs"]
        assert {"name": "interval", "datatype": "FP64", "shape": [-1, 2]} in outputs
        maps = server.client.get("/v2/models/digits-segmentation").json()["outputs"]
        assert [one["shape"] for one in maps if one["name"] in ("label", "mean")] == [[-1, 48, 48], [-1, 11, 48, 48]]
        (image,) = server.client.get("/v2/models/mnist-cnn/versions/1").json()["inputs"]
        assert image == {"name": "image", "datatype": "FP32", "shape": [-1, 1, 28, 28]}

    def test_of_the_server_and_its_health(self, server: Server) -> None:
        described = server.client.get("/v2").json()
        assert (described["name"], described["extensions"]) == ("mcdropout", ["binary_tensor_data"])
        assert server.client.get("/v2/health/live").json() == {"live": True}
        assert server.client.get("/v2/health/ready").json() == {"ready": True}
        for path in ("/v2/models/mnist-cnn/ready", "/v2/models/mnist-cnn/versions/1/ready"):
            assert server.client.get(path).json() == {"name": "mnist-cnn", "ready": True}
        assert server.client.head("/v2").status_code == 200


class TestVersions:
    def test_that_a_model_has_are_answered(self, server: Server, seven: Numbers) -> None:
        body = request_of(seven)
        by_version = server.client.post("/v2/models/mnist-cnn/versions/1/infer", json=body)
        assert by_version.json() == server.client.post(CNN, json=body).json()

    @pytest.mark.parametrize("path", ["", "/ready"])
    def test_that_it_has_not_are_refused(self, server: Server, path: str) -> None:
        words = "the model 'mnist-cnn' has no version '2'; '1' is what it has"
        assert_error(server.client.get(f"/v2/models/mnist-cnn/versions/2{path}"), 404, words)
        assert_error(server.client.post("/v2/models/mnist-cnn/versions/2/infer", json={}), 404, words)


def tensor(**changes: Any) -> dict[str, Any]:
    """A request of concrete-mlp, whose one tensor is changed; None leaves a field out."""
    given = {"name": "mixture", "datatype": "FP32", "shape": [1, 8], "data": [1, 2, 3, 4, 5, 6, 7, 8]} | changes
    return {"parameters": {"mc": 3, "seed": 1}, "inputs": [{k: v for k, v in given.items() if v is not None}]}


def asked(**parameters: Any) -> dict[str, Any]:
    return tensor() | {"parameters": parameters}


def wanted(*outputs: Any, **parameters: Any) -> dict[str, Any]:
    return (
        tensor()
        | {"outputs": [{"name": one} if isinstance(one, str) else one for one in outputs]}
        | ({"parameters": parameters} if parameters else {})
    )


ONE = [1.0] * 7
BAD: list[tuple[Any, int, str]] = [
    (b"", 422, "the content is no JSON"),
    (b"{", 422, "the content is no JSON"),
    (b"[]", 422, "the content is a list; an object with inputs is accepted"),
    (b'"inputs"', 422, "the content is a str; an object with inputs is accepted"),
    (b"\xff\xfe", 422, "the content is no JSON"),
    (b'{"inputs": [{"name": "mixture", "shape": [1, 8], "datatype": "FP32", "data": [NaN]}]}', 422, "no NaN"),
    (b"[" * 500_000, 422, "lists and objects, more than"),
    (b'{"inputs": ' + b"[" * 300 + b"]" * 300 + b"}", 422, "a mapping of fields is accepted"),
    (b'{"id": "' + b'\\"' * 70_000 + b'"}', 422, "quotes; at most 65536 are accepted"),
    ({}, 422, "inputs is missing"),
    ({"inputs": 5}, 422, "inputs is 5; a list is accepted"),
    ({"inputs": []}, 422, "inputs lacks ['mixture']; one for each of ['mixture'] is accepted"),
    (tensor() | {"more": 1}, 422, "more is no field of the protocol"),
    (tensor() | {"id": 5}, 422, "id is 5; text is accepted"),
    (tensor() | {"model_name": "mnist-cnn"}, 422, "model_name is 'mnist-cnn' in the body; 'concrete-mlp' is accepted"),
    (tensor() | {"model_version": "7"}, 422, "model_version is '7' in the body; '1' is accepted"),
    ({"inputs": [*tensor()["inputs"], *tensor()["inputs"]]}, 422, "inputs has several times ['mixture']"),
    (tensor(name="image"), 422, "inputs lacks ['mixture'] and holds the unknown ['image']; one for each"),
    (tensor(name=None), 422, "inputs.0.name is missing"),
    (tensor(shape=None), 422, "inputs.0.shape is missing"),
    (tensor(datatype=None), 422, "inputs.0.datatype is missing"),
    (tensor(data=None), 422, "inputs.mixture has no data; a list, or binary_data_size, is accepted"),
    (tensor(data="1,2"), 422, "the data of inputs.mixture is '1,2'; a list is accepted"),
    (tensor(data={"b64": "AA"}), 422, "the data of inputs.mixture is {'b64': 'AA'}; a list is accepted"),
    (tensor(datatype="FP128"), 422, "inputs.mixture has the datatype 'FP128'; one of BOOL, FP16"),
    (tensor(datatype="BYTES"), 422, "inputs.mixture has the datatype 'BYTES'; one of BOOL, FP16"),
    (tensor(datatype="BOOL", data=[True] * 8), 422, "inputs.mixture has the dtype bool; float16, float32"),
    (tensor(datatype="fp32"), 422, "inputs.mixture has the datatype 'fp32'; one of"),
    (tensor(datatype="INT32", data=[1.5, *[1] * 7]), 422, "holds 1.5; whole numbers, written as 1 and not as 1.0, are"),
    (tensor(datatype="INT8", data=[300, *[1] * 7]), 422, "holds values from 1 to 300; -128 to 127, of int8, are"),
    (tensor(datatype="UINT8", data=[-1, *[1] * 7]), 422, "holds values from -1 to 1; 0 to 255, of uint8, are accepted"),
    (tensor(shape=[2, 8]), 422, "inputs.mixture has 8 values; 16, for the shape [2, 8], are accepted"),
    (tensor(shape=[1, 9], data=[1] * 9), 422, "inputs.mixture has the shape [1, 9]; [8] for one row, [rows, 8] for"),
    (tensor(shape=[1, -8]), 422, "inputs.mixture has the shape [1, -8]; sizes from 0 on are accepted"),
    (tensor(shape=[0, 8], data=[]), 422, "inputs.mixture has the shape [0, 8]"),
    (tensor(shape=[1.5, 8]), 422, "inputs.0.shape.0 is 1.5"),
    (tensor(shape=[10**14, 8]), 422, "inputs holds 100000000000000 rows; 1 to 4096 are accepted"),
    (tensor(shape=[1] * 70 + [8]), 422, "sizes from 0 on are accepted"),
    (tensor(data=[*ONE, None]), 422, "the data of inputs.mixture holds null; numbers are accepted"),
    (tensor(data=[*ONE, "1"]), 422, 'the data of inputs.mixture holds "1"; numbers are accepted'),
    (tensor(data=[*ONE, True]), 422, "the data of inputs.mixture holds true; numbers are accepted"),
    (tensor(data=[*ONE, {}]), 422, "the data of inputs.mixture holds an object; numbers are accepted"),
    (tensor(data=[ONE, [1.0]]), 422, "the data of inputs.mixture is ragged; one list of all values, or lists of the"),
    (tensor(data=[[1.0] * 4, [1.0] * 4]), 422, "the data of inputs.mixture has the shape [2, 4]; one list of all"),
    (tensor(data=ONE), 422, "inputs.mixture has 7 values; 8, for the shape [1, 8], are accepted"),
    (tensor(data=[*ONE, 1.0, 1.0]), 422, "inputs.mixture has 9 or more values; 8, for the shape [1, 8], are accepted"),
    (tensor(data=[*ONE, -1.0]), 422, "inputs.mixture holds values from -1 to 1; at least 0 is accepted"),
    (tensor(data=[*ONE, 1e300]), 422, "which preprocessing and float32 make infinite; smaller numbers are accepted"),
    (tensor(parameters={"binary_data_size": 32}), 422, "inputs.mixture has data and binary_data_size; one of the two"),
    (tensor(parameters={"shared_memory_region": "x"}), 422, "the parameter 'shared_memory_region'; binary_data_size"),
    (asked(mc=-1), 422, "mc is '-1'; a whole number from 0 on, or auto, is accepted"),
    (asked(mc=True), 422, "mc is 'true'; a whole number from 0 on, or auto, is accepted"),
    (asked(mc=20000), 422, "mc is 20000; 0 to 10000, or auto, is accepted by concrete-mlp"),
    (asked(seed=2**64), 422, "seed is"),
    (asked(passes=5), 422, "unknown parameter 'passes'; mc, tolerance, deadline_ms, seed"),
    (asked(fields=["mean"]), 422, "parameters.fields is ['mean']; text, a number, true or false is accepted"),
    (asked(fields="median"), 422, "fields names 'median'; of regression, mean, variance"),
    (asked(tolerance=0.1, mc=5), 422, "tolerance is 0.1 and mc is 5; a tolerance is accepted with mc=auto"),
    (asked(deadline_ms=0), 422, "deadline_ms is '0'; a number greater than 0 is accepted"),
    (asked(samples=True, mc="auto"), 422, "samples is true with mc=auto or deadline_ms"),
    (asked(regions="2x2"), 422, "regions is '2x2' without reduce; they are accepted together"),
    (asked(binary_data_output=1), 422, "binary_data_output is 1; true or false is accepted"),
    (wanted("median"), 422, "outputs names 'median'; each of mean, variance"),
    (wanted("mean", "mean"), 422, "outputs names 'mean'; each of"),
    (wanted("samples"), 422, "outputs names 'samples'; it is accepted with the parameter samples, which is true"),
    (wanted("std_error", mc=0), 422, "outputs names 'std_error', which is null for this model with mc=0"),
    (wanted("entropy", fields="mean"), 422, "outputs names 'entropy', which is null for this model"),
    (wanted({"name": "mean", "parameters": {"classification": 3}}), 422, "the parameter 'classification'; binary_data"),
    (wanted({"name": "mean", "parameters": {"binary_data": 1}}), 422, "binary_data of outputs.mean is 1; true or"),
]


class TestErrors:
    @pytest.mark.parametrize(("body", "status", "words"), BAD, ids=[words[:50] for _, _, words in BAD])
    def test_name_what_came_and_what_is_accepted(self, server: Server, body: Any, status: int, words: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        assert_error(server.client.post("/v2/models/concrete-mlp/infer", content=content), status, words)

    def test_are_those_of_predict_where_both_have_them(self, server: Server) -> None:
        for parameters in ({"mc": -1}, {"mc": 20000}, {"reduce": "half"}):
            ((name, value),) = parameters.items()
            query = f"{name}={value}"
            problem = server.client.post(f"/models/concrete-mlp/predict?{query}", json={"inputs": [[1] * 8]})
            error = server.client.post("/v2/models/concrete-mlp/infer", json=asked(**parameters))
            assert (error.status_code, error.json()["error"]) == (problem.status_code, problem.json()["detail"])

    def test_of_long_lists_are_those_of_short_ones(self, server: Server, seven: Numbers) -> None:
        good = request_of(seven.repeat(60, axis=0))
        text = json.dumps(good)
        assert len(text) > 2**17
        for old, new, words in (
            ("]}]}", ",1]}]}", "values; 47040, for the shape [60, 1, 28, 28], are accepted"),
            ("]}]}", ",]}]}", "is no list of values"),
            ("]}]}", ",true]}]}", "holds true; numbers are accepted"),
            ("]}]}", ",[1]]}]}", "is ragged"),
            ("]}]}", ",null]}]}", "holds null; numbers are accepted"),
            ("]}]}", "]]}]}", "is no list of values"),
            ("]}]}", '], "data": [1]}]}', "has 1 values; 47040"),
            ('"name": "image"', f'"name": "[{"1," * 40000}1]"', "holds the unknown ['[1,1,1"),
        ):
            assert text.count(old) == 1
            assert_error(server.client.post(CNN, content=text.replace(old, new)), 422, words)

    def test_of_other_paths_methods_and_media_types_are_the_protocols(self, server: Server) -> None:
        assert_error(server.client.get("/v2/nowhere"), 404, "there is nothing at /v2/nowhere")
        assert_error(server.client.get(CNN), 405, "GET is not accepted at /v2/models/mnist-cnn/infer; POST is")
        assert_error(server.client.get("/v2/models/nope"), 404, "there is no model 'nope'; one of")
        assert_error(server.client.post("/v2/models/nope/infer", json={}), 404, "there is no model 'nope'; one of")
        answer = server.client.post(CNN, content=b"{}", headers={"content-type": "text/csv"})
        assert_error(answer, 415, "the content type is 'text/csv'; application/json, or application/octet-stream")
        broken = server.client.post(CNN, content=b"{}", headers={"content-encoding": "gzip"})
        assert_error(broken, 400, "the body cannot be read as gzip")

    def test_carry_the_clients_id(self, server: Server) -> None:
        answer = server.client.post("/v2/models/nope/infer", json={}, headers={"x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        assert "detail" in server.client.get("/models/nope").json()  # of the other routes nothing has changed

    def test_take_no_memory_for_what_is_only_claimed(self, server: Server) -> None:
        claim = tensor(shape=[4096, 8], data=[1.0] * 8)
        huge = {**tensor(), "inputs": [{"name": "canvas", "datatype": "FP64", "shape": [4096, 1, 48, 48], "data": [1]}]}

        def ask() -> None:
            assert_error(server.client.post("/v2/models/concrete-mlp/infer", json=claim), 422, "has 8 values; 32768")
            path = "/v2/models/digits-segmentation/infer"
            assert_error(server.client.post(path, json=huge), 422, "has 1 values; 9437184")

        assert server.peak_memory_grown_by(ask) < 20_000


class TestAround:
    def test_requests_are_counted_and_logged_as_those_of_predict(self, server: Server, seven: Numbers) -> None:
        def counted() -> float:
            pattern = r'mcdropout_requests_total\{mode="mc",model="mnist-lstm",status="200"\} (\S+)'
            found = re.search(pattern, server.client.get("/metrics").text)
            return 0.0 if found is None else float(found[1])

        before = counted()
        answer = server.client.post("/v2/models/mnist-lstm/infer", json=request_of(seven))
        assert answer.status_code == 200
        assert counted() == before + 1
        (line,) = server.wait_for_log(answer.headers["x-request-id"])
        seen = json.loads(line)
        names = ("path", "model", "mode", "rows", "seed", "passes", "status")
        assert [seen[name] for name in names] == ["/v2/models/mnist-lstm/infer", "mnist-lstm", "mc", 1, 3, 7, 200]

    def test_the_openapi_document_has_the_routes_and_their_answers(self, server: Server, seven: Numbers) -> None:
        document = server.client.get("/openapi.json").json()
        gets = ["/v2", "/v2/health/live", "/v2/health/ready"]
        models = [f"/v2/models/{{name}}{version}" for version in ("", "/versions/{version}")]
        assert {path for path in document["paths"] if path.startswith("/v2")} == {
            *gets,
            *(f"{model}{end}" for model in models for end in ("", "/ready", "/infer")),
        }
        infer = document["paths"]["/v2/models/{name}/infer"]["post"]
        assert {"application/json", "application/octet-stream"} == set(infer["requestBody"]["content"])
        assert {one["name"] for one in infer["parameters"]} >= {"name", "Inference-Header-Content-Length"}
        components = {"components": document["components"]}

        def check(schema: dict[str, Any], content: Any) -> None:
            Draft202012Validator({**schema, **components}).validate(content)

        body = request_of(seven)
        check(infer["requestBody"]["content"]["application/json"]["schema"], body)
        answer = server.client.post(CNN, json=body).json()
        check(infer["responses"]["200"]["content"]["application/json"]["schema"], answer)
        wrong = infer["responses"]["422"]["content"]["application/json"]["schema"]
        check(wrong, server.client.post(CNN, json={}).json())
        description = document["paths"]["/v2/models/{name}"]["get"]["responses"]["200"]["content"]["application/json"]
        check(description["schema"], server.client.get("/v2/models/mnist-cnn").json())


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys, little room for rows, and ports apart."""
    folder = tmp_path_factory.mktemp("models")
    compiled(write_bundle(folder, "small", CLASSIFIER, passes={"default": 50, "maximum": 10000}))
    keys = Path(tmp_path_factory.mktemp("keys")) / "keys.yaml"
    keys.write_text(yaml.safe_dump([{"name": "ward", "sha256": hash_of(SECRET).hex(), "roles": ["predict"]}]))
    limits = {"MAX_QUEUE_ROWS": "8", "MAX_BODY_BYTES": "60000", "MAX_BODIES_BYTES": "50000"}
    limits |= {"MAX_REQUEST_SECONDS": "1e9", "MAX_QUEUE_SECONDS": "1e9"}
    limits = {f"MCDROPOUT_{name}": value for name, value in limits.items()}
    flags = "--keys-file", str(keys), "--no-compile"
    with serving(folder, tmp_path_factory.mktemp("log"), *flags, **limits) as running:
        running.wait_until_ready()
        yield running


class TestDoors:
    KEY: dict[str, str] = {"authorization": f"Bearer {SECRET}"}  # noqa: RUF012

    def test_health_is_for_everybody_and_the_rest_takes_a_key(self, locked: Server) -> None:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert locked.client.get(path).status_code == 200
        for path in ("/v2", "/v2/models/small", "/v2/models/small/ready"):
            assert_error(locked.client.get(path), 401, "no key is shown")
            assert locked.client.get(path, headers=self.KEY).status_code == 200
        body = request_of([[0.1, 0.2, 0.3, 0.4]], "input")
        refused = locked.client.post("/v2/models/small/infer", json=body)
        assert_error(refused, 401, "no key is shown")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert locked.client.post("/v2/models/small/infer", json=body, headers=self.KEY).status_code == 200

    def test_overload_and_bodies_beyond_the_limits_are_refused(self, locked: Server) -> None:
        def ask(rows: int, **more: Any) -> httpx.Response:
            body = request_of(np.zeros((rows, 4), int), "input", **more)
            with httpx.Client(base_url=locked.url, timeout=60) as client:
                return client.post("/v2/models/small/infer", json=body, headers=self.KEY)

        assert_error(ask(1, id="x" * 55_000), 503, "the bodies of requests on their way take")
        assert_error(ask(1, id="x" * 60_000), 413, "the body is larger than 60000 bytes")

        def ask_much() -> httpx.Response:
            """It is let in where nothing waits; a small request may wait at that moment, and then it asks again."""
            while (answer := ask(3000, parameters={"mc": 2500}, outputs=[{"name": "mean"}])).status_code == 503:
                pass
            return answer

        with ThreadPoolExecutor() as pool:
            large = pool.submit(ask_much)
            full = wait_until(lambda: answer if (answer := ask(1)).status_code != 200 else None)
            assert_error(full, 503, "the server is overloaded")
            unread = locked.client.post("/v2/models/small/infer", content=b"{", headers=self.KEY)
            assert_error(unread, 503, "the server is overloaded")
            assert int(full.headers["retry-after"]) >= 1
            assert large.result().status_code == 200


def test_maps_of_a_size_that_differs_are_described_with_minus_one_for_it_and_classes_with_their_number() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 3, 1))
    sizes = {"height": (4, 9), "width": (4, 9)}
    example, shape = torch.randn(3, 1, 6, 8), (1, "height", "width")
    engine = Engine.from_module(module, example, shapes=shape, sizes=sizes, class_axis=1)
    shapes = {name: shape for name, (_, shape) in engine.answers.items()}
    assert (shapes["mean"], shapes["entropy"], shapes["label"]) == ((3, -1, -1), (-1, -1), (-1, -1))
