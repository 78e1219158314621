"""Images as bodies, in JSON, and as answers: the same as their pixels in JSON, or a sentence; and no bombs."""

import base64
import io
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image

from mcdropout.catalogue.images import MOST_NUMBERS, images_of
from mcdropout.catalogue.inputs import Input
from mcdropout.catalogue.manifest import BundleError, read_manifest
from mcdropout.catalogue.rows import RowsError
from tests.api.test_http import assert_problem
from tests.bundles import TOKEN_FIELDS, TOKENS, manifest, write_bundle
from tests.compilations import compiled
from tests.servers import Server, serving

PNG, JPEG = "image/png", "image/jpeg"
HEIGHT, WIDTH = 6, 8


def flat(numbers: int) -> str:
    """A network that looks at each of so many numbers."""
    return f"""
        from torch import nn

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.Sequential(nn.Flatten(), nn.Linear({numbers}, 8), nn.ReLU(), nn.Dropout(0.5))
                self.last = nn.Linear(8, 3)

            def forward(self, x):
                return self.last(self.layers(x.float() / 100))
    """


ANY_SIZE = """
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.drop, self.last = nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(self.drop(self.first(x.mean((1, 2))[:, None] / 100).relu()))
"""
MAP = """
    from torch import nn

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.drop, self.last = nn.Conv2d(1, 4, 1), nn.Dropout(0.5), nn.Conv2d(4, 1, 1)

        def forward(self, x):
            return self.last(self.drop(self.first(x / 100).relu()))[:, 0]
"""
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.5]
NORMALISED = {"scale": 1 / 255, "mean": MEAN, "std": STD}
BUNDLES: dict[str, tuple[str, dict[str, Any]]] = {
    "cropped": (
        flat(3 * HEIGHT * WIDTH),
        {"input": {"shape": [3, HEIGHT, WIDTH], "image": {"mode": "rgb", "resize": "crop", "values": NORMALISED}}},
    ),
    "stretched": (
        flat(3 * HEIGHT * WIDTH),
        {
            "input": {
                "shape": [HEIGHT, WIDTH, 3],
                "dtype": "uint8",
                "image": {"mode": "rgb", "layout": "HWC", "resize": "stretch"},
            }
        },
    ),
    "any-size": (
        ANY_SIZE,
        {
            "input": {"shape": ["height", "width"], "maximum": 250, "image": {"mode": "grey", "layout": "HW"}},
            "sizes": {"height": [2, 40], "width": [2, 40]},
        },
    ),
    "binary-map": (
        MAP,
        {"task": "binary", "input": {"shape": [1, HEIGHT, WIDTH], "image": {"mode": "grey"}}},
    ),
    "tokens": (TOKENS, TOKEN_FIELDS),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of small models of images."""
    folder = tmp_path_factory.mktemp("models")
    for name, (network, fields) in BUNDLES.items():
        compiled(write_bundle(folder, name, network, **fields))
    with serving(folder, tmp_path_factory.mktemp("log"), "--default", "cropped", "--no-compile") as running:
        running.wait_until_ready()
        yield running


def written(pixels: Any, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, form, **options)
    return file.getvalue()


def decoded(content: bytes, mode: str) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(content)).convert(mode))


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


def post(server: Server, model: str, body: bytes, kind: str = PNG, query: str = "mc=5&seed=3", **more: str) -> Any:
    headers = {"content-type": kind} | more
    return server.client.post(f"/models/{model}/predict?{query}", content=body, headers=headers)


def predictions(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["predictions"]


def by_json(server: Server, model: str, inputs: Any, query: str = "mc=5&seed=3") -> Any:
    return predictions(server.client.post(f"/models/{model}/predict?{query}", json={"inputs": inputs}))


def noise(*shape: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(sum(shape)).integers(0, 250, shape).astype(np.uint8)


def test_an_image_is_answered_as_its_pixels(server: Server, seven: npt.NDArray[np.float64]) -> None:
    grey = np.round(seven[0, 0]).astype(np.uint8)
    expected = by_json(server, "mnist-cnn", [[grey.tolist()]])
    assert expected[0]["label"] == "7"
    assert predictions(post(server, "mnist-cnn", written(grey))) == expected
    lossy = written(grey, "JPEG", quality=90)
    assert predictions(post(server, "mnist-cnn", lossy, JPEG)) == by_json(
        server, "mnist-cnn", [[decoded(lossy, "L").tolist()]]
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "P", "1"])
def test_grey_may_come_in_any_colours_and_with_an_alpha_channel_that_hides_nothing(
    server: Server, seven: npt.NDArray[np.float64], mode: str
) -> None:
    grey = Image.fromarray(np.where(seven[0, 0] > 127, 255, 0).astype(np.uint8))
    expected = by_json(server, "mnist-cnn", [[np.asarray(grey).tolist()]])
    assert predictions(post(server, "mnist-cnn", written(grey.convert(mode)))) == expected
    bits = written(grey.convert("P", palette=Image.Palette.ADAPTIVE, colors=2), bits=1)
    assert predictions(post(server, "mnist-cnn", bits)) == expected


def test_json_holds_images_as_base64_one_or_several(server: Server, seven: npt.NDArray[np.float64]) -> None:
    rows = [np.round(seven[0, 0] / step).astype(np.uint8) for step in (1, 2, 3)]
    expected = by_json(server, "mnist-cnn", [[row.tolist()] for row in rows])
    several = [b64(written(row)) for row in rows]
    assert by_json(server, "mnist-cnn", several) == expected
    assert by_json(server, "mnist-cnn", {"image": several}) == expected
    for one in (several[0], {"image": several[0]}, [several[0]]):
        assert by_json(server, "mnist-cnn", one) == expected[:1]
    many = by_json(server, "mnist-cnn", several * 100)  # a body that is parsed in a thread
    assert len(many) == 300
    np.testing.assert_allclose(many[1]["mean"], expected[1]["mean"], atol=1e-6)


def test_an_image_is_resized_normalised_and_laid_out_as_the_bundle_says(pictures: Server) -> None:
    exact = noise(HEIGHT, WIDTH, 3)
    values = (exact / 255 - np.array(MEAN)) / np.array(STD)
    found = predictions(post(pictures, "cropped", written(exact)))
    expected = by_json(pictures, "cropped", [values.transpose(2, 0, 1).tolist()])
    np.testing.assert_allclose(found[0]["mean"], expected[0]["mean"], atol=1e-6)
    # Twice as large, and as much again on each side, which is cut off.
    wide = np.concatenate([noise(2 * HEIGHT, 5, 3), exact.repeat(2, 0).repeat(2, 1), noise(2 * HEIGHT, 5, 3)], axis=1)
    middle = Image.fromarray(exact.repeat(2, 0).repeat(2, 1)).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    of_middle = predictions(post(pictures, "cropped", written(middle)))
    of_wide = predictions(post(pictures, "cropped", written(wide)))
    np.testing.assert_allclose(of_wide[0]["mean"], of_middle[0]["mean"], atol=0.05)
    large = Image.fromarray(noise(50, 30, 3))
    small = np.asarray(large.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    assert predictions(post(pictures, "stretched", written(large))) == by_json(pictures, "stretched", [small.tolist()])
    grey = noise(HEIGHT, WIDTH)
    assert predictions(post(pictures, "stretched", written(grey))) == by_json(
        pictures, "stretched", [grey[:, :, None].repeat(3, 2).tolist()]
    )


def test_images_of_any_size_are_rows_of_any_size(pictures: Server) -> None:
    rows = [noise(4, 5), noise(7, 3), noise(4, 5)]
    assert by_json(pictures, "any-size", [b64(written(row)) for row in rows]) == by_json(
        pictures, "any-size", [row.tolist() for row in rows]
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_notes_is_heeded(pictures: Server, orientation: int) -> None:
    upright = noise(HEIGHT, WIDTH)
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright.T[::-1, ::-1],
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = written(np.ascontiguousarray(turned[orientation]), exif=exif)
    assert predictions(post(pictures, "binary-map", content)) == by_json(pictures, "binary-map", [[upright.tolist()]])


def chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def png_of(width: int, height: int, depth: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    """A PNG whose header says so, whatever it holds."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


GREY = noise(28, 28)
WHOLE = written(GREY)
ANIMATED = written(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(noise(28, 28) + 1)])
TRANSPARENT = np.dstack([GREY, GREY, GREY, np.full((28, 28), 254, np.uint8)])
COLOUR = np.dstack([GREY] * 3)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


