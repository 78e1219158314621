"""The JSON Schema of `model.yaml`, by which editors complete and check it."""

from typing import Any

from mcdropout.catalogue.manifest import MANIFEST, Manifest

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# What fields are accepted together is for `Manifest` to check; that one of these is there an editor can say too.
_EITHER = (("input",), ("inputs",)), (("model",), ("network", "weights"))


def manifest_schema() -> dict[str, Any]:
    """What a `model.yaml` may hold; each field with its description.

    What it refuses, a server refuses too. Not the other way round: which fields fit together it does not say.
    """
    found = Manifest.model_json_schema()
    either = [{"anyOf": [{"required": list(names)} for names in choices]} for choices in _EITHER]
    return {"$schema": DIALECT} | found | {"title": MANIFEST, "allOf": either}
