"""What the OpenAPI document says of all routes: the key that they take, and what is answered before any is asked."""

import copy
from collections.abc import Mapping
from typing import Any

from mcdropout.api.errors import Problem

_SCHEME = "key"
_PREDICTIONS = ("/predict", "/predict/stream")
_OPEN = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready")
_BY_ANY = {
    400: "This is no HTTP request, or it has no field Host, or two.",
    408: "The request was not there in time.",
    421: "The field Host names another server.",
    431: "The head of the request is too large.",
    503: "The server is overloaded, or has as many connections as it accepts.",
}
_BY_KEY = {
    401: "No key is shown, or none that is accepted.",
    403: "The key is for something else.",
    429: "The key makes more requests than it may.",
}


def with_examples(document: dict[str, Any], examples: Mapping[str, Any], default: str) -> dict[str, Any]:
    """A copy of an OpenAPI document, in which what predictions take has a body for each model that is loaded.

    Args:
        document: without them.
        examples: bodies by the names of the models.
        default: the model that answers where none is named.
    """
    document = {**document, "paths": copy.deepcopy(document["paths"])}
    for path, operations in document["paths"].items():
        if path.endswith(_PREDICTIONS):
            shown = {name: body for name, body in examples.items() if "{name}" in path or name == default}
            body = operations["post"]["requestBody"]["content"]["application/json"]
            body["examples"] = {name: {"summary": f"for {name}", "value": value} for name, value in shown.items()}
    return document


def with_common(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document, with what holds for all routes; those that say more of the same keep that."""
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).setdefault("Problem", Problem.model_json_schema())
    components["securitySchemes"] = {
        _SCHEME: {"type": "http", "scheme": "bearer", "description": "A key, where the server has keys."}
    }
    document["security"] = [{_SCHEME: []}, {}]
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/InferError"}}}
    for path, operations in document["paths"].items():
        written = error if path == "/v2" or path.startswith("/v2/") else problem
        for operation in operations.values():
            if path in _OPEN:
                operation["security"] = []
            known = _BY_ANY if path in _OPEN else _BY_ANY | _BY_KEY
            responses = operation["responses"]
            for status, text in known.items():
                responses.setdefault(str(status), {"description": text})
            for status, response in responses.items():
                if int(status) >= 400:
                    response.setdefault("content", dict(written))
                if int(status) in _BY_ANY:  # at the connection, before there is a path
                    response["content"] |= problem
    return document
