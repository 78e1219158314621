"""Arrow as bodies and answers: what JSON would say, exactly, or a sentence; no memory for what is only claimed."""

import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from mcdropout.api.formats import ipc
from mcdropout.api.formats.arrow import read
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.inputs import Input
from tests.api.test_columns import PATIENT, TWO, WITHOUT_NAN
from tests.api.test_http import assert_problem
from tests.bundles import TOKEN_FIELDS, TOKENS, write_bundle
from tests.compilations import compiled
from tests.servers import Server, serving

STREAM, FILE = "application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"
SIDES = [
    {"name": "left", "shape": [2], "columns": ["a", "b"]},
    {"name": "right", "shape": [2], "columns": ["c", "d"], "categories": {"d": ["no", "yes"]}},
]
QUERY = "mc=5&seed=3"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of models of tables and tokens, whose steps no clock cuts: that moves the last digits of an answer."""
    folder = tmp_path_factory.mktemp("models")
    compiled(write_bundle(folder, "patients", WITHOUT_NAN, input=PATIENT))
    compiled(write_bundle(folder, "gaps", WITHOUT_NAN, input=PATIENT | {"missing": "allowed"}))
    compiled(write_bundle(folder, "two", TWO, input=None, inputs=SIDES, labels=["x", "y", "z"], version="é 1"))
    compiled(write_bundle(folder, "tokens", TOKENS, **TOKEN_FIELDS))
    log, steps = tmp_path_factory.mktemp("log"), {"MCDROPOUT_STEP_SECONDS": "100"}
    with serving(folder, log, "--default", "patients", "--no-compile", **steps) as running:
        running.wait_until_ready()
        yield running


def patients(**columns: Any) -> pa.Table:
    """Three patients, their columns in another order than the model's."""
    return pa.table(
        {
            "weight": [70.5, -1.0, 33.25],
            "ward": ["B", "intensive care", "A"],
            "b64": [0.0, 1.25, 7.0],
            "age": [31, 120, 5],
        }
        | columns
    )


def body(table: pa.Table, *, file: bool = False, compression: str | None = None, rows: int | None = None) -> bytes:
    """A table as a stream or a file, so many rows in a batch."""
    written = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(written, table.schema, options=options) as writer:
        writer.write_table(table, rows)
    content: bytes = written.getvalue().to_pybytes()
    return content


def post(server: Server, model: str, content: bytes, kind: str = STREAM, query: str = QUERY, **more: str) -> Any:
    headers = {"content-type": kind} | {name.replace("_", "-"): value for name, value in more.items()}
    return server.client.post(f"/models/{model}/predict?{query}", content=content, headers=headers)