BAD: list[tuple[str, bytes, str, list[str]]] = [
    ("mnist-cnn", b"", PNG, ["the content cannot be read as PNG"]),
    ("mnist-cnn", b"\x89PNG\r\n\x1a\n", PNG, ["cannot be read as PNG"]),
    ("mnist-cnn", b"[[1, 2]]", JPEG, ["cannot be read as JPEG"]),
    ("mnist-cnn", WHOLE, JPEG, ["cannot be read as JPEG"]),
    ("mnist-cnn", written(GREY, "JPEG"), PNG, ["cannot be read as PNG"]),
    ("mnist-cnn", written(GREY, "GIF"), PNG, ["cannot be read as PNG"]),
    ("mnist-cnn", written(GREY, "BMP"), PNG, ["cannot be read as PNG"]),
    ("mnist-cnn", written(GREY, "TIFF"), JPEG, ["cannot be read as JPEG"]),
    ("mnist-cnn", written(GREY, "PPM"), PNG, ["cannot be read as PNG"]),
    ("mnist-cnn", WHOLE[: len(WHOLE) // 2], PNG, ["cannot be read as PNG"]),
    ("mnist-cnn", WHOLE[:-12], PNG, ["cannot be read as PNG"]),
    ("mnist-cnn", WHOLE[:-20], PNG, ["cannot be read as PNG"]),
    ("mnist-cnn", flipped(WHOLE, 70), PNG, ["cannot be read as PNG"]),
    ("mnist-cnn", flipped(WHOLE, 20), PNG, ["PNG"]),
    ("mnist-cnn", written(COLOUR, "JPEG")[:-200], JPEG, ["cannot be read as JPEG", "truncated"]),
    ("mnist-cnn", png_of(28, 28), PNG, ["cannot be read as PNG"]),
    ("mnist-cnn", ANIMATED, PNG, ["is animated, of 2 images; one is accepted"]),
    ("mnist-cnn", written(TRANSPARENT), PNG, ["transparent in places, by 254 of 255"]),
    ("mnist-cnn", written(GREY, transparency=int(GREY[0, 0])), PNG, ["transparent in places, by 0 of 255"]),
    ("mnist-cnn", written(Image.fromarray(GREY).convert("P"), transparency=int(GREY[1, 1])), PNG, ["transparent"]),
    ("mnist-cnn", written(GREY.astype(np.uint16) * 256), PNG, ["16 bits a channel", "8 bits a channel, is accepted"]),
    ("mnist-cnn", png_of(28, 28, 16, 2, bytes(28 * (28 * 6 + 1))), PNG, ["16 bits a channel"]),
    ("mnist-cnn", written(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"), JPEG, ["has the mode CMYK"]),
    ("mnist-cnn", written(GREY[:, :27]), PNG, ["27 pixels wide and 28 high; 28 wide and 28 high is accepted"]),
    ("mnist-cnn", written(noise(56, 56)), PNG, ["56 pixels wide and 56 high"]),
    ("mnist-cnn", png_of(5000, 5000), PNG, ["5000 x 5000 pixels; at most 16777216 are accepted"]),
    ("mnist-cnn", png_of(2**31 - 1, 2**31 - 1), PNG, ["far more than 16777216 pixels"]),
    ("mnist-cnn", png_of(0, 28), PNG, ["PNG"]),
    ("mnist-mlp", WHOLE, PNG, ["its model.yaml has no `image:`", "{mode: grey}"]),
    ("tumour-mlp", WHOLE, PNG, ["its model.yaml has no `image:`"]),
]


@pytest.mark.parametrize(("model", "body", "kind", "said"), BAD)
def test_what_is_no_image_of_the_model_is_refused_in_a_sentence(
    server: Server, model: str, body: bytes, kind: str, said: list[str]
) -> None:
    assert_problem(post(server, model, body, kind), 422, said)
    in_json = server.client.post(f"/models/{model}/predict", json={"inputs": [b64(body)]})
    if kind == PNG and said[0] not in ("cannot be read as PNG", "the content cannot be read as PNG"):
        assert_problem(in_json, 422, said)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"b64": 5}, "inputs holds the names ['b64']"),
        ({"b64": "é"}, "inputs is no base64"),
        ({"b64": "AAA"}, "inputs is no base64"),
        ({"b64": "AA AA"}, "inputs is no base64"),
        ({"b64": "AAAA"}, "inputs cannot be read as PNG or JPEG"),
        ({"b64": "", "more": 1}, "inputs holds the names ['b64', 'more']"),
        ([b64(WHOLE), {"b64": "AAAA"}], "row 1 of inputs cannot be read as PNG or JPEG"),
        ([b64(WHOLE), [[[0]]]], "row 1 of inputs holds list"),
        ([b64(written(GREY[1:]))], "row 0 of inputs is 28 pixels wide and 27 high"),
        ([b64(WHOLE)] * 4097, "inputs holds 4097 rows; 1 to 4096 are accepted"),
    ],
)
def test_what_is_no_image_in_json_is_named_by_its_row(server: Server, inputs: Any, said: str) -> None:
    assert_problem(server.client.post("/models/mnist-cnn/predict", json={"inputs": inputs}), 422, [said])


