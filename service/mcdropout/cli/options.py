"""Options that several commands have: what is asked for of rows."""

from typing import Annotated

import typer

Passes = Annotated[
    str | None,
    typer.Option(help="Stochastic passes; 0 for the deterministic baseline; auto for as many as each row needs."),
]
Seed = Annotated[int | None, typer.Option(help="What the masks are drawn from; drawn if not given.")]
Tolerance = Annotated[
    float | None, typer.Option(help="With --mc auto: a row stops when no standard error of its mean is above this.")
]
Reduce = Annotated[str | None, typer.Option(help="Of a dense answer one number instead of each map, such as p95.")]
Regions = Annotated[str | None, typer.Option(help="With --reduce: one for each of so many regions, 4x4.")]
