"""A request's JSON: its tensors, and long lists of values apart, which are parsed in parts later.

Parsing a long text in one go keeps every other thread waiting.
"""

import re
import secrets
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError

from mcdropout.api.oip.tensor import Listed
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.problems import described

# Outside of text, JSON's lists of values are made of these.
_RUN = re.compile(rb"[-+0-9.eEtruefalsn,\[\] \t\n\r]+")
_LONG_BYTES = 32 * 1024
# In a request that has some tensors, texts among them, each of which has two quotes at least.
_MOST = {b'"': ("quotes", 2**16), b"{": ("braces", 10_000)}
_TOO_DEEP = "the content nests lists or objects hundreds deep; tensors as deep as their shapes are accepted"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RequestInput(_Strict):
    """A tensor of a request."""

    name: StrictStr = Field(description="Which input, as the model's metadata names it.")
    datatype: StrictStr = Field(
        description="Of its values: BOOL, UINT8 to UINT64, INT8 to INT64, FP16, FP32 or FP64; BYTES for texts."
    )
    shape: list[StrictInt] = Field(description="Rows first, then the sizes of a row.")
    parameters: dict[str, Any] = Field({}, description="binary_data_size: how many bytes it has behind the JSON.")
    data: Any = Field(None, description="Its values: one list, or lists nested as the shape is.")


class RequestOutput(_Strict):
    """A tensor that is asked for."""

    name: StrictStr = Field(description="A statistic, passes, or samples.")
    parameters: dict[str, Any] = Field({}, description="binary_data: whether it is to come behind the JSON.")


class RequestContent(_Strict):
    """A request of the Open Inference Protocol."""

    id: StrictStr = Field("", max_length=1000, description="What the answer is to carry.")
    model_name: StrictStr | None = Field(None, description="The model of the path.")
    model_version: StrictStr | None = Field(None, description="Its version.")
    parameters: dict[str, Any] = Field(
        {}, description="Those of the query of /predict; binary_data_output: whether outputs come behind the JSON."
    )
    inputs: list[RequestInput] = Field(description="A tensor for each input of the model.")
    outputs: list[RequestOutput] = Field([], description="Those that are asked for; all where there are none.")


def read_content(text: bytes) -> RequestContent:
    """What a request's JSON holds; long lists of values are `Listed`.

    Raises:
        RowsError: it is no JSON, or no such request.
    """
    for mark, (called, most) in _MOST.items():
        if (count := text.count(mark)) > most:
            raise RowsError(f"the content holds {count} {called}; at most {most} are accepted")
    try:
        content = _parsed_apart(text) if len(text) > _LONG_BYTES else None
        content = orjson.loads(text) if content is None else content
    except (orjson.JSONDecodeError, RecursionError) as error:
        if isinstance(error, RecursionError) or "depth limit" in str(error):
            raise RowsError(_TOO_DEEP) from error
        raise RowsError(
            f"the content is no JSON: {error}; JSON is accepted, which has no NaN and no Infinity"
        ) from error
    try:
        return RequestContent.model_validate(content)
    except ValidationError as error:
        raise RowsError(_problems(error, content)) from error


def _problems(error: ValidationError, content: Any) -> str:
    problems = error.errors(include_url=False)
    if not isinstance(content, dict):
        return f"the content is a {type(content).__name__}; an object with inputs is accepted"
    unknown = [".".join(map(str, one["loc"])) for one in problems if one["type"] == "extra_forbidden"]
    missing = [".".join(map(str, one["loc"])) for one in problems if one["type"] == "missing"]
    rest = described((one for one in problems if one["type"] not in ("extra_forbidden", "missing")), content)
    return "; ".join(
        [f"{name} is no field of the protocol; without it a request is accepted" for name in unknown]
        + [f"{name} is missing; a request with it is accepted" for name in missing]
        + [f"{name} {what}" for name, what in rest.items()]
    )


def _parsed_apart(text: bytes) -> Any:
    """The content, with long lists of values as `Listed`; None where they cannot be told apart so.

    Each is replaced by an object before the rest is parsed. Within a text such an object would end that text in what is
    no JSON, so that nothing is taken for values that is none.
    """
    token = secrets.token_hex(8)
    lists: list[bytes] = []
    parts: list[bytes] = []
    end = 0
    for run in _RUN.finditer(text):
        if run.end() - run.start() < _LONG_BYTES:
            continue
        start, stop = text.find(b"[", run.start(), run.end()), text.rfind(b"]", run.start(), run.end()) + 1
        if start < 0 or stop <= start:
            return None
        parts += text[end:start], b'{"%b":%d}' % (token.encode(), len(lists))
        lists.append(text[start:stop])
        end = stop
    try:
        content = orjson.loads(b"".join([*parts, text[end:]]))
    except orjson.JSONDecodeError:
        return None
    inputs = content.get("inputs") if isinstance(content, dict) else None
    for tensor in inputs if isinstance(inputs, list) else ():
        data = tensor.get("data") if isinstance(tensor, dict) else None
        if isinstance(data, dict) and set(data) == {token}:
            tensor["data"] = Listed(lists[data[token]])
            lists[data[token]] = b""
    return content if not any(lists) else None
