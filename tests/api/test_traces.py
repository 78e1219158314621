"""Traces: what a collector gets of requests, and where they are not traced."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compiled
from tests.patience import patience, wait_until
from tests.servers import MCDROPOUT, Server, free_port, serving

grpc = pytest.importorskip("grpc")
interface = pytest.importorskip("mcdropout.api.oip.grpc.interface")

SERVICE = "inference.GRPCInferenceService"
_SERVER = 2  # of the kinds of spans
BODY = {"inputs": [0.1, 0.2, 0.3, 0.4]}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


_HIDING = """
import sys

class Hidden:
    def find_spec(self, name, *_):
        if name.startswith("opentelemetry.exporter"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
"""


class Collector:
    """Takes spans over HTTP, as OTLP has them."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                for one in sent.resource_spans:
                    collector.services |= {
                        x.value.string_value for x in one.resource.attributes if x.key == "service.name"
                    }
                    collector.spans += [span for scope in one.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, trace: str) -> list[Any]:
        return [span for span in self.spans if span.trace_id.hex() == trace]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    compiled(write_bundle(folder, "small", CLASSIFIER, passes={"default": 50, "maximum": 20_000}))
    return folder


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def rpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def traced(
    models: Path, collector: Collector, rpc_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    settings = {
        "MCDROPOUT_GRPC_PORT": str(rpc_port),
        "MCDROPOUT_TRACES": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_TRACES_SAMPLER": "parentbased_always_on",
    }
    with serving(models, tmp_path_factory.mktemp("log"), "--log-format", "json", **settings) as running:
        running.wait_until_ready()
        yield running


def attributes(span: Any) -> dict[str, Any]:
    return {x.key: x.value.string_value or x.value.int_value or x.value.double_value for x in span.attributes}


@pytest.mark.parametrize("path", ["/models/small/predict", "/models/small/predict/stream"])
def test_a_request_is_part_of_the_trace_that_it_came_with(traced: Server, collector: Collector, path: str) -> None:
    trace = TRACE[:-1] + ("6" if path.endswith("predict") else "7")
    headers = {"traceparent": f"00-{trace}-{PARENT}-01", "x-request-id": trace}
    answer = traced.client.post(f"{path}?mc=10000&seed=3", json=BODY, headers=headers)
    assert answer.status_code == 200
    wait_until(lambda: any(span.name.startswith("POST") for span in collector.of(trace)))
    spans = {span.name: span for span in collector.of(trace)}
    request = spans[f"POST /models/{{name}}{path.removeprefix('/models/small')}"]
    assert request.parent_span_id.hex() == PARENT
    found = attributes(request)
    assert (found["mcdropout.model"], found["mcdropout.passes"], found["mcdropout.seed"]) == ("small", 10000, "3")
    assert (found["http.response.status_code"], found["mcdropout.request_id"]) == (200, trace)
    assert spans["queue"].parent_span_id == spans["compute"].parent_span_id == request.span_id
    steps = [span for span in collector.of(trace) if span.name == "step"]
    assert len(steps) > 1
    assert {step.parent_span_id for step in steps} == {spans["compute"].span_id}
    assert sum(attributes(step)["mcdropout.step.pairs"] for step in steps) <= 10000
    slack = 5_000_000  # ns, between clocks that are read apart
    assert request.start_time_unix_nano - slack <= spans["queue"].start_time_unix_nano
    assert all(spans["compute"].start_time_unix_nano - slack <= step.start_time_unix_nano for step in steps)
    assert all(step.end_time_unix_nano <= request.end_time_unix_nano + slack for step in steps)
    (line,) = traced.wait_for_log(f'"request_id": "{trace}"', '"request"')
    assert f'"trace_id": "{trace}"' in line
    assert collector.services == {"mcdropout"}


def test_what_is_refused_is_traced_too_and_its_status_told(traced: Server, collector: Collector) -> None:
    trace = TRACE[:-1] + "8"
    traced.client.post("/predict?mc=x", json=BODY, headers={"traceparent": f"00-{trace}-{PARENT}-01"})
    wait_until(lambda: collector.of(trace))
    (span,) = collector.of(trace)
    assert (span.name, attributes(span)["http.response.status_code"]) == ("POST /predict", 422)


def test_what_the_caller_does_not_sample_and_how_the_server_is_are_not_traced(
    traced: Server, collector: Collector
) -> None:
    unsampled, after = TRACE[:-1] + "9", TRACE[:-1] + "a"
    traced.client.post("/predict?mc=5", json=BODY, headers={"traceparent": f"00-{unsampled}-{PARENT}-00"})
    traced.client.get("/health/ready", headers={"traceparent": f"00-{unsampled}-{PARENT}-01"})
    traced.client.get(f"/nobody/{'x' * 500}", headers={"traceparent": f"00-{after}-{PARENT}-01"})
    wait_until(lambda: collector.of(after))
    assert [span.name for span in collector.of(after)] == ["GET /"]
    assert collector.of(unsampled) == []


class TestCalls:
    """Over gRPC."""

    def test_are_part_of_the_trace_that_they_came_with(
        self, traced: Server, collector: Collector, rpc_port: int
    ) -> None:
        trace = TRACE[:-1] + "b"
        request = interface.message_class("ModelInferRequest")(model_name="small")
        request.inputs.add(name="input", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend(BODY["inputs"])
        request.parameters["seed"].int64_param = 3
        call(rpc_port, "ModelInfer", request.SerializeToString(), f"00-{trace}-{PARENT}-01")
        wait_until(lambda: any(span.name == f"{SERVICE}/ModelInfer" for span in collector.of(trace)))
        spans = {span.name: span for span in collector.of(trace)}
        span = spans[f"{SERVICE}/ModelInfer"]
        assert (span.parent_span_id.hex(), span.kind, span.status.code) == (PARENT, _SERVER, 0)
        found = attributes(span)
        assert (found["rpc.system"], found["rpc.service"], found["rpc.method"]) == ("grpc", SERVICE, "ModelInfer")
        assert (found["mcdropout.model"], found["mcdropout.passes"], found["mcdropout.seed"]) == ("small", 50, "3")
        assert found["rpc.grpc.status_code"] == 0
        assert spans["queue"].parent_span_id == spans["compute"].parent_span_id == span.span_id
        assert spans["step"].parent_span_id == spans["compute"].span_id
        (line,) = traced.wait_for_log(f'"trace_id": "{trace}"', "ModelInfer")
        assert found["mcdropout.request_id"] in line

    def test_that_are_refused_are_traced_and_those_that_ask_how_the_server_is_are_not(
        self, traced: Server, collector: Collector, rpc_port: int
    ) -> None:
        quiet, trace = TRACE[:-1] + "c", TRACE[:-1] + "d"
        call(rpc_port, "ServerReady", b"", f"00-{quiet}-{PARENT}-01")
        unknown = interface.message_class("ModelMetadataRequest")(name="nobody").SerializeToString()
        with pytest.raises(grpc.RpcError):
            call(rpc_port, "ModelMetadata", unknown, f"00-{trace}-{PARENT}-01")
        wait_until(lambda: collector.of(trace))
        (span,) = collector.of(trace)
        assert span.name == f"{SERVICE}/ModelMetadata"
        assert attributes(span)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
        assert span.status.code == 0  # the client's fault
        assert collector.of(quiet) == []


def call(port: int, method: str, message: bytes, traceparent: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        asked = channel.unary_unary(f"/{SERVICE}/{method}")
        asked(message, timeout=patience(60), metadata=[("traceparent", traceparent)], wait_for_ready=True)


def test_spans_that_nobody_takes_hold_up_no_request(models: Path, tmp_path: Path) -> None:
    settings = {"MCDROPOUT_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with serving(models, tmp_path, **settings, OTEL_EXPORTER_OTLP_TIMEOUT="1") as server:
        server.wait_until_ready()
        assert server.client.post("/predict?mc=5", json=BODY).status_code == 200
        assert server.stop() == 0


def test_without_opentelemetry_it_is_said_what_to_install(models: Path, tmp_path: Path) -> None:
    """Its exporter is hidden."""
    (tmp_path / "sitecustomize.py").write_text(_HIDING)
    ended = subprocess.run(
        [str(MCDROPOUT), "serve", "--models", str(models), "--port", "0"],
        env=os.environ | {"MCDROPOUT_TRACES": "true", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "traces is true, and OpenTelemetry's exporter is not installed" in ended.stderr
