"""Inspections as people and as programs read them."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mcdropout.api import formats
from mcdropout.engine import Engine
from mcdropout.engine.compiled import Summary
from mcdropout.engine.inspection import TIMED_ROWS, Inspection
from mcdropout.engine.statistics import TASKS, described_reading

_FEW_SITES, _BRIEF_PASSES = 8, 50


def print_inspection(console: Console, name: str, inspection: Inspection) -> None:
    """Print what was found of a network as tables."""
    if inspection.engine is None:
        console.print(Panel(Text(inspection.error or "", "red"), title=Text(f"{name}: refused"), title_align="left"))
        return
    program, sizing = inspection.engine.program, inspection.engine.sizing
    parts: list[RenderableType] = [
        _sites(inspection.engine),
        Text(),
        _cost(inspection),
        Text(),
        Text(_reading(inspection.engine)),
        _statistics(inspection.engine),
        Text(),
        _checks(inspection.engine),
        Text(),
        *([Text(f"sizes: {', '.join(map(str, sizing.dimensions))}")] if sizing else []),
        Text(f"bodies over HTTP: {', '.join(formats.media_types_of_bodies())}"),
    ]
    if found := _findings(inspection):
        parts += [Text(), found]
    title = f"{name}: {program.strategy} program on {program.runtime} ({program.device})"
    console.print(Panel(Group(*parts), title=Text(title), title_align="left"))


def print_brief(console: Console, engine: Summary) -> None:
    """Print of a compiled engine what is random in it, what runs it, what passes cost and what its answers are."""
    program, sizing = engine.program, engine.sizing
    console.print(f"{program.strategy} program on {program.runtime} ({program.device})")
    console.print(_sites(engine, _FEW_SITES))
    if (more := len(engine.sites) - _FEW_SITES) > 0:
        console.print(f"... and {more} more; `mcdropout inspect` has all")
    console.print()
    cost = program.cost.in_deterministic_passes(_BRIEF_PASSES)
    console.print(f"{_BRIEF_PASSES} passes cost {cost:.3g} deterministic ones, by their operations")
    console.print(_reading(engine))
    if sizing:
        console.print(f"sizes: {', '.join(map(str, sizing.dimensions))}")


def as_document(name: str, inspection: Inspection) -> dict[str, Any]:
    """What was found of a network, for JSON."""
    engine = inspection.engine
    document: dict[str, Any] = {"name": name, "error": inspection.error}
    if engine is None:
        return document
    cost = engine.program.cost
    document |= {
        "sites": [
            {**asdict(site), "on": True, "reason": None, "shape": shape}
            for site, shape in zip(engine.sites, engine.site_shapes, strict=True)
        ]
        + [{**asdict(site), "on": False} for site in engine.sites_off],
        "sizes": _sizes(engine),
        "program": asdict(engine.program),
        "cost": {
            "share_once": cost.share_once,
            "passes": inspection.passes,
            "in_deterministic_passes": cost.in_deterministic_passes(inspection.passes),
        },
        "output": described_reading(engine.reading),
        "statistics": TASKS[engine.task].described(),
        "formats": formats.media_types_of_bodies(),
        "findings": [asdict(finding) for finding in inspection.findings],
        "not_analysed": inspection.not_analysed,
    }
    if inspection.seconds:
        document["measured"] = {
            "rows": TIMED_ROWS,
            "seconds": inspection.seconds[0],
            "deterministic_seconds": inspection.seconds[1],
        }
    return document


def _sizes(engine: Engine) -> dict[str, dict[str, int]]:
    """The sizes accepted for each name in the shapes of inputs."""
    dimensions = () if engine.sizing is None else engine.sizing.dimensions
    return {x.name: {"minimum": x.least, "maximum": x.most, "multiple": x.multiple} for x in dimensions}


def _sites(engine: Engine | Summary, most: int | None = None) -> RenderableType:
    table = _table("site", "kind", "p", "mask", "drawn", "")
    for site, shape in zip(engine.sites[:most], engine.site_shapes[:most], strict=True):
        p = "" if site.p is None else f"{site.p:g}"
        mask = " x ".join(map(str, shape)) or "1"
        scope = "for a row" if site.scope == "row" else "for a pass, all rows"
        notes = ["added: the network was not trained with it"] if site.injected else []
        notes += [] if site.in_eval else ["its module left eval mode"]
        table.add_row(site.name, site.kind, p, mask, scope, "; ".join(notes))
    for off in engine.sites_off[:most]:
        p = "" if off.p is None else f"{off.p:g}"
        table.add_row(off.name, off.kind, p, "", "off", off.reason, style="dim")
    return table


def _cost(inspection: Inspection) -> RenderableType:
    assert inspection.engine is not None
    program, cost = inspection.engine.program, inspection.engine.program.cost
    table = _table("what runs", "operations", "MFLOP", "share")
    for name, count, flops, share in (
        ("once a row", program.prefix_operations, cost.prefix, cost.share_once),
        ("once a pass", program.suffix_operations, cost.suffix, 1.0 - cost.share_once),
    ):
        table.add_row(name, str(count) if program.frontier else "", f"{flops / 1e6:.3g}", f"{share:.1%}")
    passes = inspection.passes
    lines = [f"{passes} passes cost {cost.in_deterministic_passes(passes):.3g} deterministic ones, by their operations"]
    if inspection.seconds:
        stochastic, baseline = inspection.seconds
        lines.append(
            f"measured, {TIMED_ROWS} rows: {1e3 * stochastic:.3g} ms, {stochastic / baseline:.3g} times mc=0's "
            f"{1e3 * baseline:.3g} ms"
        )
    if program.reason:
        lines.append(f"nothing faster, because: {program.reason}")
    return Group(table, *map(Text, lines))


def _reading(engine: Engine | Summary) -> str:
    said = described_reading(engine.reading)
    because = said.pop("because")
    outputs = ", ".join(f"{name} {value}" for name, value in said.items() if value is not None)
    return f"outputs: {outputs}" + (f" ({because})" if because else "")


def _statistics(engine: Engine) -> RenderableType:
    table = _table("statistic", "unit", "")
    for field in TASKS[engine.task].fields:
        table.add_row(field.name, field.unit or "", field.description)
    return table


def _checks(engine: Engine) -> RenderableType:
    table = _table("check", "measured")
    for check in engine.program.checks:
        table.add_row(Text(f"{'passed' if check.passed else 'FAILED'}: {check.name}"), check.detail)
    return table


def _findings(inspection: Inspection) -> RenderableType | None:
    if not inspection.findings and not inspection.not_analysed:
        return None
    table = _table("finding", "", "source")
    for finding in inspection.findings:
        table.add_row(finding.site or "", finding.text, Text(finding.source, "dim"))
    if inspection.not_analysed:
        table.add_row("", f"the flow of data around the sites was not looked at: {inspection.not_analysed}", "")
    return table


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def exit_status(inspections: Iterable[Inspection]) -> int:
    """1 where a network is refused, else 0: a finding is no error."""
    return int(any(inspection.error is not None for inspection in inspections))