def predictions(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def by_json(server: Server, model: str, inputs: Any, query: str = QUERY) -> Any:
    return predictions(server.client.post(f"/models/{model}/predict?{query}", json={"inputs": inputs}))


def records(table: pa.Table) -> Any:
    return table.to_pylist()


VIEWS = pa.DictionaryArray.from_arrays(pa.array([1, 2, 0]), pa.array(["A", "B", "intensive care"], pa.string_view()))
WRITTEN: dict[str, tuple[bytes, str]] = {
    "stream": (body(patients()), STREAM),
    "file": (body(patients(), file=True), FILE),
    "a row a batch": (body(patients(), rows=1), STREAM),
    "lz4": (body(patients(), compression="lz4"), STREAM),
    "zstd file": (body(patients(), file=True, compression="zstd"), FILE),
    "large text": (body(patients(ward=patients()["ward"].cast(pa.large_string()))), STREAM),
    "views": (body(patients(ward=patients()["ward"].cast(pa.string_view()))), STREAM),
    "dictionary": (body(patients(ward=patients()["ward"].dictionary_encode())), STREAM),
    "dictionary of views": (body(patients(ward=VIEWS)), STREAM),
    "compressed dictionary": (
        body(patients(ward=patients()["ward"].dictionary_encode()), compression="zstd", rows=2),
        STREAM,
    ),
    "narrow numbers": (body(patients(age=pa.array([31, 120, 5], pa.uint8())), file=True), FILE),
    "decimals": (body(patients(weight=patients()["weight"].cast(pa.decimal128(9, 3)))), STREAM),
    "pandas": (body(pa.Table.from_pandas(patients().to_pandas().astype({"ward": "category"}))), STREAM),
}


@pytest.mark.parametrize(("content", "kind"), WRITTEN.values(), ids=WRITTEN)
def test_a_table_is_answered_as_its_rows_are_in_json(tables: Server, content: bytes, kind: str) -> None:
    expected = by_json(tables, "patients", [[31, 1, 70.5, 0], [120, 7.5, -1, 1.25], [5, 0, 33.25, 7]])
    assert by_json(tables, "patients", records(patients())) == expected
    assert predictions(post(tables, "patients", content, kind)) == expected


def test_null_is_what_is_missing_where_that_is_allowed_and_named_by_its_row_and_column_elsewhere(
    tables: Server,
) -> None:
    gaps = patients(age=[31, None, 5], ward=["B", "A", None], b64=pa.nulls(3), weight=[np.nan, 1.0, 2.0])
    rows = [{name: None if cell != cell else cell for name, cell in row.items()} for row in records(gaps)]
    assert predictions(post(tables, "gaps", body(gaps))) == by_json(tables, "gaps", rows)
    for column in ("age", "ward"):
        cells = patients()[column].to_pylist()
        refused = post(tables, "patients", body(patients(**{column: [cells[0], None, cells[2]]})))
        assert_problem(refused, 422, [f"row 1 of inputs has null in the column '{column}'"])


def test_each_of_several_inputs_has_columns_of_its_own(tables: Server) -> None:
    table = pa.table({"d": ["yes", "no"], "a": [1, 4], "c": [3, 6], "b": [2.5, 5.0]})
    inputs = {"left": [[1, 2.5], [4, 5]], "right": [[3, 1], [6, 0]]}
    assert predictions(post(tables, "two", body(table))) == by_json(tables, "two", inputs)


IDS, MASKS = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 19]], [[True, True, True, False, False], [True] * 5]


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int16()), pa.list_(pa.uint8(), 5)], ids=str)
def test_inputs_without_columns_are_lists_by_their_names(tables: Server, kind: pa.DataType) -> None:
    table = pa.table({"attention_mask": MASKS, "input_ids": pa.array(IDS, kind)})
    expected = by_json(tables, "tokens", {"input_ids": IDS, "attention_mask": MASKS})
    assert predictions(post(tables, "tokens", body(table))) == expected
    numbers = table.set_column(0, "attention_mask", pa.array([[int(x) for x in row] for row in MASKS], kind))
    assert predictions(post(tables, "tokens", body(numbers))) == expected
    twos = table.set_column(0, "attention_mask", pa.array([[1] * 5, [1, 1, 2, 0, 0]], kind))
    assert_problem(
        post(tables, "tokens", body(twos)), 422, ["row 1 of inputs, in the column 'attention_mask', holds 2"]
    )
    more = post(tables, "tokens", body(table.append_column("id", [[1, 2]])))
    assert_problem(more, 422, ["the unknown columns ['id']; ['input_ids', 'attention_mask'] are accepted"])


def test_tensors_and_lists_of_lists_and_lists_of_several_lengths_are_rows(
    server: Server, seven: npt.NDArray[np.float64]
) -> None:
    rows = np.concatenate([seven, seven.swapaxes(2, 3)])
    expected = [row["label"] for row in by_json(server, "mnist-cnn", rows.tolist())]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 784)
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float64(), [1, 28, 28]), flat)
    for column in (tensors, flat, pa.array(rows.tolist())):
        answer = predictions(post(server, "mnist-cnn", body(pa.table({"image": column}))))
        assert [row["label"] for row in answer] == expected
    words = [[3, 14, 15], [9, 26], [5]]
    answer = predictions(post(server, "sentiment-cnn", body(pa.table({"words": words}))))
    np.testing.assert_allclose(
        [row["mean"] for row in answer], [row["mean"] for row in by_json(server, "sentiment-cnn", words)], rtol=1e-6
    )


