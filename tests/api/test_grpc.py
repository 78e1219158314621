"""The Open Inference Protocol over gRPC: the answers, the checks and the doors that HTTP has."""

import json
import os
import re
import signal
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import trustme
import yaml

from mcdropout.access.keys import hash_of, new_secret
from tests.api.inference import ZOO, assert_same, by_predict, example_of
from tests.bundles import CLASSIFIER, TOKEN_FIELDS, TOKENS, write_bundle
from tests.compilations import compiled
from tests.conftest import MODELS
from tests.patience import patience, wait_until
from tests.servers import Server, free_port, serving

grpc = pytest.importorskip("grpc")
health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
health_pb2_grpc = pytest.importorskip("grpc_health.v1.health_pb2_grpc")
interface = pytest.importorskip("mcdropout.api.oip.grpc.interface")

SECRETS = {name: new_secret() for name in ("ward", "prometheus", "slow")}
KEYS = [
    {"name": "ward", "sha256": hash_of(SECRETS["ward"]).hex(), "roles": ["predict"]},
    {"name": "prometheus", "sha256": hash_of(SECRETS["prometheus"]).hex(), "roles": ["metrics"]},
    {"name": "slow", "sha256": hash_of(SECRETS["slow"]).hex(), "roles": ["predict"], "rate": 0.01},
]
ROW = [[0.1, 0.2, 0.3, 0.4]]
_INFER = "ModelInfer"


class Rpc:
    """Calls of the service, by messages that are made of the published numbers."""

    def __init__(self, port: int, credentials: Any = None) -> None:
        address = f"localhost:{port}" if credentials else f"127.0.0.1:{port}"
        options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]
        self.channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        )

    def __call__(self, name: str, request: Any = None, key: str | None = None, **more: Any) -> Any:
        message = interface.message_class(f"{name}Request")() if request is None else request
        call = self.channel.unary_unary(
            f"/{interface.SERVICE}/{name}",
            request_serializer=lambda given: given if isinstance(given, bytes) else given.SerializeToString(),
            response_deserializer=interface.message_class(f"{name}Response").FromString,
        )
        if key is not None:
            more["metadata"] = [*more.get("metadata", ()), ("authorization", f"Bearer {key}")]
        return call(message, timeout=patience(60), **more) if "timeout" not in more else call(message, **more)

    def health(self, service: str = "") -> str:
        found = health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(service=service))
        name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(found.status)
        return name

    def close(self) -> None:
        self.channel.close()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, int]]:
    """A server of the repository's bundles, and its port for gRPC."""
    port = free_port()
    flags = "--default", "mnist-cnn", "--log-format", "json", "--grpc-port", str(port)
    patient = {"MCDROPOUT_MAX_REQUEST_SECONDS": "1e9", "MCDROPOUT_MAX_QUEUE_SECONDS": "1e9"}
    with serving(MODELS, tmp_path_factory.mktemp("log"), *flags, **patient) as running:
        running.wait_until_ready()
        yield running, port


@pytest.fixture(scope="module")
def rpc(zoo: tuple[Server, int]) -> Iterator[Rpc]:
    calls = Rpc(zoo[1])
    yield calls
    calls.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    compiled(write_bundle(folder, "small", CLASSIFIER, passes={"default": 50, "maximum": 10000}))
    compiled(write_bundle(folder, "tokens", TOKENS, **TOKEN_FIELDS))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    certificate, client = authority.issue_cert("localhost", "127.0.0.1"), authority.issue_cert("client.example")
    paths = {name: folder / f"{name}.pem" for name in ("certificate", "key", "authority", "client", "client_key")}
    certificate.cert_chain_pems[0].write_to_path(str(paths["certificate"]))
    certificate.private_key_pem.write_to_path(str(paths["key"]))
    authority.cert_pem.write_to_path(str(paths["authority"]))
    client.cert_chain_pems[0].write_to_path(str(paths["client"]))
    client.private_key_pem.write_to_path(str(paths["client_key"]))
    return paths


