"""Prometheus itself, on the files under which it is deployed and on the real service.

It takes Debian's package `prometheus`; without, most of these tests are skipped.
"""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.bundles import NOISE, REGRESSION, write_bundle, write_ten_words
from tests.compilations import compiled
from tests.patience import Limit, patience
from tests.servers import ROOT, Server, free_port, serving

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = [
    rule
    for file in ("records.yml", "alerts.yml")
    for group in yaml.safe_load((PROMETHEUS / file).read_text())["groups"]
    for rule in group["rules"]
]
UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "mcdropout.json").read_text())
AUTOSCALER = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "base" / "horizontalpodautoscaler.yaml").read_text())
_START_SECONDS, _SEEN_SECONDS = 60.0, 90.0  # until Prometheus answers; and until it has seen all that happens
_PAUSE_SECONDS = 0.02  # of a client between two requests, or refusals would be most of what there is
# What the load below makes happen.
HAPPENING = [
    "McdropoutRequestsFail",
    "McdropoutDeadlinesAreMissed",
    "McdropoutRequestsAreRefused",
    "McdropoutQueueFillsUp",
    "McdropoutUncertaintyDrifts",
]
ROW, ROW_THAT_FAILS = [1, 2, 3, 4], [1, 2, 3, 10]  # there is no embedding of that number
# Every kind of request, and of end that it has: query, rows, and how long the client waits, in seconds.
REQUESTS: list[tuple[dict[str, Any], list[list[int]], float]] = [
    *[({"mc": 0}, [ROW], 10.0)] * 5,
    ({}, [ROW] * 90, 10.0),
    ({"mc": "auto"}, [ROW], 10.0),
    ({"mc": 20}, [ROW_THAT_FAILS], 10.0),
    *[({"mc": 20, "deadline_ms": 0.01}, [ROW], 10.0)] * 3,
    ({"mc": 1_000_000, "deadline_ms": 700}, [ROW] * 20, 10.0),  # longer than the objective
    ({"mc": 1_000_000}, [ROW] * 150, 0.7),  # the client goes away
]
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="there is no Prometheus; Debian's package `prometheus` has it",
)


def promtool(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, timeout=patience(60))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_prometheus
def test_promtool_finds_nothing_wrong() -> None:
    promtool("check", "config", "--lint-fatal", str(PROMETHEUS / "prometheus.yml"))
    promtool("check", "rules", "--lint-fatal", str(PROMETHEUS / "records.yml"), str(PROMETHEUS / "alerts.yml"))


@needs_prometheus
def test_the_rules_do_what_their_unit_tests_say() -> None:
    assert promtool("test", "rules", *map(str, UNIT_TESTS)).count("SUCCESS") == len(UNIT_TESTS)


def test_of_each_alert_a_unit_test_tells_when_it_comes_and_when_it_does_not() -> None:
    cases = [
        case
        for file in UNIT_TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
    ]
    come = {case["alertname"] for case in cases if case.get("exp_alerts")}
    do_not_come = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    alerts = {rule["alert"]: rule for rule in RULES if "alert" in rule}
    assert come == set(alerts)
    assert do_not_come >= {name for name, alert in alerts.items() if "for" in alert}


def test_the_objective_of_latency_is_the_same_wherever_it_is_told() -> None:
    records, alerts = ((PROMETHEUS / name).read_text() for name in ("records.yml", "alerts.yml"))
    (bound,) = set(re.findall(r'le="([\d.]+)"', records))
    assert set(re.findall(r"within ([\d.]+) s", records)) == {bound}
    assert re.findall(r"took over ([\d.]+) s", alerts) == [bound] * 3
    (share,) = set(re.findall(r"slow_requests:ratio_rate.* ([\d.]+)$", alerts, re.MULTILINE))
    assert re.findall(r"objective: (\S+) %", records) == [f"{100 * (1 - float(share)):g}"]


