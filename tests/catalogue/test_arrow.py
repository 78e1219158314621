"""Columns of Arrow's tables as rows: what the same values in lists are, whatever type they have."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mcdropout.catalogue.arrow import columns_of, rows_of_table
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.tables import bound
from mcdropout.engine.sizes import Named

WARDS = {"A": 0, "B": 1.5}
PATIENT = {"name": "patient", "shape": [2], "columns": ["age", "ward"], "categories": {"ward": WARDS}}


def rows_of(table: pa.Table, **fields: Any) -> Any:
    """The rows of the one input that a table holds."""
    spec = Input(**fields)
    sizes = [size for size in spec.shape if isinstance(size, str)]
    spec.name_sizes({size: Named(size, 1, 9) for size in sizes})
    (found,) = rows_of_table("the table", table, bound("the table", columns_of(table.schema), [spec]))
    return found


def columns(age: Any = (31, 40), ward: Any = ("B", "A")) -> pa.Table:
    return pa.table({"ward": ward if isinstance(ward, pa.Array | pa.ChunkedArray) else list(ward), "age": age})


TEXTS: dict[str, Any] = {
    "string": pa.array(["B", "A"]),
    "large": pa.array(["B", "A"], pa.large_string()),
    "view": pa.array(["B", "A"], pa.string_view()),
    "dictionary": pa.array(["B", "A"]).dictionary_encode(),
    "dictionary of views": pa.DictionaryArray.from_arrays(pa.array([1, 0]), pa.array(["A", "B"], pa.string_view())),
    "entries that no row has": pa.DictionaryArray.from_arrays(pa.array([1, 0], pa.int8()), pa.array(["A", "B", "C"])),
    "two dictionaries": pa.chunked_array([pa.array(["B"]).dictionary_encode(), pa.array(["A"]).dictionary_encode()]),
}


@pytest.mark.parametrize("ward", TEXTS.values(), ids=TEXTS)
def test_categories_are_their_numbers_in_whatever_type_the_text_is(ward: Any) -> None:
    np.testing.assert_array_equal(rows_of(columns(ward=ward), **PATIENT), np.float32([[31, 1.5], [40, 0]]))


NULLS: dict[str, dict[str, Any]] = {
    "text": {"ward": ["B", None]},
    "an index": {"ward": pa.array(["B", None]).dictionary_encode()},
    "an entry": {"ward": pa.DictionaryArray.from_arrays(pa.array([1, 0]), pa.array([None, "B"]))},
    "nothing else": {"ward": pa.nulls(2)},
    "a number": {"age": [31, None]},
    "a number of a dictionary": {"age": pa.array([31, None]).dictionary_encode()},
}


@pytest.mark.parametrize("given", NULLS.values(), ids=NULLS)
def test_null_is_missing_where_that_is_allowed_and_refused_elsewhere(given: dict[str, Any]) -> None:
    table = columns(**given)
    expected = [[row["age"] is None, row["ward"] is None] for row in table.to_pylist()]
    assert np.isnan(rows_of(table, **PATIENT, missing="allowed")).tolist() == expected
    assert any(map(any, expected))
    with pytest.raises(RowsError, match=f"in the column '{next(iter(given))}', holds null"):
        rows_of(table, **PATIENT)


def test_whole_numbers_beside_categories_stay_whole_and_what_does_not_fit_is_refused() -> None:
    whole = PATIENT | {"dtype": "int64", "categories": {"ward": ["A", "B"]}}
    large = 2**62 + 1  # which no float64 is
    for kind in (pa.int64(), pa.uint64()):
        found = rows_of(columns(pa.array([large, 3], kind)), **whole)
        assert found.tolist() == [[large, 1], [3, 0]]
    with pytest.raises(RowsError, match=r"in the column 'age', holds 9223372036854775808, which is out of range"):
        rows_of(columns(pa.array([2**63, 3], pa.uint64())), **whole)


def test_a_bound_counts_as_the_dtype_of_a_column_has_it() -> None:
    tenth = pa.array([0.1, 0.1], pa.float32())  # 0.100000001...
    found = rows_of(pa.table({"a": tenth, "b": tenth}), shape=[2], columns=["a", "b"], maximum=0.1)
    assert found.shape == (2, 2)


def tensors(shape: tuple[int, ...], **more: Any) -> pa.Table:
    size = int(np.prod(shape))
    storage = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2.0 * size)), size)
    kind = pa.fixed_shape_tensor(pa.float64(), shape, **more)
    return pa.table({"input": pa.ExtensionArray.from_storage(kind, storage)})


def test_tensors_are_rows_of_their_shape_alone() -> None:
    expected = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_array_equal(rows_of(tensors((2, 3)), shape=[2, 3]), expected)
    np.testing.assert_array_equal(rows_of(tensors((2, 3)), shape=["high", 3]), expected)
    with pytest.raises(RowsError, match=r"tensors of the shape \[3, 2\]; \[2, 3\] for one row"):
        rows_of(tensors((3, 2)), shape=[2, 3])
    with pytest.raises(RowsError, match="dimensions are permuted, \\[1, 0\\]"):
        rows_of(tensors((2, 3), permutation=[1, 0]), shape=[2, 3])


def test_lists_of_several_sizes_are_a_row_after_another() -> None:
    nested = [[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]]
    found = rows_of(pa.table({"input": nested}), shape=["high", 3])
    assert [row.tolist() for row in found] == nested
    for ragged in ([[[1.0], [2.0, 3.0]]], [[]], [[[]]]):
        with pytest.raises(RowsError, match=r"is ragged|of the shape"):
            rows_of(pa.table({"input": pa.array(ragged, pa.list_(pa.list_(pa.float64())))}), shape=["high", "wide"])


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.list_(pa.list_(pa.float64(), 0)),
        pa.list_(pa.dictionary(pa.int8(), pa.float64())),
        pa.dictionary(pa.int8(), pa.list_(pa.float64())),
        pa.list_view(pa.float64()),
    ],
    ids=str,
)
def test_lists_of_anything_but_numbers_are_no_rows(kind: pa.DataType) -> None:
    with pytest.raises(RowsError, match="has no column of lists for the input 'input'"):
        rows_of(pa.table([pa.nulls(1, kind)], ["input"]), shape=["words"])
