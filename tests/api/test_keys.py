"""Keys: who gets in, for what, how often, and what the log and the metrics say of it."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from mcdropout.access import Key, Keyring, KeysError, Role
from mcdropout.access.keys import hash_of, keys_of, new_secret
from mcdropout.access.rates import Rates
from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compiled
from tests.patience import wait_until
from tests.servers import MCDROPOUT, Server, free_port, serving

SECRETS = {name: new_secret() for name in ("ward", "ops", "prometheus", "gone", "slow")}
BODY = {"inputs": [0.1, 0.2, 0.3, 0.4]}


def entry(name: str, *roles: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hash_of(SECRETS[name]).hex(), "roles": list(roles)} | more


ENTRIES = [
    entry("ward", "predict"),
    entry("ops", "admin"),
    entry("prometheus", "metrics"),
    entry("gone", "predict", expires=datetime.now(UTC) - timedelta(minutes=1)),
    entry("slow", "predict", rate=2),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    compiled(write_bundle(folder, "small", CLASSIFIER))
    return folder


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    path.write_text(yaml.safe_dump(ENTRIES))
    return path


@pytest.fixture(scope="module")
def locked(models: Path, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        models, tmp_path_factory.mktemp("log"), "--keys-file", str(keys_file), "--log-format", "json"
    ) as running:
        running.wait_until_ready()
        yield running


def shown(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[name]}"}


def ask(server: Server, headers: dict[str, str], path: str = "/predict?mc=5&seed=1") -> httpx.Response:
    return server.client.post(path, json=BODY, headers=headers)


class TestWhoGetsIn:
    @pytest.mark.parametrize(
        ("headers", "detail"),
        [
            ({}, "no key is shown"),
            ({"authorization": "Bearer mcd_nobodys"}, "the key is not known"),
            ({"authorization": "Bearer"}, "the field Authorization shows no bearer's key"),
            ({"authorization": "Basic d2FyZDp4"}, "the field Authorization shows no bearer's key"),
            ({"authorization": f"Bearer {SECRETS['ward'][:-1]}"}, "the key is not known"),
            ({"authorization": f"Bearer {SECRETS['ward']}x"}, "the key is not known"),
            ({"authorization": f"Bearer {hash_of(SECRETS['ward']).hex()}"}, "the key is not known"),
            (shown("gone"), "the key 'gone' has expired"),
        ],
    )
    def test_without_a_key_that_is_accepted_nothing_is_answered(
        self, locked: Server, headers: dict[str, str], detail: str
    ) -> None:
        for answer in (
            ask(locked, headers),
            locked.client.get("/models", headers=headers),
            locked.client.get("/metrics", headers=headers),
            locked.client.post("/models/small/reload", headers=headers),
            locked.client.get("/nowhere", headers=headers),
        ):
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["detail"].startswith(detail)
            assert answer.json()["request_id"] == answer.headers["x-request-id"]

    @pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/docs", "/openapi.json"])
    def test_probes_and_the_description_take_no_key(self, locked: Server, path: str) -> None:
        assert locked.client.get(path).status_code == 200

    @pytest.mark.parametrize(
        ("name", "allowed"),
        [
            ("ward", {"predict", "models"}),
            ("ops", {"models", "reload", "metrics"}),
            ("prometheus", {"metrics"}),
        ],
    )
    def test_a_key_is_for_its_roles(self, locked: Server, name: str, allowed: set[str]) -> None:
        asked: dict[str, Callable[[], httpx.Response]] = {
            "predict": lambda: ask(locked, shown(name)),
            "models": lambda: locked.client.get("/models/small", headers=shown(name)),
            "reload": lambda: locked.client.post("/models/small/reload", headers=shown(name)),
            "metrics": lambda: locked.client.get("/metrics", headers=shown(name)),
        }
        answers = {what: how() for what, how in asked.items()}
        assert {what for what, answer in answers.items() if answer.status_code == 200} == allowed
        for what in answers.keys() - allowed:
            assert answers[what].status_code == 403
            assert f"the key {name!r} is for" in answers[what].json()["detail"]

    def test_the_scheme_is_written_in_any_case(self, locked: Server) -> None:
        assert ask(locked, {"authorization": f"bearer {SECRETS['ward']}"}).status_code == 200

    def test_a_key_that_asks_too_often_is_told_when_to_come_back(self, locked: Server) -> None:
        answers = [ask(locked, shown("slow")) for _ in range(6)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert answers[0].status_code == 200
        assert refused
        assert "the key 'slow' may make 2 requests a second" in refused[0].json()["detail"]
        assert int(refused[0].headers["retry-after"]) == 1
        assert ask(locked, shown("ward")).status_code == 200

    def test_the_log_line_has_what_the_answer_can_be_replayed_by(self, locked: Server) -> None:
        answer = ask(locked, shown("ward") | {"x-request-id": "replayed"}, "/predict?mc=7")
        (line,) = locked.wait_for_log('"request_id": "replayed"', '"request"')
        logged = yaml.safe_load(line)
        assert (logged["key"], logged["client"], logged["passes"]) == ("ward", "127.0.0.1", 7)
        again = ask(locked, shown("ward"), f"/predict?mc={logged['passes']}&seed={logged['seed']}")
        assert again.json()["predictions"] == answer.json()["predictions"]
        assert SECRETS["ward"] not in locked.log

    def test_what_is_denied_is_counted(self, locked: Server) -> None:
        ask(locked, {})
        metrics = locked.client.get("/metrics", headers=shown("prometheus")).text
        for reason in ("missing", "unknown", "expired", "role", "rate"):
            assert f'mcdropout_requests_denied_total{{reason="{reason}"}}' in metrics


def test_keys_change_under_load_and_no_request_with_a_good_one_fails(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump([entry("ward", "predict")]))
    with serving(models, tmp_path, "--keys-file", str(path)) as server:
        server.wait_until_ready()
        statuses: list[int] = []
        stop = threading.Event()

        def load() -> None:
            with httpx.Client(base_url=server.url) as client:
                while not stop.is_set():
                    statuses.append(client.post("/predict?mc=2", json=BODY, headers=shown("ward")).status_code)

        clients = [threading.Thread(target=load) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            assert ask(server, shown("ops")).status_code == 401
            replace(path, yaml.safe_dump([entry("ward", "predict"), entry("ops", "predict")]))
            wait_until(lambda: ask(server, shown("ops")).status_code == 200)
            replace(path, "- {name: ward, sha256: no hash}")
            server.wait_for_log("keys cannot be read, and stay as they were", "no hash")
            assert ask(server, shown("ops")).status_code == 200
            replace(path, yaml.safe_dump([entry("ward", "predict")]))
            wait_until(lambda: ask(server, shown("ops")).status_code == 401)
        finally:
            stop.set()
            for client in clients:
                client.join()
        assert set(statuses) == {200}


def replace(path: Path, text: str) -> None:
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


class TestAtTheStart:
    def run(self, models: Path, *flags: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(MCDROPOUT), "serve", "--models", str(models), "--port", str(free_port()), *flags],
            env={"PATH": "/usr/bin:/bin", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "some.name"])
    def test_a_server_that_others_reach_wants_keys(self, models: Path, host: str) -> None:
        ended = self.run(models, "--host", host)
        assert ended.returncode == 2
        assert f"error: others reach {host}, and there are no keys" in ended.stderr
        assert "--insecure" in ended.stderr

    @pytest.mark.wide
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("- {name: ward}", "0.sha256"),
            ("- {name: ward, sha256: abc}", "0.sha256 is 'abc'; text that matches"),
            ("- {name: 'a b', sha256: '%s'}" % ("0" * 64), "0.name is 'a b'"),
            ("- {name: a, sha256: '%s', roles: [king]}" % ("0" * 64), "0.roles.0 is 'king'"),
            ("- {name: a, sha256: '%s', rate: 0}" % ("0" * 64), "0.rate is 0; a number greater than 0"),
            ("{name: a}", "a list is accepted"),
            ("[", "cannot be read as YAML"),
        ],
    )
    def test_keys_that_are_none_are_refused(self, models: Path, tmp_path: Path, text: str, said: str) -> None:
        path = tmp_path / "keys.yaml"
        path.write_text(text)
        ended = self.run(models, "--keys-file", str(path))
        assert ended.returncode == 2
        assert f"error: the file {path} of keys" in ended.stderr
        assert said in ended.stderr
        ended = self.run(models, MCDROPOUT_KEYS=text)
        assert ended.returncode == 2
        assert "error: MCDROPOUT_KEYS" in ended.stderr

    def test_a_file_that_is_missing_is_named(self, models: Path) -> None:
        ended = self.run(models, "--keys-file", "/nowhere/keys.yaml")
        assert ended.returncode == 2
        assert "the file /nowhere/keys.yaml of keys is missing" in ended.stderr

    def test_who_asks_for_it_is_let_in_without(self, models: Path, tmp_path: Path) -> None:
        with serving(models, tmp_path, "--host", "0.0.0.0", "--insecure") as server:
            server.wait_until_ready()
            assert ask(server, {}).status_code == 200


def test_a_key_that_is_made_is_accepted_and_is_in_no_file(models: Path, tmp_path: Path) -> None:
    made = subprocess.run(
        [str(MCDROPOUT), "key", "ward", "--role", "predict", "--role", "metrics", "--days", "30", "--share", "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    secret = made.stderr.split()[-1]
    assert secret not in made.stdout
    (key,) = keys_of(yaml.safe_load(made.stdout))
    assert (key.name, key.roles, key.share) == ("ward", {Role.PREDICT, Role.METRICS}, 2.0)
    with serving(models, tmp_path, MCDROPOUT_KEYS=made.stdout) as server:
        server.wait_until_ready()
        assert ask(server, {"authorization": f"Bearer {secret}"}).status_code == 200


class TestKeyring:
    def test_two_keys_have_no_name_and_no_secret_in_common(self) -> None:
        with pytest.raises(KeysError, match="2 keys have the name of 'ward'"):
            keys_of([entry("ward", "predict"), entry("ward", "predict") | {"sha256": "0" * 64}])
        with pytest.raises(KeysError, match="2 keys have the secret of 'ward'"):
            keys_of([entry("ward", "predict"), entry("ward", "predict") | {"name": "other"}])

    def test_a_day_begins_in_utc(self) -> None:
        (key,) = keys_of(yaml.safe_load(yaml.safe_dump([entry("ward", "predict")])[:-1] + "\n  expires: 2027-01-31"))
        assert key.expires == datetime(2027, 1, 31, tzinfo=UTC)
        assert not key.has_expired(datetime(2027, 1, 30, 23, 59, tzinfo=UTC))
        assert key.has_expired(datetime(2027, 1, 31, tzinfo=UTC))

    def test_finding_takes_as_long_for_a_secret_that_is_nearly_right(self) -> None:
        """Of one that is right in nothing and one that is right but for its end, neither is the slower in most rounds:
        by chance it would be in 59 of 64 once in 10 ** 12 runs."""
        secrets = [new_secret() for _ in range(200)]
        entries = [{"name": f"k{i}", "sha256": hash_of(secret).hex()} for i, secret in enumerate(secrets)]
        keyring = Keyring(text=yaml.safe_dump(entries))

        def seconds(secret: str) -> float:
            began = time.perf_counter()
            for _ in range(5):
                assert keyring.find(secret) is None
            return time.perf_counter() - began

        slower = sum(seconds(secrets[0][:-1]) > seconds("nothing") for _ in range(64))
        assert 5 <= slower <= 59

    def test_all_are_looked_at_wherever_the_right_one_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compared: list[bytes] = []
        monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append(a) or a == b)
        keyring = Keyring(text=yaml.safe_dump([entry("ward", "predict"), entry("ops", "admin")]))
        for name in ("ward", "ops"):
            found = keyring.find(SECRETS[name])
            assert isinstance(found, Key)
            assert found.name == name
        assert len(compared) == 4


class TestRates:
    def test_as_many_are_allowed_as_a_key_may_make(self) -> None:
        rates = Rates()
        now, allowed = 0.0, 0
        while now < 10.0:
            allowed += rates.wait("ward", 5.0, now) == 0.0
            now += 0.01
        assert allowed == pytest.approx(55, abs=2)

    def test_the_wait_that_is_told_is_long_enough_and_no_longer(self) -> None:
        rates = Rates()
        assert rates.wait("ward", 0.5, 0.0) == 0.0
        wait = rates.wait("ward", 0.5, 0.0)
        assert wait == pytest.approx(2.0)
        assert rates.wait("ward", 0.5, wait * 0.99) > 0.0
        assert rates.wait("ward", 0.5, wait) == 0.0

    def test_several_processes_allow_as_many_together(self) -> None:
        processes = [Rates(4) for _ in range(4)]
        allowed = sum(rates.wait("ward", 40.0, n * 0.01) == 0.0 for n in range(1000) for rates in processes)
        assert allowed == pytest.approx(440, abs=10)
