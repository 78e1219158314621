"""Answers as the service's own OpenAPI document describes them."""

import copy
from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator


def assert_documented(client: httpx.Client, answer: Any, *, whole: bool = True) -> None:
    """An answer to a prediction is what the document of its server says: all of it, and nothing besides.

    Of one that is not `whole`, for which some fields were chosen, rows may lack others.
    """
    for error in _validator(client, whole).iter_errors(answer):
        causes = [error, *(error.context or ())]
        raise AssertionError("\n".join(f"{cause.json_path}: {cause.message[:300]}" for cause in causes))


@cache
def _validator(client: httpx.Client, whole: bool) -> Draft202012Validator:
    return strict_validator(client.get("/openapi.json").json(), whole=whole)


def strict_validator(document: dict[str, Any], *, whole: bool = True) -> Draft202012Validator:
    """What checks predictions by an OpenAPI document, and accepts no field that it does not name.

    Where answers are to be whole, their rows have to have all that it names but samples.
    """
    schemas = copy.deepcopy(document["components"]["schemas"])
    for name, schema in schemas.items():
        if "properties" in schema:
            schema["additionalProperties"] = False
            if whole and name.endswith("Row"):
                schema["required"] = [field for field in schema["properties"] if field != "samples"]
    media = document["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    return Draft202012Validator({**media["schema"], "components": {"schemas": schemas}})
