"""Answers as the service's own OpenAPI document describes them."""

import copy
from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator


def assert_documented(client: httpx.Client, answer: Any) -> None:
    """An answer to a prediction is what the document of its server says: all of it, and nothing besides."""
    for error in _validator(client).iter_errors(answer):
        causes = [error, *(error.context or ())]
        raise AssertionError("\n".join(f"{cause.json_path}: {cause.message[:300]}" for cause in causes))


@cache
def _validator(client: httpx.Client) -> Draft202012Validator:
    return strict_validator(client.get("/openapi.json").json())


def strict_validator(document: dict[str, Any]) -> Draft202012Validator:
    """What checks predictions by an OpenAPI document, and accepts no field that it does not name."""
    schemas = copy.deepcopy(document["components"]["schemas"])
    for schema in schemas.values():
        if "properties" in schema:
            schema["additionalProperties"] = False
    (media,) = document["paths"]["/predict"]["post"]["responses"]["200"]["content"].values()
    return Draft202012Validator({**media["schema"], "components": {"schemas": schemas}})
