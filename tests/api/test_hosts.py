"""The names by which a server may be called, and the pages whose requests change its models."""

import pytest

from mcdropout.api.hosts import Hosts, is_loopback
from mcdropout.settings import Settings


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "LocalHost", "127.0.0.1:1", "[::1]:8000", "[::1]"])
def test_what_only_this_machine_reaches_is_called_by_its_names(host: str) -> None:
    assert Hosts.of(Settings()).accept(host.encode())


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "", ":8000", "192.168.0.1", "[::2]"],
)
def test_and_by_no_others(host: str) -> None:
    assert not Hosts.of(Settings()).accept(host.encode())
    assert Hosts.of(Settings(host="0.0.0.0")).accept(host.encode())


def test_names_may_be_listed() -> None:
    hosts = Hosts.of(Settings(host="0.0.0.0", allowed_hosts="mc.example.org, *.Example.com,10.0.0.7"))
    assert all(hosts.accept(name) for name in (b"mc.example.org:80", b"a.example.com", b"a.b.example.com", b"10.0.0.7"))
    assert not any(hosts.accept(name) for name in (b"example.org", b"example.com", b"badexample.com", b"localhost"))


@pytest.mark.parametrize(
    ("host", "allowed", "origin", "called", "expected"),
    [
        ("127.0.0.1", "", "http://localhost:8000", "localhost:8000", True),
        ("127.0.0.1", "", "http://127.0.0.1:8000", "localhost:8000", False),
        ("127.0.0.1", "", "http://evil.example", "evil.example", False),
        ("127.0.0.1", "", "null", "localhost", False),
        ("127.0.0.1", "", "http://[", "localhost", False),
        ("0.0.0.0", "", "http://mc.example.org", "mc.example.org", False),
        ("0.0.0.0", "mc.example.org", "http://mc.example.org", "mc.example.org", True),
        ("0.0.0.0", "mc.example.org", "http://evil.example", "evil.example", False),
    ],
)
def test_a_page_is_of_this_server_by_a_name_that_is_known(
    host: str, allowed: str, origin: str, called: str, expected: bool
) -> None:
    assert Hosts.of(Settings(host=host, allowed_hosts=allowed)).accept_page(origin, called) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_what_nobody_else_reaches_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