def table_of(response: httpx.Response) -> pa.Table:
    assert response.status_code == 200, response.text
    opened = pa.ipc.open_stream if response.headers["content-type"] == STREAM else pa.ipc.open_file
    found = opened(pa.py_buffer(response.content)).read_all()
    found.validate(full=True)
    return found


@pytest.mark.parametrize("accept", [STREAM, FILE])
@pytest.mark.parametrize(
    "query", [QUERY, "mc=1&seed=3", "mc=0&seed=3", f"{QUERY}&samples=true", f"{QUERY}&fields=label"]
)
def test_an_answer_is_a_table_that_says_what_json_says(tables: Server, accept: str, query: str) -> None:
    inputs = {"left": [[1, 2.5], [4, 5]] * 700, "right": [[3, 1], [6, 0]] * 700}
    expected = by_json(tables, "two", inputs, query)
    headers = {"accept": accept}
    answer = tables.client.post(f"/models/two/predict?{query}", json={"inputs": inputs}, headers=headers)
    assert answer.headers["content-type"] == accept
    table = table_of(answer)
    nulls = {name for name, value in expected[0].items() if value is None}
    assert set(table.column_names) == set(expected[0]) - nulls
    assert table.to_pylist() == [{name: row[name] for name in table.column_names} for row in expected]
    assert "label" not in table.column_names or table.schema.field("label").type == pa.string()
    metadata = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    mc, seed = (part.partition("=")[2] for part in query.split("&")[:2])
    assert metadata == {
        f"mcdropout.{name}": value
        for name, value in zip(("model", "version", "mc", "seed"), ("two", "é 1", mc, seed), strict=True)
    }
    assert (answer.headers["x-mcdropout-seed"], answer.headers["x-mcdropout-version"]) == ("3", "%C3%A9 1")


def test_a_vector_is_a_list_of_a_fixed_size_and_a_map_lists_of_these(server: Server, tables: Server) -> None:
    answer = post(tables, "patients", body(patients()), accept=STREAM)
    mean = table_of(answer).column("mean").combine_chunks()
    assert mean.type == pa.list_(pa.float64(), 3)
    expected = by_json(tables, "patients", records(patients()))
    assert mean.flatten().to_numpy().reshape(3, 3).tolist() == [row["mean"] for row in expected]
    rows = np.zeros((2, 1, 48, 48), np.uint8)
    rows[:, :, 10:30, 20:24] = 255
    query = f"{QUERY}&fields=label,entropy"
    maps = server.client.post(
        f"/models/digits-segmentation/predict?{query}", json={"inputs": rows.tolist()}, headers={"accept": STREAM}
    )
    found = table_of(maps)
    assert found.schema.field("entropy").type == pa.list_(pa.list_(pa.float64(), 48), 48)
    expected = by_json(server, "digits-segmentation", rows.tolist(), query)
    assert found.column("label").to_pylist() == [row["label"] for row in expected]
    np.testing.assert_allclose(found.column("entropy").to_pylist(), [row["entropy"] for row in expected], atol=1e-9)


def test_the_formats_are_listed_and_a_stream_may_be_watched(tables: Server) -> None:
    assert {STREAM, FILE} <= set(tables.client.get("/models/patients").json()["formats"])
    headers = {"content-type": STREAM}
    watched = tables.client.post(f"/predict/stream?{QUERY}", content=body(patients()), headers=headers)
    assert watched.status_code == 200


def schema_of(columns: int) -> bytes:
    return body(pa.table({f"column{place}": pa.nulls(0, pa.int8()) for place in range(columns)}))


def repeated(times: int) -> bytes:
    """A stream of many batches without rows."""
    written = pa.BufferOutputStream()
    with pa.ipc.new_stream(written, patients().schema) as writer:
        for _ in range(times):
            writer.write_batch(pa.RecordBatch.from_pylist([], schema=patients().schema))
    content: bytes = written.getvalue().to_pybytes()
    return content


def with_ward(ward: pa.Array) -> bytes:
    return body(patients(ward=ward))


