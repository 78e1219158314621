"""The dashboard, written in code: `python deploy/grafana/dashboard.py` writes `dashboards/mcdropout.json`.

A test checks that the file is what this module makes, and another that Prometheus knows every series that it names.
"""

import json
from itertools import count
from pathlib import Path
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders.dashboard import Dashboard, QueryVariable, Row
from grafana_foundation_sdk.builders.heatmap import HeatmapColorOptions, YAxisConfig
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode, StackingMode, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FILE = Path(__file__).parent / "dashboards" / "mcdropout.json"

_SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
_MODEL = 'model=~"$model"'
_HALF, _THIRD, _QUARTER = 12, 8, 6  # of the 24 columns
_HEIGHT = 8


def dashboard() -> Dashboard:
    """What there is to see of a server, or of many."""
    board = (
        Dashboard("mcdropout")
        .uid("mcdropout")
        .description("Predictions together with how far to trust them: latency, load, and how sure the networks are.")
        .tags(["mcdropout"])
        .readonly()
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(
            QueryVariable("model")
            .label("Model")
            .datasource(_SOURCE)
            .query("label_values(mcdropout_model_ready, model)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
        )
    )
    rows = {"Now": _now(), "Requests": _requests(), "Engine": _engine(), "How sure the networks are": _trust()}
    ids = count(1)
    for title, panels in rows.items():
        board = board.with_row(Row(title).id(next(ids)))
        for panel in panels:
            board = board.with_panel(panel.id(next(ids)))
    return board


def _now() -> list[Stat]:
    drift = f"max(model:mcdropout_uncertainty_drift:max1d{{{_MODEL}}})"
    return [
        _number("Requests answered", "reqps", f"sum(model_mode:mcdropout_requests:rate5m{{{_MODEL}}})"),
        _number("Rows that wait", "short", "sum(mcdropout_queue_rows)"),
        _number("Models ready", "short", f"sum(min by (model) (mcdropout_model_ready{{{_MODEL}}}))"),
        _number("Distance of uncertainty from a week ago", "none", drift),
    ]


def _requests() -> list[Timeseries]:
    return [
        *(_latency(mode) for mode in ("mc", "deterministic", "auto")),
        _stacked("Requests by status", "reqps", _HALF, {"{{status}}": f"sum by (status) ({_rate('requests_total')})"}),
        _lines(
            "Refused, cancelled, failed",
            "reqps",
            _HALF,
            {
                "refused: {{reason}}": f"sum by (reason) ({_rate('refused_total')})",
                "client went away": f"sum({_rate('cancelled_total')})",
                "steps that failed": f"sum({_rate('step_failures_total')})",
            },
        ),
    ]


def _engine() -> list[Timeseries]:
    stages = f"sum by (stage) ({_rate('step_duration_seconds_sum')})"
    steps = f"sum({_rate('step_pairs_count')})"
    return [
        _lines(
            "Rows and pairs",
            "ops",
            _THIRD,
            {"rows": f"sum({_rate('rows_total')})", "pairs": f"sum({_rate('pairs_total')})"},
        ),
        _stacked(
            "Where a step's time goes", "s", _THIRD, {"{{stage}}": f"{stages} / ignoring (stage) group_left () {steps}"}
        ),
        _lines(
            "Rows and pairs of a step",
            "short",
            _THIRD,
            {
                name: f"sum({_rate(f'step_{name}_sum')}) / sum({_rate(f'step_{name}_count')})"
                for name in ("rows", "pairs")
            },
        ),
        _lines(
            "Rows that wait, and how many may",
            "short",
            _THIRD,
            {
                "{{instance}}": "sum by (instance) (mcdropout_queue_rows)",
                "{{instance}}: limit": "sum by (instance) (mcdropout_queue_rows_limit)",
            },
        ),
        _lines(
            "Time in the queue and in the engine",
            "s",
            _THIRD,
            {
                f"{where}, {share:.0%}": _quantile(share, f"{name}_duration_seconds")
                for where, name in (("queue", "queue"), ("engine", "compute"))
                for share in (0.5, 0.99)
            },
        ),
        _lines(
            "Restarts and reloads",
            "short",
            _THIRD,
            {
                "{{instance}}: starts": "sum by (instance) (changes(mcdropout_start_time_seconds[1h]))",
                "{{instance}}, worker {{worker}}: restarts": (
                    "sum by (instance, worker) (increase(mcdropout_worker_restarts_total[1h]))"
                ),
                "reloads: {{outcome}}": f"sum by (outcome) (increase(mcdropout_reloads_total{{{_MODEL}}}[1h]))",
            },
        ),
    ]


def _trust() -> list[Heatmap | Timeseries]:
    drift = {"{{model}}": f"model:mcdropout_uncertainty_drift:max1d{{{_MODEL}}}"}
    return [
        _heatmap("Predictive entropy of rows", "predictive_entropy_nats", "nats"),
        _heatmap("Mutual information of rows", "mutual_information_nats", "nats"),
        _heatmap("Predictive variance of rows", "predictive_variance", "the target's, squared"),
        _heatmap("Passes that rows used", "row_passes", "passes"),
        _lines("Distance of the day's uncertainty from that a week ago", "none", _HALF, drift).max(1),
    ]


def text() -> str:
    """The dashboard as JSON."""
    made = json.loads(JSONEncoder(sort_keys=True).encode(dashboard().build()))
    return json.dumps(made, indent=1, sort_keys=True) + "\n"


def _rate(name: str, more: str = "") -> str:
    return f"rate(mcdropout_{name}{{{_MODEL}{more}}}[$__rate_interval])"


def _quantile(share: float, name: str, by: str = "le", more: str = "") -> str:
    return f"histogram_quantile({share}, sum by ({by}) ({_rate(f'{name}_bucket', more)}))"


def _query(expression: str, legend: str, name: str = "A") -> Dataquery:
    return Dataquery().datasource(_SOURCE).expr(expression).legend_format(legend).range().ref_id(name)


def _number(title: str, unit: str, expression: str) -> Stat:
    panel = Stat().title(title).datasource(_SOURCE).unit(unit).span(_QUARTER).height(_HEIGHT // 2)
    newest = common_builders.ReduceDataOptions().calcs(["lastNotNull"])
    return panel.reduce_options(newest).graph_mode(BigValueGraphMode.AREA).with_target(_query(expression, ""))


def _lines(title: str, unit: str, width: int, expressions: dict[str, str]) -> Timeseries:
    """A line, or several, for each expression, under its legend."""
    panel = Timeseries().title(title).datasource(_SOURCE).unit(unit).span(width).height(_HEIGHT).fill_opacity(0)
    tooltip = common_builders.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)
    legends = common_builders.VizLegendOptions().show_legend(True)
    panel = panel.line_width(1).min(0).tooltip(tooltip).legend(legends)
    for name, (legend, expression) in zip(ascii_uppercase, expressions.items(), strict=False):
        panel = panel.with_target(_query(expression, legend, name))
    return panel


def _stacked(title: str, unit: str, width: int, expressions: dict[str, str]) -> Timeseries:
    stacking = common_builders.StackingConfig().mode(StackingMode.NORMAL)
    return _lines(title, unit, width, expressions).stacking(stacking).fill_opacity(20)


def _latency(mode: str) -> Timeseries:
    more = f', mode="{mode}", status="200"'
    expressions = {
        f"{{{{model}}}} {share:.0%}": _quantile(share, "request_duration_seconds", "le, model", more)
        for share in (0.5, 0.95, 0.99)
    }
    return _lines(f"Latency, {mode}", "s", _THIRD, expressions)


def _heatmap(title: str, name: str, unit: str) -> Heatmap:
    buckets = f"sum by (le) (increase(mcdropout_{name}_bucket{{{_MODEL}}}[$__rate_interval]))"
    colors = HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    panel = Heatmap().title(title).datasource(_SOURCE).span(_HALF).height(_HEIGHT).color(colors)
    axis = YAxisConfig().axis_label(unit)
    return panel.y_axis(axis).with_target(_query(buckets, "{{le}}").format(PromQueryFormat.HEATMAP))


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text())
