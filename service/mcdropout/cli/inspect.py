"""`mcdropout inspect`."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from mcdropout.cli.folders import folders

_TORCH = ("torch", "safetensors")  # what the extra `torch` installs


class Format(StrEnum):
    """How an inspection is written."""

    TABLE = "table"
    JSON = "json"


def inspect(
    targets: Annotated[
        list[str],
        typer.Argument(
            help="Bundle folders, or module:function (or path/to/file.py:function) that returns (network, "
            "example_inputs) or (network, example_inputs, options), the options being further arguments of "
            "Engine.from_module.",
            show_default=False,
        ),
    ],
    output: Annotated[Format, typer.Option("--format", help="Tables for people, or JSON.")] = Format.TABLE,
    passes: Annotated[int, typer.Option(min=1, help="How many passes to time.")] = 50,
) -> None:
    """Tell what is random in a network, what it costs, and what its dropout may do wrong.

    The exit status is 1 where a network is refused, and 0 where there are findings or none.
    """
    from rich.console import Console

    from mcdropout import log
    from mcdropout.catalogue.manifest import BundleError
    from mcdropout.cli.rendering import as_document, exit_status, print_inspection
    from mcdropout.cli.targets import TargetError, load_target
    from mcdropout.engine.errors import EngineError
    from mcdropout.engine.inspection import Inspection
    from mcdropout.engine.inspection import inspect as inspect_network

    log.configure("console", "error")
    console, documents, inspections = Console(markup=False, emoji=False, highlight=False), [], []
    for text in folders(targets):
        name = text
        try:
            pointed = load_target(text)
            name = pointed.name
            found = inspect_network(pointed.understand, pointed.reading, pointed.target, passes=passes)
            if found.engine is not None:
                pointed.confirm(found.engine)
        except (BundleError, EngineError, TargetError) as error:
            found = Inspection(None, str(error))
        except MemoryError:
            found = Inspection(None, f"{text}: inspecting it takes more memory than there is")
        except ModuleNotFoundError as error:
            mends = "; pip install 'mcdropout[torch]' mends it" if error.name in _TORCH else ""
            found = Inspection(None, f"{text}: inspecting it takes {error.name}, which is not installed{mends}")
        inspections.append(found)
        documents.append(as_document(name, found))
        if output is Format.TABLE:
            print_inspection(console, name, found)
    if output is Format.JSON:
        typer.echo(json.dumps(documents, indent=2))
    raise typer.Exit(exit_status(inspections))