def test_pixels_have_the_bounds_of_any_values(pictures: Server) -> None:
    bright = np.full((3, 3), 255, np.uint8)
    assert_problem(post(pictures, "any-size", written(bright)), 422, ["the content holds values from 255 to 255"])
    assert_problem(
        pictures.client.post("/models/any-size/predict", json={"inputs": [b64(written(bright))]}),
        422,
        ["row 0 of inputs holds values from 255 to 255", "at most 250"],
    )
    assert_problem(post(pictures, "any-size", written(noise(41, 3))), 422, ["3 pixels wide and 41 high", "2 to 40"])
    assert_problem(post(pictures, "tokens", WHOLE), 422, ["one image", "['input_ids', 'attention_mask']"])


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels."""
    row = zlib.compressobj()
    data = b"".join(row.compress(bytes(30001)) for _ in range(30000)) + row.flush()
    content = png_of(30000, 30000)
    start = content.index(b"IDAT") - 4
    return content[:start] + chunk(b"IDAT", data) + content[-12:]


def test_a_picture_that_is_larger_than_its_file_is_refused_before_it_is_decoded(pictures: Server) -> None:
    huge, many = bomb(), b64(png_of(4000, 4000, data=bytes(4000 * 4001)))
    predictions(post(pictures, "cropped", written(noise(9, 9, 3))))  # what decoding takes at all
    within = pictures.peak_memory_grown_by(
        lambda: assert_problem(post(pictures, "cropped", huge), 422, ["pixels", "16777216"])
    )
    assert within < 16 * 1024
    assert predictions(
        pictures.client.post("/models/cropped/predict?mc=2", json={"inputs": [many]})
    )  # as large as it may be


def test_rows_that_are_large_together_are_refused() -> None:
    side = 2048
    spec = Input.model_validate({"shape": [side, side], "image": {"mode": "grey", "layout": "HW"}})
    one = b64(written(np.zeros((side, side), np.uint8)))
    fits = MOST_NUMBERS // side**2
    assert len(images_of("inputs", [one] * fits, spec, lambda: None)) == fits
    with pytest.raises(RowsError, match=f"more than {MOST_NUMBERS} numbers, by row {fits}"):
        images_of("inputs", [one] * (fits + 1), spec, lambda: None)


def test_a_server_without_pillow_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    spec = Input.model_validate({"shape": [1, 28, 28], "image": {"mode": "grey"}})
    with pytest.raises(RowsError, match=r"lacks Pillow \(pip install 'mcdropout\[images\]'\); numbers are accepted"):
        images_of("inputs", b64(WHOLE), spec, lambda: None)


def test_a_map_comes_back_as_an_image_of_labels_or_of_a_statistic(server: Server) -> None:
    canvas = np.zeros((48, 48), np.uint8)
    canvas[10:30, 20:24] = 255
    (row,) = by_json(server, "digits-segmentation", [[canvas.tolist()]])
    described = server.client.get("/models/digits-segmentation").json()
    labels = described["output"]["labels"]
    answer = post(server, "digits-segmentation", written(canvas), accept=PNG)
    assert answer.headers["content-type"] == PNG
    assert answer.headers["x-mcdropout-seed"] == "3"
    found = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert [[labels[number] for number in line] for line in found] == row["label"]
    for field, white in (("entropy", np.log(11)), ("mutual_information", np.log(11)), ("variation_ratio", 1.0)):
        answer = post(server, "digits-segmentation", written(canvas), query=f"mc=5&seed=3&fields={field}", accept=PNG)
        found = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert float(answer.headers["x-mcdropout-white"]) == white
        np.testing.assert_array_equal(found, np.rint(np.array(row[field]) / white * 255))
    assert found.max() > 0


def test_a_binary_map_comes_back_as_an_image_of_probabilities(pictures: Server) -> None:
    grey = noise(HEIGHT, WIDTH)
    (row,) = by_json(pictures, "binary-map", [[grey.tolist()]])
    for field, white in (("mean", 1.0), ("entropy", np.log(2)), ("label", 255.0)):
        answer = post(pictures, "binary-map", written(grey), query=f"mc=5&seed=3&fields={field}", accept=PNG)
        assert float(answer.headers["x-mcdropout-white"]) == white
        found = np.asarray(Image.open(io.BytesIO(answer.content)))
        np.testing.assert_array_equal(found, np.rint(np.array(row[field]) / white * 255))


@pytest.mark.parametrize(
    ("model", "shape", "query", "said"),
    [
        ("digits-segmentation", (2, 1, 48, 48), "fields=label", "label of 2 rows"),
        ("digits-segmentation", (1, 1, 48, 48), "fields=label,entropy", "label, entropy of 1 rows"),
        ("digits-segmentation", (1, 1, 48, 48), "fields=variance", "variance has the shape [11, 48, 48]"),
        ("digits-segmentation", (1, 1, 48, 48), "fields=entropy&reduce=max", "entropy has the shape []"),
        ("digits-segmentation", (1, 1, 48, 48), "fields=mutual_information&mc=0", "mutual_information is null"),
        ("mnist-cnn", (1, 1, 28, 28), "fields=entropy", "entropy has the shape []"),
        ("concrete-mlp", (1, 8), "", "label of 1 rows of a regression"),
    ],
)
def test_what_is_no_map_is_no_image(server: Server, model: str, shape: tuple[int, ...], query: str, said: str) -> None:
    response = server.client.post(
        f"/models/{model}/predict?{query}", json={"inputs": np.zeros(shape).tolist()}, headers={"accept": PNG}
    )
    assert_problem(response, 422, [said, "application/"])


def test_models_of_images_say_so(server: Server, pictures: Server) -> None:
    digit = server.client.get("/models/mnist-cnn").json()
    assert {PNG, JPEG} <= set(digit["formats"])
    assert digit["inputs"][0]["image"]["mode"] == "grey"
    of_numbers = server.client.get("/models/concrete-mlp").json()
    assert not {PNG, JPEG} & set(of_numbers["formats"])
    assert of_numbers["inputs"][0]["image"] is None
    assert pictures.client.get("/models/cropped").json()["inputs"][0]["image"]["values"]["mean"] == MEAN
    operation = server.client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert {PNG, JPEG} <= set(operation["requestBody"]["content"])
    assert PNG in operation["responses"]["200"]["content"]
    assert JPEG not in operation["responses"]["200"]["content"]
    assert "X-MCDropout-White" in operation["responses"]["200"]["headers"]


RGB = {"mode": "rgb"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"shape": [1, 4, 4], "image": RGB}, "[3, height, width]"),
        ({"shape": [4, 4, 3], "image": RGB}, "[3, height, width]"),
        ({"shape": [4, 4], "image": RGB}, "[3, height, width]"),
        ({"shape": [4, 4], "image": RGB | {"layout": "HW"}}, "HW with the mode grey"),
        ({"shape": [3, 4, 4], "image": {"mode": "grey"}}, "[1, height, width]"),
        ({"shape": ["c", 4, 4], "image": RGB}, "[3, height, width]"),
        ({"shape": [3, 4, 4], "image": {"mode": "cmyk"}}, "'grey' or 'rgb'"),
        ({"shape": [3, 4, 4], "image": {}}, "mode: is missing"),
        (
            {"shape": [3, 4, 4], "image": RGB | {"size": 3}},
            "mode, layout, resize, shorter, filter, values are accepted there",
        ),
        ({"shape": [3, 4, 4], "image": RGB | {"values": {"mean": [1, 2]}}}, "values.mean has 2 entries"),
        ({"shape": [3, 4, 4], "image": RGB | {"values": {"std": 0}}}, "0 cannot be divided by"),
        ({"shape": [3, 4, 4], "dtype": "bool", "image": RGB}, "image is given for the dtype bool"),
        (
            {"shape": [3, 4, 4], "dtype": "uint8", "image": RGB | {"values": {"scale": 2}}},
            "image is given for the dtype uint8",
        ),
        ({"shape": [3, "c", 4], "image": RGB | {"resize": "crop"}}, "resize: none is accepted with names"),
    ],
)
def test_an_image_that_cannot_become_a_row_is_refused_with_the_bundle(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    names = {size: [1, 9] for size in fields["shape"] if isinstance(size, str)}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(manifest("m", input=fields, sizes=names)))
    with pytest.raises(BundleError) as refused:
        read_manifest(tmp_path / "model.yaml")
    assert said in str(refused.value)
