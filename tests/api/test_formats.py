"""Wire formats: another one is added in one place, and what a client says it sends and accepts is what counts."""

import asyncio
import csv
import io
import json
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from mcdropout.api import Services, create_app, formats
from mcdropout.api.formats import DEFAULT, Format, of_answer, of_content, register
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.rows import read_rows
from mcdropout.engine.arrays import Array
from mcdropout.predictions import Answered, Pause
from mcdropout.settings import Settings
from tests.conftest import MODELS
from tests.patience import looping_until


def read_csv(body: bytes, inputs: Sequence[Input], most: int | None, pause: Pause) -> tuple[Array, ...]:
    rows = [[float(value) for value in line] for line in csv.reader(io.StringIO(body.decode()))]
    return read_rows(orjson.dumps({"inputs": rows}), inputs, most)


def write_csv(answered: Answered, pause: Pause) -> bytes:
    prediction = answered.answer.prediction
    out = io.StringIO()
    for mean, passes in zip(prediction.mean.ravel().tolist(), prediction.passes.tolist(), strict=True):
        csv.writer(out).writerow([mean, passes])
    return out.getvalue().encode()


CSV = Format("CSV", ("text/csv", "application/csv"), read_csv, write_csv)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of formats of the test's own."""
    monkeypatch.setattr(formats, "TABLE", dict(formats.TABLE))


def serve(folder: Path, steps: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """The service's app in this process, on the concrete model."""
    shutil.copytree(MODELS / "concrete-mlp", folder / "models" / "concrete-mlp")
    services = Services.of(Settings(models=folder / "models"))
    app = create_app(services)

    async def run() -> None:
        async with services.running():
            await looping_until(lambda: services.registry.begun)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                await steps(client)

    asyncio.run(run())


def example() -> Any:
    return json.loads((MODELS / "concrete-mlp" / "example.json").read_text())["inputs"]


@pytest.mark.usefixtures("table")
def test_a_format_that_is_registered_is_read_written_and_described(tmp_path: Path) -> None:
    rows = np.atleast_2d(np.asarray(example(), float))
    lines = "\n".join(",".join(map(str, row)) for row in rows).encode()

    async def steps(client: httpx.AsyncClient) -> None:
        as_csv, to_csv = {"content-type": "text/csv"}, {"accept": "text/csv"}
        unknown = await client.post("/predict", content=lines, headers=as_csv)
        assert unknown.status_code == 415
        bodies = formats.media_types_of_bodies()
        assert unknown.json()["detail"] == f"the content type is 'text/csv'; {' or '.join(bodies)} is accepted"
        register(CSV)
        expected = (await client.post("/predict?mc=5&seed=1", json={"inputs": rows.tolist()})).json()["predictions"]
        answer = await client.post("/predict?mc=5&seed=1", content=lines, headers=as_csv | to_csv)
        assert answer.headers["content-type"].startswith("text/csv")
        found = [[float(value) for value in line] for line in csv.reader(io.StringIO(answer.text))]
        assert found == [[*np.ravel(row["mean"]), row["passes"]] for row in expected]
        from_csv = await client.post("/predict?mc=5&seed=1", content=lines, headers=as_csv)
        assert from_csv.json()["predictions"] == expected
        other = await client.post("/predict", content=lines, headers={"content-type": "text/xml"})
        assert " or text/csv or application/csv is accepted" in other.json()["detail"]
        described = (await client.get("/models/concrete-mlp")).json()
        assert described["formats"][-2:] == ["text/csv", "application/csv"]
        for path in ("/predict", "/models/{name}/predict"):
            operation = (await client.get("/openapi.json")).json()["paths"][path]["post"]
            assert list(operation["requestBody"]["content"]) == [*bodies, "text/csv", "application/csv"]
            assert list(operation["responses"]["200"]["content"])[-1] == "text/csv"

    serve(tmp_path, steps)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, DEFAULT),
        ("*/*", DEFAULT),
        ("application/*", DEFAULT),
        ("text/*", DEFAULT),
        ("text/html", DEFAULT),
        ("", DEFAULT),
        ("text/csv", CSV),
        ("application/csv; charset=utf-8", CSV),
        ("text/html, text/csv;q=0.2", CSV),
        ("text/csv;q=0.5, */*", DEFAULT),
        ("text/csv;q=0.5, */*;q=0.1", CSV),
        ("application/json, text/csv", DEFAULT),
        ("text/csv, application/json", CSV),
        ("text/csv;q=0", DEFAULT),
        ("text/csv;q=much", DEFAULT),
    ],
)
def test_an_answer_is_in_the_format_that_is_accepted_most_and_in_json_where_that_is_left_open(
    accept: str | None, expected: Format
) -> None:
    register(CSV)
    assert of_answer(accept) is expected


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/vnd.api+json",
        " application/json",
    ],
)
def test_json_is_known_by_its_media_type_whatever_is_said_with_it(kind: str) -> None:
    assert of_content(kind) is DEFAULT


@pytest.mark.parametrize("kind", ["", "text/json", "text/plain+json", "json", "application/", "application/jsonx"])
def test_what_is_not_json_is_refused_with_what_is_accepted(kind: str) -> None:
    with pytest.raises(formats.MediaTypeError, match=r"application/json or .* is accepted"):
        of_content(kind)