def bad_index() -> bytes:
    indices = pa.array([0, 1, 99], pa.int8())
    return with_ward(pa.DictionaryArray.from_arrays(indices, pa.array(["A", "B"]), safe=False))


def bad_offsets() -> bytes:
    offsets = pa.py_buffer(struct.pack("<4i", 0, 1 << 30, 1 << 29, 2))
    return with_ward(pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"AB")))


def bad_utf8() -> bytes:
    offsets = pa.py_buffer(struct.pack("<4i", 0, 1, 2, 3))
    return with_ward(pa.StringArray.from_buffers(3, offsets, pa.py_buffer(b"A\xff\xff")))


WIDE = pa.table({f"c{place}": pa.nulls(1, pa.int8()) for place in range(5)})
BAD: dict[str, tuple[bytes, str, list[str]]] = {
    "nothing": (b"", STREAM, ["cannot be read as Arrow"]),
    "something else": (b"PK\3\4" * 9, STREAM, ["cannot be read as Arrow"]),
    "a claim of 2 GiB of metadata": (b"\xff\xff\xff\xff\xff\xff\xff\x7f", STREAM, ["cannot be read as Arrow"]),
    "half a stream": (body(patients())[:600], STREAM, ["cannot be read as Arrow"]),
    "half a file": (body(patients(), file=True)[:-6], FILE, ["does not end as one; a whole file is accepted"]),
    "a schema alone": (body(patients()[:0]), STREAM, ["no rows; one or more are accepted"]),
    "an index that is none": (bad_index(), STREAM, ["cannot be read as Arrow"]),
    "offsets that are none": (bad_offsets(), STREAM, ["cannot be read as Arrow"]),
    "text that is no UTF-8": (bad_utf8(), STREAM, ["cannot be read as Arrow"]),
    "five columns": (body(WIDE), STREAM, ["5 columns, ['c0', 'c1'", "at most 4 are accepted"]),
    "thousands of columns": (schema_of(3000), STREAM, ["a schema with metadata of", "for 4 columns, are accepted"]),
    "thousands of batches": (repeated(1001), STREAM, ["more than 1000 messages"]),
    "too many rows": (
        body(pa.table({name: pa.nulls(5000, pa.float64()) for name in patients().column_names})),
        STREAM,
        ["inputs holds 5000 rows; 1 to 4096 are accepted"],
    ),
    "rows that take no memory": (
        body(pa.table({name: pa.Array.from_buffers(pa.null(), 2**31 - 1, [None]) for name in patients().column_names})),
        STREAM,
        ["inputs holds 2147483647 rows"],
    ),
    "a column too few": (body(patients().drop_columns("age")), STREAM, ["the content lacks the columns ['age']"]),
    "a misspelt column": (body(patients().rename_columns(["Weight", "ward", "b64", "age"])), STREAM, ["lacks"]),
    "a column twice": (body(patients().rename_columns(["age", "ward", "b64", "age"])), STREAM, ["lacks", "weight"]),
    "numbers for text": (with_ward(pa.array([1, 2, 3])), STREAM, ["the column 'ward' holds int64; text are accepted"]),
    "text for numbers": (body(patients(age=["1", "2", "3"])), STREAM, ["the column 'age' holds string; numbers"]),
    "dates": (body(patients(age=pa.array([1, 2, 3], pa.date32()))), STREAM, ["the column 'age' holds date32"]),
    "an unknown text": (
        with_ward(pa.array(["A", "B", "C"])),
        STREAM,
        ["row 2 of inputs has \"C\" in the column 'ward'; one of ['A', 'B', 'intensive care'] is accepted"],
    ),
    "an unknown text of a dictionary": (
        with_ward(pa.array(["A", "C", "B"]).dictionary_encode()),
        STREAM,
        ["row 1 of inputs has \"C\" in the column 'ward'"],
    ),
    "a number too large": (
        body(patients(age=[1, 2, 121])),
        STREAM,
        ["row 2 of inputs, in the column 'age', holds values from 121", "120"],
    ),
    "a decimal too large": (
        body(patients(weight=pa.array([1, 2, 700]).cast(pa.decimal128(21, 2)))),
        STREAM,
        ["row 2 of inputs, in the column 'weight', holds values from 700"],
    ),
    "a half too large": (
        body(patients(age=np.float16([1, 2, 700]))),
        STREAM,
        ["row 2 of inputs, in the column 'age', holds values from 700"],
    ),
    "a number too large beside a dictionary of views": (
        body(patients(age=[1, 2, 700], ward=VIEWS)),
        STREAM,
        ["row 2 of inputs, in the column 'age', holds values from 700"],
    ),
    "NaN": (body(patients(age=[1.0, np.nan, 3.0])), STREAM, ["row 1 of inputs"]),
    "infinity": (body(patients(age=[1.0, 2.0, np.inf])), STREAM, ["row 2 of inputs"]),
}


