"""`mcdropout key`."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from mcdropout.access import Role


def key(
    name: Annotated[str, typer.Argument(help="What the client is called in the log: letters, digits, and . @ _ -")],
    role: Annotated[list[Role], typer.Option(help="What it is for; several times for several.")] = [Role.PREDICT],  # noqa: B006
    days: Annotated[int | None, typer.Option(min=1, help="In how many days it expires; never if not given.")] = None,
    rate: Annotated[float | None, typer.Option(help="How many requests a second it may make.")] = None,
    share: Annotated[
        float, typer.Option(help="How much of the machine it gets where others want it, as a multiple of theirs.")
    ] = 1.0,
) -> None:
    """Make a key, and the entry for the file of keys (`mcdropout serve --keys-file`), which holds only its hash.

    The entry is written to the standard output, to be appended to the file; the key itself, which is kept nowhere, to
    the standard error.
    """
    from mcdropout.access.keys import KeysError, hash_of, keys_of, new_secret

    secret = new_secret()
    entry: dict[str, object] = {"name": name, "sha256": hash_of(secret).hex(), "roles": [str(each) for each in role]}
    if days is not None:
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
        entry["expires"] = expires.isoformat()
    if rate is not None:
        entry["rate"] = rate
    if share != 1.0:
        entry["share"] = share
    try:
        keys_of([entry])
    except KeysError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    lines = [f"{field}: {_written(value)}" for field, value in entry.items()]
    typer.echo("- " + "\n  ".join(lines))
    typer.echo(f"the key of {name}, shown this once: {secret}", err=True)


def _written(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