@pytest.fixture(scope="module")
def locked(
    small: Path, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Rpc]]:
    """A server with keys, TLS and a backlog of few rows."""
    port = free_port()
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text(yaml.safe_dump(KEYS))
    flags = [f"--tls-{name}={files[name]}" for name in ("certificate", "key")]
    flags += [f"--keys-file={keys}", f"--grpc-port={port}", "--no-compile", "--default=small", "--log-format=json"]
    limits = {"QUEUE_ROWS": "8", "REQUEST_SECONDS": "1e9", "QUEUE_SECONDS": "1e9"}
    limits = {f"MCDROPOUT_MAX_{name}": value for name, value in limits.items()}
    with serving(small, tmp_path_factory.mktemp("log"), *flags, **limits) as running:
        running.speak_tls(ssl.create_default_context(cafile=files["authority"]))
        running.wait_until_ready()
        calls = Rpc(port, grpc.ssl_channel_credentials(files["authority"].read_bytes()))
        yield running, calls
        calls.close()


def request_of(
    values: Any,
    model: str = "small",
    name: str = "input",
    datatype: str = "FP32",
    dtype: Any = "<f4",
    **parameters: Any,
) -> Any:
    """A request with one tensor, as it lies in memory."""
    array = np.asarray(values, dtype)
    request = interface.message_class("ModelInferRequest")(model_name=model, id="q7")
    request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    request.raw_input_contents.append(array.tobytes())
    return with_parameters(request, **{"mc": 7, "seed": 3, **parameters})


def with_parameters(request: Any, **parameters: Any) -> Any:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for key, value in parameters.items():
        setattr(request.parameters[key], kinds[type(value)], value)
    return request


def typed(datatype: str, field: str, values: Any, shape: Any = (1, 8)) -> Any:
    """A request of concrete-mlp whose values are in a field of the contents."""
    request = interface.message_class("ModelInferRequest")(model_name="concrete-mlp")
    tensor = request.inputs.add(name="mixture", datatype=datatype, shape=shape)
    getattr(tensor.contents, field).extend(values)
    return with_parameters(request, mc=7, seed=3)


def tensors_of(response: Any) -> dict[str, npt.NDArray[Any]]:
    kinds = {"BOOL": "?", "FP64": "<f8", "INT64": "<i8"}
    found: dict[str, npt.NDArray[Any]] = {}
    for output, content in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.datatype == "BYTES":
            texts, at = [], 0
            while at < len(content):
                size = int.from_bytes(content[at : at + 4], "little")
                texts.append(content[at + 4 : at + 4 + size].decode())
                at += 4 + size
            values = np.asarray(texts, object)
        else:
            values = np.frombuffer(content, kinds[output.datatype])
        found[output.name] = values.reshape(list(output.shape))
    return found