def test_budgets_burn_at_the_rates_and_over_the_windows_of_the_sre_workbook() -> None:
    text = (PROMETHEUS / "alerts.yml").read_text()
    pairs = re.findall(r"ratio_rate(\w+) > ([\d.]+) \*.*\n +and .*ratio_rate(\w+) > ([\d.]+) \*", text)
    assert pairs == [("1h", "14.4", "5m", "14.4"), ("6h", "6", "30m", "6"), ("3d", "1", "6h", "1")]


def expressions() -> list[str]:
    """All that is asked of Prometheus, and always has an answer: by the dashboard, the records and the autoscaler."""
    shown = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    scaled_by = [metric["pods"]["metric"]["name"] for metric in AUTOSCALER["spec"]["metrics"]]
    asked = [*shown, *(rule["expr"] for rule in RULES if "record" in rule), *scaled_by]
    return sorted({expression.replace("$__rate_interval", "1m").replace("$model", ".*") for expression in asked})


def selectors() -> list[str]:
    """The series that are named anywhere, each with the labels that it is asked for."""
    variables = [variable["query"] for variable in DASHBOARD["templating"]["list"]]
    alerts = [rule["expr"] for rule in RULES if "alert" in rule]
    records = [rule["record"] for rule in RULES if "record" in rule]
    text = "\n".join([*expressions(), *variables, *alerts, *records])
    return sorted(set(re.findall(r"(?<![\w:])(?:(?:\w+:)?mcdropout_\w+(?::\w+)?|up\b)(?:\{[^}]*\})?", text)))


class Monitored:
    """Servers, and a Prometheus that reads their metrics."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path, servers: list[Server]) -> None:
        self.servers = servers
        self._process, self._log = process, log
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=patience(30))
        self._limit: Limit | None = None

    def wait_until_ready(self) -> None:
        """Return once Prometheus answers; from then on, things are to be seen in some time."""
        limit = Limit(_START_SECONDS)
        while not self._is_ready():
            assert self._process.poll() is None, self._log.read_text()
            assert not limit.passed, self._log.read_text()
            time.sleep(0.1)
        self._limit = Limit(_SEEN_SECONDS)

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, expression: str) -> list[float]:
        """The numbers that there are now."""
        answer = self._client.post("/api/v1/query", data={"query": expression}).json()
        assert answer["status"] == "success", (expression, answer)
        values = [float(found["value"][1]) for found in answer["data"]["result"]]
        return [value for value in values if not math.isnan(value)]

    def rules(self) -> dict[str, str]:
        """The health of each rule, by its name."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    def wait_for(self, expression: str) -> list[float]:
        """The numbers, as soon as there are any."""
        while not (found := self.ask(expression)):
            assert not self._limit or not self._limit.passed, f"nothing is found by {expression}"
            time.sleep(0.5)
        return found


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """Two servers to which everything happens that is counted, as long as somebody looks, and a Prometheus that does.

    It has also seen a week before in which the entropy was another.
    """
    folder = tmp_path_factory.mktemp("monitored")
    compiled(write_ten_words(folder / "models", "fragile", passes={"default": 20, "maximum": 1_000_000}))
    compiled(write_bundle(folder / "models", "values", REGRESSION, task="regression", output=NOISE))
    with ExitStack() as stack:
        costly = {f"MCDROPOUT_MAX_{name}_SECONDS": "1e9" for name in ("REQUEST", "QUEUE")}
        one = stack.enter_context(serving(folder / "models", folder, MCDROPOUT_MAX_QUEUE_ROWS="100", **costly))
        two = stack.enter_context(serving(folder / "models", folder, "--workers", "2", **costly))
        for server in (one, two):
            server.wait_until_ready()
        monitored = stack.enter_context(_prometheus(folder, [one, two]))
        for server in (one, two, one):
            stack.enter_context(_load(server))
        monitored.wait_for("mcdropout_worker_restarts_total == 0")
        (*_, worker) = re.findall(r"worker started .* pid=(\d+)", two.log)
        os.kill(int(worker), signal.SIGKILL)
        assert one.client.post("/models/fragile/reload").status_code == 200
        yield monitored


