"""`mcdropout schema`."""

import json

import typer


def schema() -> None:
    """Print the JSON Schema of `model.yaml`, by which an editor completes and checks it.

    With the output in a file, a first line of model.yaml names it to editors that have a YAML language server:
    `# yaml-language-server: $schema=../model.schema.json`.
    """
    from mcdropout.catalogue.schema import manifest_schema

    typer.echo(json.dumps(manifest_schema(), indent=2))
