"""Bundles: what a model's folder may hold, and what is refused, named by file and field."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from service.bundle import Bundle, BundleError, Input, find_bundles
from tests.bundles import manifest, network_of, write_bundle


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": None}, ["name", "missing"]),
        ({"name": "other"}, ["'other'", "'model'"]),
        ({"task": "clustering"}, ["task", "clustering", "classification", "regression"]),
        ({"input": {"shape": "wide"}}, ["input.shape", "wide"]),
        ({"input": {"shape": [0]}}, ["input.shape.0", "0"]),
        ({"input": {"shape": [4], "dtype": "int7"}}, ["input.dtype", "int7", "float32"]),
        ({"input": {"shape": [4], "preprocessing": {"std": 0.0}}}, ["std", "0"]),
        ({"input": {"shape": [4], "preprocessing": {"mean": [1.0, 2.0]}}}, ["mean", "2 entries", "[4]"]),
        ({"passes": {"default": 50, "maximum": 10}}, ["passes", "50", "10"]),
        ({"network": "../evil.py:Network"}, ["network", "../evil.py:Network"]),
        ({"colour": "red"}, ["colour", "no known field", "weights"]),
        ({"temperature": -1.0}, ["temperature", "-1"]),
        ({"version": 3}, ["version", "3"]),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_field_and_what_would_be_accepted(
    tmp_path: Path, changes: dict[str, object], said: list[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest("model", **changes)))
    with pytest.raises(BundleError) as refusal:
        Bundle(folder)
    for words in ["model.yaml", *said]:
        assert words in str(refusal.value)


@pytest.mark.parametrize("content", ["", "- a\n- b", "name: [", "\x00"])
def test_a_manifest_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.yaml").write_text(content)
    with pytest.raises(BundleError, match=r"model\.yaml"):
        Bundle(tmp_path)


def test_weights_load_from_safetensors_and_from_a_state_dict(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model")
    expected = network_of(folder).state_dict()
    torch.save(expected, folder / "weights.pt")
    for file in ("weights.safetensors", "weights.pt"):
        (folder / "model.yaml").write_text(yaml.safe_dump(manifest("model", weights=file)))
        network = Bundle(folder).load_network()
        assert not network.training
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model", weights="weights.pt")
    mark = tmp_path / "it-ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (mark,)

    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        save({"layers.0.weight": Evil()}, folder / "weights.pt")
        with pytest.raises(BundleError, match=r"weights\.pt.*safetensors"):
            Bundle(folder).load_network()
    assert not mark.exists()


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model", arguments={"width": 8})
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest("model", arguments={"width": 9})))
    with pytest.raises(BundleError, match=r"do not fit[\s\S]*layers\.0\.weight"):
        Bundle(folder).load_network()


@pytest.mark.parametrize(("field", "value"), [("weights", "../outside.safetensors"), ("weights", "absent.safetensors")])
def test_a_file_outside_the_bundle_or_absent_is_refused(tmp_path: Path, field: str, value: str) -> None:
    folder = write_bundle(tmp_path, "model")
    (tmp_path / "outside.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest("model", **{field: value})))
    with pytest.raises(BundleError, match="inside the bundle"):
        Bundle(folder).load_network()


def test_a_damaged_weights_file_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model")
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        Bundle(folder).load_network()


def test_code_that_fails_or_lacks_the_network_is_refused(tmp_path: Path) -> None:
    for name, code, said in (
        ("raises", "raise RuntimeError('no luck')", "no luck"),
        ("lacks", "from torch import nn\nclass Other(nn.Module): pass", r"no 'Network'.*Other"),
        ("returns", "def Network(): return 3", "int"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "network.py").write_text(code)
        (folder / "model.yaml").write_text(yaml.safe_dump(manifest(name)))
        (folder / "weights.safetensors").touch()
        with pytest.raises(BundleError, match=said):
            Bundle(folder).load_network()


def test_a_network_may_be_spread_over_files_and_two_bundles_do_not_share_them(tmp_path: Path) -> None:
    for name, width in (("one", 5), ("two", 6)):
        folder = tmp_path / name
        write_bundle(tmp_path, name)
        (folder / "network.py").write_text(
            "from .sizes import WIDTH\n" + (folder / "network.py").read_text().replace("width=8", "width=WIDTH")
        )
        (folder / "sizes.py").write_text(f"WIDTH = {width}\n")
    for name, width in (("one", 5), ("two", 6)):
        with pytest.raises(BundleError, match=rf"\[{width}, 4\]"):
            Bundle(tmp_path / name).load_network()


def test_preprocessing_scales_then_normalizes_each_channel() -> None:
    spec = Input.model_validate(
        {"shape": [2, 1, 1], "preprocessing": {"scale": 0.5, "mean": [1.0, 2.0], "std": [2.0, 4.0]}}
    )
    rows = spec.prepare(np.array([[[[6.0]], [[12.0]]]]))
    assert rows.dtype == np.float32
    assert rows.ravel().tolist() == [1.0, 1.0]


def test_a_folder_without_bundles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.yaml"):
        find_bundles(tmp_path)
