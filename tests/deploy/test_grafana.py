"""The dashboard: the file is what its code makes, and finds its data where it is provisioned."""

import importlib.util
import json
import re
from itertools import product
from types import ModuleType
from typing import Any

import yaml

from tests.servers import ROOT

GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "mcdropout.json").read_text())


def code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard", GRAFANA / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_the_file_is_what_the_code_makes() -> None:
    module = code()
    assert module.FILE.read_text() == module.text(), "python deploy/grafana/dashboard.py writes it"


def test_each_panel_has_a_title_and_a_unit_and_asks_the_provisioned_source() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    for panel in panels():
        assert panel["title"]
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            assert target["expr"]
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)


def test_no_two_panels_have_the_same_id_and_no_two_queries_of_a_panel_the_same_name() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert sorted(ids) == list(range(1, len(ids) + 1))  # Grafana shows one of those that share theirs
    for panel in panels():
        targets = panel["targets"]
        assert [target["refId"] for target in targets] == list("ABCDEFGH"[: len(targets)])
        assert len({target["legendFormat"] for target in targets}) == len(targets), panel["title"]
        assert all(target["range"] for target in targets)


def test_lines_have_legends_numbers_are_the_newest_and_heat_maps_are_of_buckets() -> None:
    for panel in panels():
        options = panel["options"]
        if panel["type"] == "timeseries":
            assert options["legend"]["showLegend"]
            assert all(target["legendFormat"] for target in panel["targets"])
        elif panel["type"] == "stat":
            assert options["reduceOptions"]["calcs"] == ["lastNotNull"]
        else:
            assert panel["type"] == "heatmap"
            assert not options["calculate"]
            (target,) = panel["targets"]
            assert target["format"] == "heatmap"
            assert target["expr"].startswith("sum by (le) (increase(")


def test_all_models_are_shown_until_some_are_chosen() -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    assert variable["datasource"] == panels()[0]["datasource"]
    assert variable["current"]["value"] == ["$__all"]
    assert variable["includeAll"]
    assert variable["multi"]


def test_no_two_panels_lie_over_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_it_shows_what_an_operator_looks_for() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    for name in (
        "request_duration_seconds_bucket",
        "requests_total",
        "pairs_total",
        "step_duration_seconds_sum",
        "queue_rows",
        "refused_total",
        "start_time_seconds",
        "predictive_entropy_nats_bucket",
        "mutual_information_nats_bucket",
        "worker_restarts_total",
    ):
        assert f"mcdropout_{name}" in shown
    quantiles = re.findall(r'histogram_quantile\(([\d.]+), sum by \(le, model\) \(rate\(\w+{[^}]*mode="(\w+)"', shown)
    assert set(quantiles) == set(product(("0.5", "0.95", "0.99"), ("mc", "deterministic", "auto")))
    assert {panel["title"] for panel in panels() if panel["type"] == "heatmap"} >= {
        "Predictive entropy of rows",
        "Mutual information of rows",
    }