@contextmanager
def _load(server: Server) -> Iterator[None]:
    """A client that asks in every way, again and again."""
    stopped = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url) as client:
            while not stopped.is_set():
                for query, rows, seconds in REQUESTS:
                    with suppress(httpx.TransportError):
                        client.post("/predict", params=query, json={"inputs": rows}, timeout=patience(seconds))
                        client.post("/models/values/predict", json={"inputs": [0.0] * 4}, timeout=patience(seconds))
                    time.sleep(_PAUSE_SECONDS)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def _prometheus(folder: Path, servers: list[Server]) -> Iterator[Monitored]:
    """Debian's Prometheus under the deployed files, but for whom it reads, and how often it looks."""
    shutil.copytree(PROMETHEUS, folder / "prometheus")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}" for server in servers]}]
    (folder / "prometheus" / "prometheus.yml").write_text(yaml.safe_dump(config))
    records = folder / "prometheus" / "records.yml"
    records.write_text(re.sub(r"^( +interval:) \w+$", r"\1 1s", records.read_text(), flags=re.MULTILINE))
    _remember_last_week(servers[0], folder)
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus' / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = folder / "prometheus.log"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            monitored = Monitored(process, port, log, servers)
            monitored.wait_until_ready()
            yield monitored
        finally:
            process.kill()


def _remember_last_week(server: Server, folder: Path) -> None:
    """Have there be what the rules recorded a week ago: all rows in the highest bucket of entropy."""
    server.client.post("/predict", json={"inputs": [ROW]})
    buckets = re.findall(r'predictive_entropy_nats_bucket\{le="([^"]+)"', server.client.get("/metrics").text)
    assert "+Inf" in buckets
    ago = range(int(time.time()) - 7 * 86400 - 600, int(time.time()) - 7 * 86400 + 600, 30)
    lines = []
    for bound in buckets:
        labels, share = f'{{model="fragile",le="{bound}"}}', float(bound == "+Inf")
        for name, value in (("uncertainty:cdf1d", share), ("uncertainty_rows:increase1d", share * 5000)):
            lines += [f"model_le:mcdropout_{name}{labels} {value} {when}" for when in ago]
    (folder / "last-week.txt").write_text("\n".join([*lines, "# EOF", ""]))
    promtool("tsdb", "create-blocks-from", "openmetrics", str(folder / "last-week.txt"), str(folder / "data"))


def test_the_autoscaler_is_among_those_who_ask() -> None:
    assert "mcdropout_queue_rows" in expressions()


@needs_prometheus
@pytest.mark.parametrize("selector", selectors())
def test_every_series_that_something_names_has_values(monitored: Monitored, selector: str) -> None:
    assert monitored.wait_for(f"max_over_time({selector}[10m]) > 0")


@needs_prometheus
@pytest.mark.parametrize("expression", expressions())
def test_everything_that_is_asked_for_can_be_answered(monitored: Monitored, expression: str) -> None:
    assert monitored.wait_for(expression)


@needs_prometheus
@pytest.mark.parametrize("alert", [rule for rule in RULES if "alert" in rule], ids=lambda rule: rule["alert"])
def test_alerts_come_of_what_happens(monitored: Monitored, alert: dict[str, Any]) -> None:
    monitored.ask(alert["expr"])  # which may be nothing: all is well
    if alert["alert"] in HAPPENING:
        assert monitored.wait_for(f'max_over_time(ALERTS{{alertname="{alert["alert"]}"}}[10m])')


@needs_prometheus
def test_prometheus_evaluates_every_rule(monitored: Monitored) -> None:
    assert monitored.rules() == {rule.get("record") or rule["alert"]: "ok" for rule in RULES}


@needs_prometheus
def test_the_metrics_are_as_prometheus_wants_them(monitored: Monitored) -> None:
    for server in monitored.servers:
        assert promtool("check", "metrics", text=server.client.get("/metrics").text) == ""


@needs_prometheus
def test_entropy_that_is_another_than_a_week_ago_is_told(monitored: Monitored) -> None:
    (drift,) = monitored.wait_for('model:mcdropout_uncertainty_drift:max1d{model="fragile"}')
    assert drift > 0.5
