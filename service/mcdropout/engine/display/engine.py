"""An engine as text and as HTML: what is random in it, how it runs, and what was checked."""

from collections.abc import Sequence
from html import escape
from typing import Protocol

from mcdropout.engine.inputs import InputSpec
from mcdropout.engine.program import Program
from mcdropout.engine.sites import Site, SiteOff

_SHOWN_SITES = 12
_CELL = "padding:2px 8px;text-align:left"


class Described(Protocol):
    """An `Engine`."""

    program: Program
    inputs: tuple[InputSpec, ...]

    @property
    def task(self) -> str: ...

    @property
    def sites(self) -> Sequence[Site]: ...

    @property
    def sites_off(self) -> Sequence[SiteOff]: ...

    @property
    def site_shapes(self) -> list[list[int | str]]: ...


def as_text(engine: Described) -> str:
    """Its task, its inputs and sites, and its program, a line each."""
    lines = [f"Engine({engine.task}, {engine.program.strategy} on {engine.program.runtime}, {engine.program.device})"]
    lines += [f"{spec.label}: [rows, {', '.join(map(str, spec.shape))}] {spec.dtype}" for spec in engine.inputs]
    lines += [f"site {'  '.join(cells)}" for cells in _sites(engine)]
    if len(engine.sites) > _SHOWN_SITES:
        lines.append(f"... {len(engine.sites) - _SHOWN_SITES} more sites")
    if engine.sites_off:
        lines.append(f"{len(engine.sites_off)} more could be random and are not: see sites_off")
    return "\n  ".join([*lines, _checks(engine)])


def as_html(engine: Described) -> str:
    """The same for a notebook."""
    head = "".join(f'<th style="{_CELL}">{name}</th>' for name in ("site", "kind", "p", "mask", "drawn for"))
    rows = "".join(
        f"<tr>{''.join(f'<td style={chr(34)}{_CELL}{chr(34)}>{escape(cell)}</td>' for cell in cells)}</tr>"
        for cells in _sites(engine)
    )
    more = len(engine.sites) - _SHOWN_SITES
    rest = f"<div>{more} more sites</div>" if more > 0 else ""
    program = engine.program
    return (
        f"<div><b>Engine</b>: {escape(engine.task)}, {escape(program.strategy)} on {escape(program.runtime)}, "
        f"{escape(program.device)}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{rest}"
        f"<div>{escape(_checks(engine))}</div></div>"
    )


def _sites(engine: Described) -> list[list[str]]:
    """Name, kind, p, the mask's shape, and for what it is drawn, of the first sites."""
    shown = zip(engine.sites[:_SHOWN_SITES], engine.site_shapes, strict=False)
    return [
        [
            site.name,
            site.kind,
            "-" if site.p is None else f"p={site.p:g}",
            f"[{', '.join(map(str, shape))}]",
            "each row and pass" if site.scope == "row" else "each pass",
        ]
        for site, shape in shown
    ]


def _checks(engine: Described) -> str:
    checks = engine.program.checks
    passed = sum(check.passed for check in checks)
    return f"{passed} of {len(checks)} checks passed: see program.checks"