@pytest.mark.parametrize(("content", "kind", "said"), BAD.values(), ids=BAD)
def test_what_is_no_table_of_the_model_is_refused_in_a_sentence(
    tables: Server, content: bytes, kind: str, said: list[str]
) -> None:
    assert_problem(post(tables, "patients", content, kind), 422, said)


LARGE = 2**27


def zeros() -> bytes:
    return body(patients(weight=[np.zeros(LARGE // 3, np.int8)] * 3), compression="zstd")


def long_text() -> bytes:
    ward = pa.DictionaryArray.from_arrays(pa.array([0, 0, 0]), pa.array(["A" * LARGE]))
    return body(patients(ward=ward), compression="zstd")


def views_of_one_text() -> bytes:
    """4000 texts of 4 MiB, which are the same bytes."""
    views = struct.pack("<i4sii", 2**22, b"AAAA", 0, 0) * 4000
    ward = pa.Array.from_buffers(pa.string_view(), 4000, [None, pa.py_buffer(views), pa.py_buffer(b"A" * 2**22)])
    return body(pa.table({name: np.zeros(4000) for name in ("age", "weight", "b64")} | {"ward": ward}))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (zeros, "the content is compressed"),
        (long_text, "that grow to 134217"),
        (views_of_one_text, "views of 16777216000"),
    ],
)
def test_no_memory_is_taken_for_what_a_small_body_grows_to(tables: Server, made: Any, said: str) -> None:
    content = made()
    assert len(content) < 2**23
    post(tables, "patients", body(patients()))  # pyarrow is imported by then
    grown = tables.peak_memory_grown_by(lambda: assert_problem(post(tables, "patients", content), 422, [said]))
    assert grown < 48 * 1024


def test_what_compressed_buffers_grow_to_is_bounded_before_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    content = body(pa.table({"x": np.zeros(4000)}), compression="zstd")
    spec = Input(name="x", shape=[])
    (found,) = read(content, [spec], None, lambda: None)
    assert len(found) == 4000
    monkeypatch.setattr(ipc, "MOST_INFLATED_BYTES", 31_000)
    with pytest.raises(RowsError, match=r"that grow to 32000 or more; at most 31000 are accepted"):
        read(content, [spec], None, lambda: None)


def test_bytes_that_are_damaged_anywhere_are_read_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand and more bodies with a few bytes changed: in this process, which a crash would end."""
    generator = np.random.default_rng(7)
    monkeypatch.setattr(ipc, "MOST_INFLATED_BYTES", 2**16)
    spec = Input(**PATIENT)
    ward = patients()["ward"]
    whole = [
        body(patients()),
        body(patients(ward=ward.dictionary_encode()), file=True),
        body(patients(ward=ward.cast(pa.string_view()))),
        body(patients(), compression="zstd"),
        body(patients(ward=ward.dictionary_encode()), compression="lz4", rows=2),
    ]
    refused = 0
    for number in range(1500):
        content = bytearray(whole[number % len(whole)])
        for place in generator.integers(0, len(content), 1 + number % 4):
            content[place] = generator.choice([0, 1, 127, 128, 255, generator.integers(256)])
        try:
            read(bytes(content), [spec], 4096, lambda: None)
        except RowsError:
            refused += 1
    assert 300 < refused < 1400