def refused(call: Any) -> tuple[str, str, dict[str, str]]:
    """The code, the sentence and the metadata of a call that is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    metadata = dict(caught.value.trailing_metadata() or ())
    return caught.value.code().name, caught.value.details(), metadata


class TestMessages:
    def test_have_the_names_numbers_and_types_that_tritons_client_has(self) -> None:
        service = pytest.importorskip("tritonclient.grpc").service_pb2
        for name in interface.MESSAGES:
            ours = interface.message_class(name.split(".")[0]).DESCRIPTOR
            theirs = service.DESCRIPTOR.message_types_by_name[name.split(".")[0]]
            for inner in name.split(".")[1:]:
                ours, theirs = ours.nested_types_by_name[inner], theirs.nested_types_by_name[inner]
            published = {one.name: _field(one) for one in theirs.fields}
            for field in ours.fields:
                known = _field(field)
                assert known == published[field.name]
        assert service.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name == interface.SERVICE

    def test_of_tritons_client_are_read_as_they_were_meant(self) -> None:
        service = pytest.importorskip("tritonclient.grpc").service_pb2
        request = service.ModelInferRequest(model_name="m", id="i", raw_input_contents=[b"\0" * 8])
        request.inputs.add(name="x", datatype="FP64", shape=[1])
        request.parameters["seed"].uint64_param = 2**64 - 1
        read = interface.message_class("ModelInferRequest").FromString(request.SerializeToString())
        assert str(read) == str(request)


def _field(field: Any) -> tuple[Any, ...]:
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    kind = None if field.message_type is None or is_map else field.message_type.full_name
    oneof = None if field.containing_oneof is None else field.containing_oneof.name
    return field.name, field.number, field.type, field.is_repeated, is_map, kind, oneof


class TestAnswers:
    @pytest.mark.wide
    @pytest.mark.parametrize("model", ZOO)
    def test_are_those_of_predict_for_the_same_seed(self, zoo: tuple[Server, int], rpc: Rpc, model: str) -> None:
        name, datatype, values = example_of(zoo[0], model)
        found = rpc(_INFER, request_of(values, model, name, datatype, values.dtype))
        assert_same(tensors_of(found), by_predict(zoo[0], model, values))
        assert (found.model_name, found.model_version, found.id) == (model, "1", "q7")
        assert {key: value.int64_param for key, value in found.parameters.items()} == {"mc": 7, "seed": 3}

    @pytest.mark.parametrize("model", ZOO)
    def test_to_tritons_client_are_the_same(self, zoo: tuple[Server, int], model: str) -> None:
        triton = pytest.importorskip("tritonclient.grpc")
        name, datatype, values = example_of(zoo[0], model)
        tensor = triton.InferInput(name, values.shape, datatype)
        tensor.set_data_from_numpy(values)
        with triton.InferenceServerClient(f"127.0.0.1:{zoo[1]}") as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready(model)
            described = client.get_model_metadata(model)
            found = client.infer(model, [tensor], parameters={"mc": 7, "seed": 3})
        tensors = {one.name: found.as_numpy(one.name) for one in described.outputs}
        assert_same(tensors, by_predict(zoo[0], model, values))

    def test_to_typed_contents_are_those_to_the_same_numbers(self, zoo: tuple[Server, int], rpc: Rpc) -> None:
        numbers = [540, 0, 3, 162, 2, 104, 67, 28]
        expected = by_predict(zoo[0], "concrete-mlp", [numbers])
        for datatype, field in (
            *((f"INT{bits}", "int_contents" if bits < 64 else "int64_contents") for bits in (16, 32, 64)),
            *((f"UINT{bits}", "uint_contents" if bits < 64 else "uint64_contents") for bits in (16, 32, 64)),
            ("FP32", "fp32_contents"),
            ("FP64", "fp64_contents"),
        ):
            assert_same(tensors_of(rpc(_INFER, typed(datatype, field, numbers))), expected)
        many = rpc(_INFER, typed("FP32", "fp32_contents", numbers * 3000, (3000, 8)))
        assert tensors_of(many)["mean"][0] == pytest.approx(expected[0]["mean"])

    def test_hold_the_outputs_and_heed_the_parameters_that_are_asked_for(
        self, zoo: tuple[Server, int], rpc: Rpc, seven: npt.NDArray[np.float64]
    ) -> None:
        request = request_of(seven, "mnist-cnn", "image", mc="auto", tolerance=0.05)
        for name in ("label", "passes"):
            request.outputs.add(name=name)
        found = rpc(_INFER, request)
        assert [one.name for one in found.outputs] == ["label", "passes"]
        assert found.parameters["mc"].string_param == "auto"
        assert found.parameters["tolerance"].double_param == 0.05
        large = request_of(seven, "mnist-cnn", "image")
        large.parameters["seed"].uint64_param = 2**64 - 1
        assert rpc(_INFER, large).parameters["seed"].uint64_param == 2**64 - 1
        sampled = tensors_of(rpc(_INFER, request_of(seven, "mnist-cnn", "image", samples=True, fields="mean")))
        assert sampled["samples"].shape == (1, 7, 10)

    def test_describe_the_server_and_its_models_as_http_does(self, zoo: tuple[Server, int], rpc: Rpc) -> None:
        assert rpc("ServerLive").live
        assert rpc("ServerReady").ready
        about = zoo[0].client.get("/v2").json()
        server = rpc("ServerMetadata")
        assert (server.name, server.version, list(server.extensions)) == tuple(about.values())
        model = rpc("ModelMetadata", interface.message_class("ModelMetadataRequest")(name="sentiment-cnn", version="1"))
        described = zoo[0].client.get("/v2/models/sentiment-cnn").json()
        assert (model.name, list(model.versions), model.platform) == (
            *(described["name"], described["versions"], described["platform"]),
        )
        for kind in ("inputs", "outputs"):
            found = [(one.name, one.datatype, list(one.shape)) for one in getattr(model, kind)]
            assert found == [(one["name"], one["datatype"], one["shape"]) for one in described[kind]]
        ready = interface.message_class("ModelReadyRequest")
        assert rpc("ModelReady", ready(name="mnist-cnn")).ready
        assert refused(lambda: rpc("ModelReady", ready(name="mnist-cnn", version="9")))[0] == "NOT_FOUND"

    def test_are_logged_and_counted_as_those_of_http(
        self, zoo: tuple[Server, int], rpc: Rpc, seven: npt.NDArray[np.float64]
    ) -> None:
        rpc(_INFER, request_of(seven, "mnist-vit", "image"), metadata=[("x-request-id", "grpc-1")])
        (line,) = zoo[0].wait_for_log('"request_id": "grpc-1"')
        seen = json.loads(line)
        names = ("path", "model", "mode", "rows", "seed", "passes", "status", "client")
        path = "/inference.GRPCInferenceService/ModelInfer"
        assert [seen[name] for name in names] == [path, "mnist-vit", "mc", 1, 3, 7, 200, "127.0.0.1"]
        pattern = r'mcdropout_requests_total\{mode="mc",model="mnist-vit",status="200"\} (\S+)'
        assert re.search(pattern, zoo[0].client.get("/metrics").text)

    def test_health_checks_of_grpc_say_whether_the_models_may_serve(self, rpc: Rpc) -> None:
        assert rpc.health() == rpc.health(interface.SERVICE) == "SERVING"
        assert refused(lambda: rpc.health("nope"))[0] == "NOT_FOUND"


def changed(change: Any) -> Any:
    request = request_of([[1.0] * 8], "concrete-mlp", "mixture")
    change(request)
    return request


BAD: list[tuple[Any, str, str]] = [
    (b"\xff" * 20, "INVALID_ARGUMENT", "the message is no ModelInferRequest"),
    (b"\x0a\x05abc", "INVALID_ARGUMENT", "the message is no ModelInferRequest"),
    (b"\x2a\x00" * 20_000, "INVALID_ARGUMENT", "the message has more than 10000 fields"),
    (changed(lambda r: setattr(r, "model_name", "nope")), "NOT_FOUND", "there is no model 'nope'; one of"),
    (changed(lambda r: setattr(r, "model_version", "9")), "NOT_FOUND", "has no version '9'; '1' is what it has"),
    (changed(lambda r: r.inputs.pop()), "INVALID_ARGUMENT", "raw_input_contents has 1 entries and inputs 0"),
    (changed(lambda r: r.raw_input_contents.append(b"")), "INVALID_ARGUMENT", "has 2 entries and inputs 1"),
    (changed(lambda r: setattr(r.inputs[0], "name", "x")), "INVALID_ARGUMENT", "one for each of ['mixture'] is"),
    (changed(lambda r: setattr(r.inputs[0], "datatype", "FP8")), "INVALID_ARGUMENT", "has the datatype 'FP8'; one of"),
    (changed(lambda r: setattr(r.inputs[0], "datatype", "FP64")), "INVALID_ARGUMENT", "32 bytes of values; 64, for"),
    (changed(lambda r: r.inputs[0].shape.append(2)), "INVALID_ARGUMENT", "has the shape [1, 8, 2]; [8] for one row"),
    (
        changed(lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "x")),
        *("INVALID_ARGUMENT", "inputs.mixture has the parameter 'shared_memory_region'; none is accepted"),
    ),
    (changed(lambda r: r.inputs[0].contents.fp32_contents.append(1)), "INVALID_ARGUMENT", "beside raw_input_contents"),
    (changed(lambda r: r.parameters["mc"].Clear()), "INVALID_ARGUMENT", "parameters.mc has no value; text"),
    (
        changed(lambda r: with_parameters(r, mc=-1)),
        "INVALID_ARGUMENT",
        "mc is '-1'; a whole number from 0 on, or auto, is accepted",
    ),
    (changed(lambda r: with_parameters(r, passes=1)), "INVALID_ARGUMENT", "unknown parameter 'passes'; mc, tolerance"),
    (changed(lambda r: r.outputs.add(name="median")), "INVALID_ARGUMENT", "outputs names 'median'; each of mean"),
    (typed("FP32", "fp64_contents", [1.0] * 8), "INVALID_ARGUMENT", "has fp64_contents; for FP32 fp32_contents is"),
    (typed("FP32", "bytes_contents", [b"1"] * 8), "INVALID_ARGUMENT", "has bytes_contents; for FP32 fp32_contents is"),
    (typed("FP16", "fp32_contents", [1.0] * 8), "INVALID_ARGUMENT", "for FP16 raw_input_contents are accepted"),
    (typed("FP32", "fp32_contents", [1.0] * 7), "INVALID_ARGUMENT", "has 7 values; 8, for the shape [1, 8]"),
    (typed("INT8", "int_contents", [300] * 8), "INVALID_ARGUMENT", "holds values from 300 to 300; -128 to 127"),
    (typed("FP32", "fp32_contents", [float("nan")] * 8), "INVALID_ARGUMENT", "holds NaN; finite numbers are"),
    (typed("FP32", "fp32_contents", [-1.0] * 8), "INVALID_ARGUMENT", "holds values from -1 to -1; at least 0 is"),
    (changed(lambda r: with_parameters(r, deadline_ms=0.0001)), "DEADLINE_EXCEEDED", "a later deadline_ms is accepted"),
    (request_of(np.zeros((300_000, 30)), "tumour-mlp", "nuclei"), "RESOURCE_EXHAUSTED", "larger than max"),
]


class TestErrors:
    @pytest.mark.parametrize(("request_", "code", "words"), BAD, ids=[words[:50] for *_, words in BAD])
    def test_name_what_came_and_what_is_accepted(self, rpc: Rpc, request_: Any, code: str, words: str) -> None:
        found, details, _ = refused(lambda: rpc(_INFER, request_))
        assert found == code
        assert words in details

    def test_carry_the_id_of_the_call(self, rpc: Rpc) -> None:
        _, _, metadata = refused(lambda: rpc(_INFER, BAD[3][0], metadata=[("x-request-id", "mine-1")]))
        assert metadata["x-request-id"] == "mine-1"

    def test_compressed_messages_are_refused_unread(self, rpc: Rpc, seven: npt.NDArray[np.float64]) -> None:
        request = request_of(seven, "mnist-cnn", "image")
        code, details, _ = refused(lambda: rpc(_INFER, request, compression=grpc.Compression.Gzip))
        assert (code, details) == ("UNIMPLEMENTED", "Compression algorithm 'gzip' is disabled.")

    def test_methods_that_there_are_not_are_unimplemented(self, zoo: tuple[Server, int], rpc: Rpc) -> None:
        call = rpc.channel.unary_unary(f"/{interface.SERVICE}/ModelStreamInfer")
        assert refused(lambda: call(b""))[0] == "UNIMPLEMENTED"

    @pytest.mark.parametrize("how", ["deadline", "cancelled"])
    def test_nobody_computes_for_a_client_that_waits_no_more(
        self, zoo: tuple[Server, int], rpc: Rpc, seven: npt.NDArray[np.float64], how: str
    ) -> None:
        request = request_of(seven.repeat(400, axis=0), "mnist-resnet", "image", mc=10000)
        call = rpc.channel.unary_unary(f"/{interface.SERVICE}/{_INFER}")
        name = f"gone-{how}"
        future = call.future(
            request.SerializeToString(),
            timeout=patience(1.0) if how == "deadline" else None,
            metadata=[("x-request-id", name)],
        )
        if how == "cancelled":
            wait_until(lambda: waiting_rows(zoo[0]) == 400)
            future.cancel()
        else:
            assert refused(future.result)[0] == "DEADLINE_EXCEEDED"
        (line,) = zoo[0].wait_for_log(f'"request_id": "{name}"')
        assert json.loads(line)["status"] == 499
        wait_until(lambda: waiting_rows(zoo[0]) == 0)


def waiting_rows(server: Server) -> float:
    """How many rows are under way, by the metrics."""
    found = re.findall(r"^mcdropout_queue_rows(?:\{.*\})? (\S+)$", server.client.get("/metrics").text, re.M)
    return sum(map(float, found))


class TestDoors:
    def test_calls_take_a_key_and_health_none(self, locked: tuple[Server, Rpc]) -> None:
        _, rpc = locked
        assert rpc("ServerLive").live
        assert rpc("ServerReady").ready
        wait_until(lambda: rpc.health() == "SERVING")
        code, details, _ = refused(lambda: rpc(_INFER, request_of(ROW)))
        assert code == "UNAUTHENTICATED"
        assert details.startswith("no key is shown; Authorization: Bearer KEY is accepted")
        for name in ("ServerMetadata", "ModelMetadata", "ModelReady"):
            assert refused(lambda name=name: rpc(name))[0] == "UNAUTHENTICATED"  # type: ignore[misc]
        assert refused(lambda: rpc(_INFER, request_of(ROW), key="mcd_nobodys"))[0] == "UNAUTHENTICATED"
        code, details, _ = refused(lambda: rpc(_INFER, request_of(ROW), key=SECRETS["prometheus"]))
        assert code == "PERMISSION_DENIED"
        assert details == "the key 'prometheus' is for metrics; one for predict is accepted"
        assert rpc("ServerMetadata", key=SECRETS["ward"]).name == "mcdropout"

    def test_who_shows_no_key_sends_no_large_message(self, locked: tuple[Server, Rpc]) -> None:
        server, rpc = locked
        large = request_of(np.zeros((1_900_000, 4)))  # 30 MB, of which a window or two of the connection comes

        def ask() -> None:
            for _ in range(3):
                assert refused(lambda: rpc(_INFER, large))[0] == "UNAUTHENTICATED"

        assert server.peak_memory_grown_by(ask) < 20_000  # KiB

    def test_answers_are_those_over_https(self, locked: tuple[Server, Rpc]) -> None:
        server, rpc = locked
        sent = server.client.post(
            "/models/small/predict?mc=7&seed=3",
            json={"inputs": np.asarray(ROW, np.float32).tolist()},
            headers={"authorization": f"Bearer {SECRETS['ward']}"},
        )
        found = rpc(_INFER, request_of(ROW), key=SECRETS["ward"])
        assert_same(tensors_of(found), sent.json()["predictions"])
        (line, *_) = server.wait_for_log('"key": "ward"', "ModelInfer", '"status": 200')
        assert json.loads(line)["model"] == "small"

    def test_several_inputs_come_by_their_names(self, locked: tuple[Server, Rpc]) -> None:
        server, rpc = locked
        ids, masks = [[1, 2, 3, 4, 5]], [[True, True, True, False, False]]
        request = interface.message_class("ModelInferRequest")(model_name="tokens")
        request.inputs.add(name="attention_mask", datatype="BOOL", shape=[1, 5]).contents.bool_contents.extend(masks[0])
        request.inputs.add(name="input_ids", datatype="INT64", shape=[1, 5]).contents.int64_contents.extend(ids[0])
        found = rpc(_INFER, with_parameters(request, mc=7, seed=3), key=SECRETS["ward"])
        sent = server.client.post(
            "/models/tokens/predict?mc=7&seed=3",
            json={"inputs": {"input_ids": ids, "attention_mask": masks}},
            headers={"authorization": f"Bearer {SECRETS['ward']}"},
        )
        assert_same(tensors_of(found), sent.json()["predictions"])
        tokenized = interface.message_class("ModelInferRequest")(model_name="tokens")
        mask = tokenized.inputs.add(name="attention_mask", datatype="INT64", shape=[1, 5])
        mask.contents.int64_contents.extend(map(int, masks[0]))
        tokenized.inputs.append(request.inputs[1])
        found = rpc(_INFER, with_parameters(tokenized, mc=7, seed=3), key=SECRETS["ward"])
        assert_same(tensors_of(found), sent.json()["predictions"])

    def test_a_key_of_few_requests_is_told_when_to_come_again(self, locked: tuple[Server, Rpc]) -> None:
        _, rpc = locked
        rpc(_INFER, request_of(ROW), key=SECRETS["slow"])
        code, details, metadata = refused(lambda: rpc(_INFER, request_of(ROW), key=SECRETS["slow"]))
        assert code == "RESOURCE_EXHAUSTED"
        assert "may make 0.01 requests a second" in details
        assert int(metadata["grpc-retry-pushback-ms"]) == 1000 * int(metadata["retry-after"]) > 1000

    def test_overload_is_unavailable_with_when_to_try_again(self, locked: tuple[Server, Rpc]) -> None:
        _, rpc = locked
        large = request_of(np.zeros((4000, 4)), mc=2000)
        large.outputs.add(name="mean")

        def ask_much() -> Any:
            """It is let in where nothing waits; a small request may wait at that moment, and then it asks again."""
            while True:
                try:
                    return rpc(_INFER, large, SECRETS["ward"])
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise

        with ThreadPoolExecutor() as pool:
            answer = pool.submit(ask_much)
            found = wait_until(lambda: _refusal(rpc))
            assert found.code() is grpc.StatusCode.UNAVAILABLE
            assert "the server is overloaded" in found.details()
            assert int(dict(found.trailing_metadata())["retry-after"]) >= 1
            assert len(answer.result().outputs) == 1

    def test_without_tls_nothing_is_answered_at_the_port_of_one_with_it(
        self, locked: tuple[Server, Rpc], files: dict[str, Path]
    ) -> None:
        server, _ = locked
        port = int(re.findall(r'"address": "127.0.0.1:(\d+)"', server.log)[0])
        plain = Rpc(port)
        assert refused(lambda: plain("ServerLive", timeout=patience(5)))[0] in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        plain.close()


def _refusal(rpc: Rpc) -> Any:
    try:
        rpc(_INFER, request_of(ROW), key=SECRETS["ward"])
    except grpc.RpcError as error:
        return error
    return None


class TestServing:
    def test_clients_show_a_certificate_where_they_must(
        self, small: Path, files: dict[str, Path], tmp_path: Path
    ) -> None:
        port = free_port()
        named = {"certificate": "certificate", "key": "key", "client-ca": "authority"}
        flags = [f"--tls-{name}={files[file]}" for name, file in named.items()]
        authority = files["authority"].read_bytes()
        with serving(small, tmp_path, *flags, f"--grpc-port={port}", "--no-compile", "--default=small") as server:
            server.wait_for_log("listening", str(port))
            own = [files[name].read_bytes() for name in ("authority", "client_key", "client")]
            known = Rpc(port, grpc.ssl_channel_credentials(*own))
            stranger = Rpc(port, grpc.ssl_channel_credentials(authority))
            assert known("ServerLive", wait_for_ready=True).live
            assert refused(lambda: stranger("ServerLive"))[0] == "UNAVAILABLE"
            known.close()
            stranger.close()

    @pytest.mark.parametrize("workers", [1, 2])
    def test_what_is_in_flight_is_answered_when_the_server_stops(
        self, small: Path, tmp_path: Path, workers: int
    ) -> None:
        port = free_port()
        flags = f"--grpc-port={port}", f"--workers={workers}", "--no-compile", "--default=small"
        costly = {"MCDROPOUT_MAX_REQUEST_SECONDS": "1e9", "MCDROPOUT_MAX_QUEUE_SECONDS": "1e9"}
        with serving(small, tmp_path, *flags, **costly) as server, ThreadPoolExecutor() as pool:
            server.wait_for_log("listening", f"127.0.0.1:{port}", lines=workers)
            rpc = Rpc(port)
            rpc("ServerLive", wait_for_ready=True)
            request = request_of(np.zeros((4000, 4)), mc=4000)  # which takes longer than idle connections are given
            request.outputs.add(name="passes")
            answer = pool.submit(rpc, _INFER, request)
            server.wait_until_ready()
            wait_until(lambda: waiting_rows(server) == 4000)
            wait_until(lambda: rpc.health() == "SERVING")
            watch = health_pb2_grpc.HealthStub(rpc.channel).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            server.process.send_signal(signal.SIGTERM)
            assert [one.status for one in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
            ended = wait_until(lambda: _refusal(rpc))
            assert ended.code() is grpc.StatusCode.UNAVAILABLE
            assert tensors_of(answer.result())["passes"].sum() == 16_000_000
            assert server.wait() == 0
            rpc.close()

    @pytest.mark.parametrize("workers", [1, 2])
    def test_a_port_that_is_in_use_is_not_shared(self, small: Path, tmp_path: Path, workers: int) -> None:
        port = free_port()
        with serving(small, tmp_path, f"--grpc-port={port}", "--no-compile", "--default=small") as first:
            first.wait_for_log("listening", f"127.0.0.1:{port}")
            flags = f"--grpc-port={port}", "--no-compile", "--default=small", f"--workers={workers}"
            with serving(small, tmp_path, *flags) as second:
                assert second.wait() == 1
                assert "cannot listen" in second.log
                assert str(port) in second.log


def test_a_port_for_grpc_is_one_of_its_own(small: Path, tmp_path: Path) -> None:
    port = free_port()
    with serving(small, tmp_path, f"--admin-port={port}", f"--grpc-port={port}") as server:
        assert server.wait() == 2
        assert "port, admin_port, metrics_port and grpc_port are" in server.log


def test_without_grpcio_a_port_for_it_is_refused_with_what_to_install(small: Path, tmp_path: Path) -> None:
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    (lacking / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'grpc_health' else found(name, *rest)\n"
    )
    path = os.pathsep.join([str(lacking), os.environ.get("PYTHONPATH", "")])
    with serving(small, tmp_path, "--grpc-port=50051", PYTHONPATH=path) as server:
        assert server.wait() == 2
        assert "grpc_port is 50051, and grpc_health cannot be imported; pip install 'mcdropout[grpc]'" in server.log
