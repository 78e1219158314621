"""What the OpenAPI document says beside its routes: formats, examples, the key that they take, and what is answered
before any is asked."""

import copy
from collections.abc import Mapping
from typing import Any

from mcdropout.api import formats
from mcdropout.api.errors import Problem

_SCHEME = "key"
_WHOLE = "/predict"
_PREDICTIONS = (_WHOLE, "/predict/stream")
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


def with_formats(document: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI document, with the formats that there are now in what predictions take and give."""
    for path, operations in document["paths"].items():
        if not path.endswith(_PREDICTIONS):
            continue
        operation, is_answer = operations["post"], path.endswith(_WHOLE)
        taken, given = operation["requestBody"]["content"], operation["responses"]["200"]["content"]
        for media_type, format in formats.TABLE.items():
            if format.read is not None:
                taken.setdefault(media_type, {"schema": format.body_schema})
            if is_answer and format.write is not None and media_type == format.media_types[0]:
                given.setdefault(media_type, {"schema": format.answer_schema})
        _describe_headers(operation, is_answer)
    return document


def _describe_headers(operation: dict[str, Any], is_answer: bool) -> None:
    """Add the headers that formats read, and write where they write the answer, to a prediction's document."""
    known = {(one["in"], one["name"]) for one in operation["parameters"]}
    sent = operation["responses"]["200"].setdefault("headers", {}) if is_answer else {}
    for media_type, format in formats.TABLE.items():
        for header in format.headers:
            if ("header", header.name) not in known:
                operation["parameters"].append(
                    {
                        "name": header.name,
                        "in": "header",
                        "required": False,
                        "description": f"{header.description} For {media_type}.",
                        "example": header.example,
                        "schema": {"type": "string"},
                    }
                )
        for name, description in format.answer_headers.items() if is_answer else ():
            sent.setdefault(name, {"description": f"{description} Not with JSON.", "schema": {"type": "string"}})


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
