"""What a client of gRPC may take: connections, and time for a message to come, and to read."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compiled
from tests.patience import patience, wait_until
from tests.servers import free_port, serving

grpc = pytest.importorskip("grpc")

CONNECTIONS = 4
_FAR_LESS_THAN_USUAL = 20.0  # seconds: by itself gRPC would wait for ever
# Of HTTP/2: how a client begins, its settings, and that it has seen the server's.
_BEGINNING = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]) + bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port for gRPC of a server of few connections that gives little time."""
    folder, found = tmp_path_factory.mktemp("models"), free_port()
    compiled(write_bundle(folder, "small", CLASSIFIER))
    limits = {f"MCDROPOUT_{name}_SECONDS": "2" for name in ("HEAD", "BODY", "WRITE")}
    limits["MCDROPOUT_MAX_CONNECTIONS"] = str(CONNECTIONS)
    with serving(folder, tmp_path_factory.mktemp("log"), f"--grpc-port={found}", "--no-compile", **limits) as server:
        server.wait_until_ready()
        wait_until(lambda: is_live(found))
        yield found


def channel_to(port: int) -> Any:
    """A channel that shares its connection with no other."""
    return grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])


def is_live(port: int) -> bool:
    """Whether a client that comes now is answered."""
    with channel_to(port) as channel:
        try:
            return bool(channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=patience(10)))
        except grpc.RpcError:
            return False


def test_one_connection_more_than_there_may_be_is_refused_until_another_ends(port: int) -> None:
    with ExitStack() as stack:
        channels = [stack.enter_context(channel_to(port)) for _ in range(CONNECTIONS)]
        for channel in channels:
            grpc.channel_ready_future(channel).result(patience(10))
        assert not is_live(port)
        channels[0].close()
        wait_until(lambda: is_live(port))


def test_a_client_that_reads_nothing_is_cut_off(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=_FAR_LESS_THAN_USUAL) as client:
        client.sendall(_BEGINNING)
        while client.recv(65536):
            pass  # of pings, which are not answered


def test_a_message_has_the_time_of_a_body(port: int) -> None:
    over = threading.Event()

    def messages() -> Iterator[bytes]:
        over.wait()
        yield b""

    with channel_to(port) as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            with pytest.raises(grpc.RpcError) as caught:
                call(messages(), timeout=_FAR_LESS_THAN_USUAL)
        finally:
            over.set()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caught.value.details() == "the message was not there within 2 s"
