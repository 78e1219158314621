"""Arrays as bodies and answers: what JSON would say, exactly, or a sentence; no memory for what is only claimed."""

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from numpy.lib import format as numpy_format

from tests.api.test_http import assert_problem
from tests.bundles import CLASSIFIER, TOKEN_FIELDS, TOKENS, write_bundle
from tests.compilations import compiled
from tests.servers import Server, serving

NPY, NPZ = "application/x-npy", "application/x-npz"
GAPS = CLASSIFIER.replace("self.layers(x)", "self.layers(x.nan_to_num(0.5))")
IDS = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 19]]
MASKS = [[True, True, True, False, False], [True] * 5]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of models that take several inputs, missing values, and numbers between 0 and 0.1."""
    folder = tmp_path_factory.mktemp("models")
    compiled(write_bundle(folder, "tokens", TOKENS, **TOKEN_FIELDS))
    compiled(write_bundle(folder, "gaps", GAPS, input={"shape": [4], "missing": "allowed"}))
    compiled(write_bundle(folder, "tenths", input={"shape": [4], "minimum": 0, "maximum": 0.1}))
    with serving(folder, tmp_path_factory.mktemp("log"), "--default", "tokens", "--no-compile") as running:
        running.wait_until_ready()
        yield running


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def claimed(shape: tuple[int, ...], dtype: str, content: bytes = b"") -> bytes:
    """A .npy whose header says so, whatever it holds."""
    file = io.BytesIO()
    numpy_format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def headed(text: bytes, version: bytes = b"\1\0") -> bytes:
    """A .npy with this header."""
    size = len(text).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + size + text


def post(server: Server, model: str, body: bytes, kind: str = NPY, query: str = "mc=5&seed=3", **more: str) -> Any:
    headers = {"content-type": kind} | {name.replace("_", "-"): value for name, value in more.items()}
    return server.client.post(f"/models/{model}/predict?{query}", content=body, headers=headers)


def predictions(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def by_json(server: Server, model: str, inputs: Any, query: str = "mc=5&seed=3") -> Any:
    return predictions(server.client.post(f"/models/{model}/predict?{query}", json={"inputs": inputs}))


@pytest.mark.parametrize(
    "written",
    [
        lambda x: x,
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.uint8),
        lambda x: x.astype(">f4"),
        lambda x: x.astype(">i2"),
        lambda x: x.astype(np.float16),
        lambda x: np.asfortranarray(x),
        lambda x: x.astype(">u8")[:, :, ::-1][:, :, ::-1],
    ],
)
def test_an_array_of_any_dtype_and_order_is_answered_as_the_same_numbers_in_json(
    server: Server, seven: npt.NDArray[np.float64], written: Any
) -> None:
    rows = np.concatenate([seven, np.round(seven / 2), seven.swapaxes(2, 3)])
    assert predictions(post(server, "mnist-cnn", npy(written(rows)))) == by_json(server, "mnist-cnn", rows.tolist())


def test_one_row_and_many_rows_are_taken(server: Server, seven: npt.NDArray[np.float64]) -> None:
    (expected,) = by_json(server, "mnist-cnn", seven.tolist())
    assert predictions(post(server, "mnist-cnn", npy(seven[0]))) == [expected]
    many = predictions(post(server, "mnist-cnn", npy(seven.repeat(300, axis=0).astype(np.float32))))
    assert len(many) == 300
    np.testing.assert_allclose(many[0]["mean"], expected["mean"], atol=1e-6)


def test_arrays_of_version_2_and_of_a_size_that_differs_are_taken(server: Server) -> None:
    words = np.array([[3, 14, 15], [9, 26, 5]], np.int16)
    file = io.BytesIO()
    numpy_format.write_array(file, words, version=(2, 0))
    expected = by_json(server, "sentiment-cnn", words.tolist())
    assert predictions(post(server, "sentiment-cnn", file.getvalue())) == expected


def test_several_inputs_come_by_their_names_in_one_archive(several: Server) -> None:
    expected = by_json(several, "tokens", {"input_ids": IDS, "attention_mask": MASKS})
    arrays = {"attention_mask": np.array(MASKS), "input_ids": np.array(IDS)}
    assert predictions(post(several, "tokens", npz(**arrays), NPZ)) == expected
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    assert predictions(post(several, "tokens", file.getvalue(), NPZ)) == expected
    one = {name: array[0] for name, array in arrays.items()}
    assert predictions(post(several, "tokens", npz(**one), NPZ))[0]["mean"] == pytest.approx(expected[0]["mean"])


@pytest.mark.parametrize("dtype", ["int64", "uint8", ">i4"])
def test_a_mask_may_come_as_the_ones_and_zeros_that_tokenizers_give(several: Server, dtype: str) -> None:
    expected = by_json(several, "tokens", {"input_ids": IDS, "attention_mask": MASKS})
    arrays = {"attention_mask": np.array(MASKS, dtype), "input_ids": np.array(IDS)}
    assert predictions(post(several, "tokens", npz(**arrays), NPZ)) == expected
    arrays["attention_mask"][1, 3] = 2
    refused = post(several, "tokens", npz(**arrays), NPZ)
    assert_problem(refused, 422, ["inputs.attention_mask holds 2; true and false, or 1 and 0, are accepted"])


def test_nan_stands_for_what_is_missing_where_that_is_allowed(several: Server) -> None:
    rows = np.array([[1.0, np.nan, 2.0, 3.0]])
    expected = by_json(several, "gaps", [[1.0, None, 2.0, 3.0]])
    assert predictions(post(several, "gaps", npy(rows))) == expected
    assert_problem(post(several, "tenths", npy(np.array([[0.0, np.nan, 0.0, 0.0]]))), 422, ["inputs holds NaN"])


def test_a_bound_counts_as_the_dtype_of_the_values_has_it(several: Server) -> None:
    at_most = np.full((1, 4), 0.1, np.float32)  # 0.100000001...
    assert predictions(post(several, "tenths", npy(at_most)))
    beyond = np.full((1, 4), np.nextafter(np.float32(0.1), np.float32(1.0)), np.float32)
    assert_problem(post(several, "tenths", npy(beyond)), 422, ["inputs holds values from", "0.1"])


def test_the_mean_comes_back_as_an_array_and_the_rest_in_headers(
    server: Server, seven: npt.NDArray[np.float64]
) -> None:
    expected = by_json(server, "mnist-cnn", seven.tolist())
    answer = post(server, "mnist-cnn", npy(seven), accept=NPY)
    assert answer.headers["content-type"] == NPY
    assert np.load(io.BytesIO(answer.content)).tolist() == [row["mean"] for row in expected]
    assert {name: answer.headers[f"x-mcdropout-{name}"] for name in ("model", "version", "mc", "seed")} == {
        "model": "mnist-cnn",
        "version": "1",
        "mc": "5",
        "seed": "3",
    }
    drawn = post(server, "mnist-cnn", npy(seven), query="mc=5", accept=NPY)
    again = post(server, "mnist-cnn", npy(seven), query=f"mc=5&seed={drawn.headers['x-mcdropout-seed']}", accept=NPY)
    assert again.content == drawn.content
    auto = post(server, "mnist-cnn", npy(seven), query="mc=auto&tolerance=0.02", accept=NPY)
    assert (auto.headers["x-mcdropout-mc"], auto.headers["x-mcdropout-tolerance"]) == ("auto", "0.02")


def test_the_field_that_was_asked_for_comes_as_an_array_and_several_as_an_archive(
    server: Server, seven: npt.NDArray[np.float64]
) -> None:
    expected = by_json(server, "mnist-cnn", seven.repeat(3, axis=0).tolist())
    body = npy(seven.repeat(3, axis=0))
    entropy = post(server, "mnist-cnn", body, query="mc=5&seed=3&fields=entropy", accept=NPY)
    assert np.load(io.BytesIO(entropy.content)).tolist() == [row["entropy"] for row in expected]
    for accept in (NPY, NPZ):
        answer = post(server, "mnist-cnn", body, query="mc=5&seed=3&fields=entropy,label", accept=accept)
        assert answer.headers["content-type"] == NPZ
        with np.load(io.BytesIO(answer.content)) as arrays:
            assert sorted(arrays) == ["entropy", "label", "passes"]
            assert arrays["entropy"].tolist() == [row["entropy"] for row in expected]
            assert list(map(str, arrays["label"])) == [row["label"] for row in expected]
            assert arrays["passes"].tolist() == [5, 5, 5]
    everything = post(server, "mnist-cnn", body, query="mc=5&seed=3&samples=true", accept=NPZ)
    with np.load(io.BytesIO(everything.content)) as arrays:
        assert set(arrays) == {*expected[0], "samples"}
        np.testing.assert_allclose(arrays["samples"].mean(axis=1), arrays["mean"], atol=1e-12)
    mean = post(server, "mnist-cnn", body, query="mc=5&seed=3&samples=true", accept=NPY)
    with np.load(io.BytesIO(mean.content)) as arrays:
        assert set(arrays) == {"mean", "passes", "samples"}


def test_what_only_several_passes_tell_is_left_out_of_an_archive_and_refused_alone(
    server: Server, seven: npt.NDArray[np.float64]
) -> None:
    body = npy(seven)
    with np.load(io.BytesIO(post(server, "mnist-cnn", body, query="mc=0", accept=NPZ).content)) as arrays:
        assert "mean" in arrays
        assert "variance" not in arrays
    refused = post(server, "mnist-cnn", body, query="mc=0&fields=variance", accept=NPY)
    assert_problem(refused, 422, ["variance is null", "mc=0"])


def test_a_map_comes_back_as_an_array_of_its_places(server: Server) -> None:
    rows = np.zeros((2, 1, 48, 48), np.uint8)
    rows[:, :, 10:30, 20:24] = 255
    expected = by_json(server, "digits-segmentation", rows.tolist(), "mc=5&seed=3&fields=entropy")
    answer = post(server, "digits-segmentation", npy(rows), query="mc=5&seed=3&fields=entropy", accept=NPY)
    found = np.load(io.BytesIO(answer.content))
    assert found.shape == (2, 48, 48)
    assert found.tolist() == [row["entropy"] for row in expected]


def test_rows_of_several_sizes_are_answered_in_their_order(server: Server) -> None:
    rows = [[3, 14, 15], [9, 26], [5, 3, 5]]
    expected = by_json(server, "sentiment-cnn", rows)
    answer = server.client.post(
        "/models/sentiment-cnn/predict?mc=5&seed=3", json={"inputs": rows}, headers={"accept": NPY}
    )
    assert np.load(io.BytesIO(answer.content)).tolist() == [row["mean"] for row in expected]


NAN = np.full((1, 1, 28, 28), np.nan)
DIGIT = np.zeros((1, 1, 28, 28), np.uint8)
PLAIN = "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 28, 28), }"
BAD: list[tuple[str, str, bytes, list[str]]] = [
    ("mnist-cnn", NPY, b"", ["no header of a .npy"]),
    ("mnist-cnn", NPY, b"PK\3\4", ["no header of a .npy"]),
    ("mnist-cnn", NPY, b"\x93NUMPY", ["no header of a .npy"]),
    ("mnist-cnn", NPY, headed(b"", b"\3\0"), ["version (3, 0)", "(1, 0) and (2, 0) are accepted"]),
    ("mnist-cnn", NPY, headed(b"\n"), ["no header of a .npy"]),
    ("mnist-cnn", NPY, headed(b"import os\n"), ["no header of a .npy"]),
    ("mnist-cnn", NPY, headed(b"[1, 2]\n"), ["no header of a .npy"]),
    ("mnist-cnn", NPY, headed(b"(" * 3000), ["no header of a .npy"]),
    ("mnist-cnn", NPY, headed(b"-" * 3000 + b"1\n"), ["no header of a .npy"]),
    ("mnist-cnn", NPY, headed(PLAIN.encode() + b" " * 5000 + b"\n"), ["no header of a .npy"]),
    ("mnist-cnn", NPY, headed(PLAIN.replace("'shape'", "'form'").encode() + b"\n"), ["no header of a .npy"]),
    ("mnist-cnn", NPY, b"\x93NUMPY\2\0\xff\xff\xff\xff" + PLAIN.encode(), ["no header of a .npy"]),
    ("mnist-cnn", NPY, claimed((10**13 // 784, 1, 28, 28), "|u1"), ["rows; 1 to 4096 are accepted"]),
    ("mnist-cnn", NPY, claimed((10**13,), "|u1"), ["the shape [10000000000000]", "[1, 28, 28] for one row"]),
    ("mnist-cnn", NPY, claimed((-1, 1, 28, 28), "|u1"), ["the shape [-1, 1, 28, 28]"]),
    ("mnist-cnn", NPY, claimed((0, 1, 28, 28), "|u1"), ["the shape [0, 1, 28, 28]"]),
    ("mnist-cnn", NPY, claimed((4096, 1, 28, 28), "<f8"), ["0 bytes of values; 25690112, for float64"]),
    ("mnist-cnn", NPY, npy(DIGIT)[:-1], ["783 bytes of values; 784"]),
    ("mnist-cnn", NPY, npy(DIGIT) + b"\0", ["785 bytes of values; 784"]),
    ("mnist-cnn", NPY, npy(DIGIT[0, 0]), ["the shape [28, 28]"]),
    ("mnist-cnn", NPY, npy(np.zeros((1, 28, 28, 1))), ["the shape [1, 28, 28, 1]"]),
    ("mnist-cnn", NPY, npy(np.zeros(())), ["the shape []"]),
    ("mnist-cnn", NPY, npy(NAN), ["inputs holds NaN; finite numbers are accepted"]),
    ("mnist-cnn", NPY, npy(np.full((1, 28, 28), np.inf)), ["inputs holds infinity"]),
    ("mnist-cnn", NPY, npy(np.full((1, 28, 28), -1, np.int8)), ["values from -1 to -1; 0.0 to 255.0|0 to 255"]),
    ("mnist-cnn", NPY, npy(DIGIT.astype(bool)), ["the dtype bool; float16, float32, float64 or an integer dtype"]),
    ("mnist-cnn", NPY, npy(DIGIT.astype(np.complex64)), ["the dtype complex64"]),
    ("mnist-cnn", NPY, npy(DIGIT.astype(np.longdouble)), ["the dtype float128|longdouble"]),
    ("mnist-cnn", NPY, npy(DIGIT.astype("S3")), ["the dtype |S3"]),
    ("mnist-cnn", NPY, npy(DIGIT.astype("M8[s]")), ["the dtype datetime64"]),
    ("mnist-cnn", NPY, npy(np.zeros((1, 28, 28), [("a", "f4"), ("b", "f4")])), ["the dtype"]),
    ("mnist-cnn", NPY, claimed((1, 28, 28), "|O", b"\x80\4N." * 784), ["the dtype object"]),
    ("sentiment-cnn", NPY, npy(np.array([[1.0, 2.0]])), ["the dtype float64; an integer dtype is accepted"]),
    ("sentiment-cnn", NPY, npy(np.array([[1, 4096]])), ["values from 1 to 4096", "4095"]),
    ("sentiment-cnn", NPY, npy(np.array([[2**64 - 1]], np.uint64)), ["18446744073709551615"]),
    ("sentiment-cnn", NPY, npy(np.ones((1, 129), int)), ["the shape [1, 129]"]),
    ("mnist-cnn", NPZ, b"", ["does not end as a .npz does"]),
    ("mnist-cnn", NPZ, npy(DIGIT), ["does not end as a .npz does"]),
    ("mnist-cnn", NPZ, npz(arr_0=DIGIT), ["holds ['arr_0']; one array for each of ['image']"]),
    ("mnist-cnn", NPZ, npz(image=DIGIT, more=DIGIT), ["one array for each of ['image']"]),
    ("mnist-cnn", NPZ, npz(image=DIGIT[0, 0]), ["inputs.image has the shape [28, 28]"]),
    ("mnist-cnn", NPZ, npz(image=DIGIT) + b"more", ["does not end as a .npz does"]),
    ("mnist-cnn", NPZ, npz(image=DIGIT)[60:], ["damaged .npz"]),
    ("mnist-cnn", NPZ, npz(**{f"member{i}": 0 for i in range(100)}), ["directory of"]),
]


@pytest.mark.parametrize(("model", "kind", "body", "said"), BAD)
def test_what_is_no_array_of_the_model_is_refused_in_a_sentence(
    server: Server, model: str, kind: str, body: bytes, said: list[str]
) -> None:
    response = post(server, model, body, kind)
    assert response.status_code == 422, response.text
    for words in said:
        assert any(part in response.json()["detail"] for part in words.split("|")) or words in response.text, (
            response.text
        )


def test_inputs_that_do_not_fit_one_another_are_refused_by_name(several: Server) -> None:
    for arrays, said in (
        (
            {"input_ids": np.array(IDS)},
            "lacks ['attention_mask'] and holds ['input_ids']; one array for each of ['input_ids', 'attention_mask']",
        ),
        ({"input_ids": np.array(IDS), "attention_mask": np.array(MASKS)[:1]}, "lists of the same number of rows"),
        ({"input_ids": np.array(IDS), "attention_mask": np.ones((2, 5))}, "inputs.attention_mask has the dtype"),
    ):
        assert_problem(post(several, "tokens", npz(**arrays), NPZ), 422, [said])
    assert_problem(post(several, "tokens", npy(np.array(IDS))), 422, ["one array", NPZ])
    byte = npz(input_ids=np.array(IDS), attention_mask=np.full((2, 5), 7, np.uint8).view(bool))
    assert_problem(post(several, "tokens", byte, NPZ), 422, ["attention_mask holds the byte 7"])


RAW = "application/octet-stream"


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int64", "UINT16"])
def test_raw_values_are_read_by_the_shape_and_the_dtype_that_headers_say(
    server: Server, seven: npt.NDArray[np.float64], dtype: str
) -> None:
    rows = np.round(np.concatenate([seven, seven.swapaxes(2, 3)]))
    content = rows.astype(np.dtype(dtype.lower()).newbyteorder("<")).tobytes()
    expected = by_json(server, "mnist-cnn", rows.tolist())
    sent = post(server, "mnist-cnn", content, RAW, x_shape="2,1,28,28", x_dtype=dtype)
    assert predictions(sent) == expected
    one = post(server, "mnist-cnn", content[: len(content) // 2], RAW, x_shape="1, 28, 28", x_dtype=dtype)
    assert predictions(one)[0]["label"] == "7"


DIGIT_SHAPE, BYTE = {"x_shape": "1,28,28"}, {"x_dtype": "uint8"}


@pytest.mark.parametrize(
    ("headers", "size", "said"),
    [
        ({}, 784, "X-Dtype is missing"),
        (BYTE, 784, "X-Shape is missing"),
        (DIGIT_SHAPE, 784, "X-Dtype is missing"),
        (BYTE | {"x_shape": ""}, 784, "inputs has the shape []"),
        (BYTE | {"x_shape": "1,28,"}, 784, "X-Shape is '1,28,'; sizes with commas between"),
        (BYTE | {"x_shape": "1,28,-28"}, 784, "X-Shape is '1,28,-28'"),
        (BYTE | {"x_shape": "1,28,28.0"}, 784, "X-Shape is '1,28,28.0'"),
        (BYTE | {"x_shape": "(1, 28, 28)"}, 784, "X-Shape is '(1, 28, 28)'"),
        (BYTE | {"x_shape": "9" * 5000}, 784, "X-Shape is '999"),
        (BYTE | {"x_shape": "1," * 100 + "1"}, 784, "X-Shape is '1,1"),
        (BYTE | {"x_shape": "0,1,28,28"}, 0, "the shape [0, 1, 28, 28]"),
        (BYTE | {"x_shape": "28,28"}, 784, "the shape [28, 28]"),
        (BYTE | {"x_shape": "10000000000000,1,28,28"}, 784, "10000000000000 rows; 1 to 4096"),
        (BYTE | {"x_shape": "4096,1,28,28"}, 784, "784 bytes of values; 3211264"),
        (BYTE | DIGIT_SHAPE, 783, "783 bytes of values; 784"),
        (BYTE | DIGIT_SHAPE, 785, "785 bytes of values; 784"),
        (BYTE | DIGIT_SHAPE, 0, "0 bytes of values; 784"),
        (DIGIT_SHAPE | {"x_dtype": "float128"}, 784, "X-Dtype is 'float128'; one of float64"),
        (DIGIT_SHAPE | {"x_dtype": "object"}, 784, "X-Dtype is 'object'"),
        (DIGIT_SHAPE | {"x_dtype": ">f4"}, 784, "X-Dtype is '>f4'"),
        (DIGIT_SHAPE | {"x_dtype": "bool"}, 784, "the dtype bool"),
    ],
)
def test_raw_values_that_are_no_rows_are_refused_in_a_sentence(
    server: Server, headers: dict[str, str], size: int, said: str
) -> None:
    assert_problem(post(server, "mnist-cnn", bytes(size), RAW, **headers), 422, [said])


def test_raw_values_of_nan_and_of_no_bool_are_refused(server: Server, several: Server) -> None:
    nan = np.full((1, 28, 28), np.nan, "<f4").tobytes()
    assert_problem(post(server, "mnist-cnn", nan, RAW, x_shape="1,28,28", x_dtype="float32"), 422, ["holds NaN"])
    tokens = post(several, "tokens", b"", RAW, x_shape="5", x_dtype="bool")
    assert_problem(tokens, 422, ["one tensor", "['input_ids', 'attention_mask']"])


def member(name: str, content: bytes, declared: int | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of one member, whose size is said to be another one."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    body = bytearray(file.getvalue())
    if declared is not None:
        for place, offset in ((0, 22), (body.index(b"PK\1\2"), 24)):
            body[place + offset : place + offset + 4] = declared.to_bytes(4, "little")
    return bytes(body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (claimed((10**13, 1, 28, 28), "<f8"), "rows; 1 to 4096"),
        (claimed((4096, 1, 28, 28), "<f8"), "0 bytes of values"),
        (member("image.npy", bytes(300 * 2**20)), "at most 33554432 are accepted"),
        (member("image.npy", b"\x93NUMPY", declared=2**32 - 2), "at most 33554432 are accepted"),
        (member("image.npy", bytes(30 * 2**20)), "no header of a .npy"),
        (member("image.npy", claimed((4096, 1, 28, 28), "|u1", bytes(30 * 2**20))), "bytes of values; 3211264"),
        (
            member("image.npy", (ends := claimed((4096, 1, 28, 28), "<f8")), declared=len(ends) + 25690112),
            "ends after 0 bytes|damaged",
        ),
        (member("image.npy", claimed((1, 28, 28), "|u1", bytes(784)), method=zipfile.ZIP_LZMA), "method 14"),
        (member("image.npy", claimed((1, 28, 28), "|u1", bytes(784)), method=zipfile.ZIP_BZIP2), "method 12"),
    ],
)
def test_no_memory_is_taken_for_what_a_header_claims(server: Server, body: bytes, said: str) -> None:
    post(server, "mnist-cnn", body[:100])  # what a refusal takes anyway

    def refused() -> None:
        response = post(server, "mnist-cnn", body, NPZ if body.startswith(b"PK") else NPY)
        assert response.status_code == 422
        assert any(part in response.json()["detail"] for part in said.split("|")), response.text

    assert server.peak_memory_grown_by(refused) < 16 * 1024


def test_a_model_says_which_bodies_it_takes_and_the_document_what_is_sent_along(
    server: Server, several: Server
) -> None:
    assert {NPY, NPZ} <= set(server.client.get("/models/mnist-cnn").json()["formats"])
    of_several = several.client.get("/models/tokens").json()["formats"]
    assert NPZ in of_several
    assert NPY not in of_several
    operation = server.client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    for kind in (NPY, NPZ):
        assert operation["requestBody"]["content"][kind]["schema"]["format"] == "binary"
        assert operation["responses"]["200"]["content"][kind]["schema"]["format"] == "binary"
    described = {one["name"]: one for one in operation["parameters"] if one["in"] == "header"}
    assert described["X-Shape"]["example"] == "4,1,28,28"
    assert described["X-Dtype"]["required"] is False
    assert RAW in operation["requestBody"]["content"]
    assert RAW not in operation["responses"]["200"]["content"]
    assert "X-MCDropout-Seed" in operation["responses"]["200"]["headers"]
