"""Bundles are compiled when they have to be, in a process that may fail without harm."""

import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from mcdropout.catalogue.bundle import Bundle
from mcdropout.catalogue.compilation import CompileLimits, compile_bundle, install
from mcdropout.catalogue.compiler import compile_here as compile_in_this_process
from mcdropout.catalogue.loading import Loading, load
from mcdropout.catalogue.manifest import BundleError
from mcdropout.catalogue.provenance import stale_parts
from mcdropout.cli import app
from mcdropout.engine import UnsupportedModelError
from tests.bundles import CLASSIFIER, manifest, network_of, write_bundle
from tests.compilations import compile_here
from tests.compilations import compiled as compiled_already
from tests.conftest import MODELS
from tests.patience import patience, wait_until
from tests.servers import MCDROPOUT, serving

ROWS = [[0.1, -0.2, 0.3, 0.4]]
# In the middle of a bundle's own code.
CRASH = CLASSIFIER + "\n    import os\n    os.abort()\n"
HUNGRY = CLASSIFIER + "\n    import numpy\n    taken = [numpy.empty(2**28, numpy.uint8) for _ in range(1000)]\n"
SLOW = CLASSIFIER + "\n    import time\n    time.sleep(600)\n"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two files of code and an example, compiled."""
    folder = write_bundle(tmp_path_factory.mktemp("models"), "model")
    (folder / "layers.py").write_text("make = 1\n")
    code = (folder / "network.py").read_text()
    (folder / "network.py").write_text("from .layers import make\n" + code)
    (folder / "example.json").write_text('{"inputs": [[1, 2, 3, 4]]}')
    done = subprocess.run(
        [MCDROPOUT, "compile", folder], capture_output=True, text=True, timeout=patience(120), check=True
    )
    assert "model: compiled into" in done.stdout
    return folder


@pytest.fixture
def bundle(compiled: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(compiled, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles are compiled in this process, which is sooner."""
    monkeypatch.setattr(
        "mcdropout.catalogue.loading.compile_bundle", lambda bundle, into, *_: compile_here(bundle.folder, into)
    )


def compile_or_refuse_here(bundle: Bundle, into: Path, *_: object, **__: object) -> None:
    """What `compile_bundle` does, in this process."""
    outcome, error = compile_in_this_process(bundle.folder, into)
    if outcome == "needs_pytorch":
        raise UnsupportedModelError(str(error))
    if outcome != "compiled":
        raise BundleError(error)


def change(field: str, value: object, **others: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "model.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {field: value} | others))

    return apply


def append(name: str, text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(text)

    return apply


def test_the_bundles_of_the_repository_are_shipped_compiled() -> None:
    for path in MODELS.glob("*/model.yaml"):
        assert stale_parts(Bundle(path.parent)) == []


@pytest.mark.wide
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (append("network.py", "\n# changed\n"), "network.py changed"),
        (append("layers.py", "\n# changed\n"), "layers.py changed"),
        (append("weights.safetensors", " "), "weights.safetensors changed"),
        (append("example.json", " "), "example.json changed"),
        (lambda folder: (folder / "example.json").unlink(), "example.json is gone"),
        (change("dropout", {"p": {"*": 0.1}}), "model.yaml changed"),
        (change("task", "regression"), "model.yaml changed"),
        (change("input", {"shape": [4], "dtype": "float64"}), "model.yaml changed"),
        (lambda folder: shutil.rmtree(folder / "compiled"), "compiled/ is missing"),
        (lambda folder: (folder / "compiled" / "sources.json").write_text("{"), "sources.json cannot be read"),
    ],
)
def test_a_bundle_that_changed_is_told_with_what_changed(
    bundle: Path, spoil: Callable[[Path], None], told: str
) -> None:
    assert stale_parts(Bundle(bundle)) == []
    spoil(bundle)
    (found,) = stale_parts(Bundle(bundle))
    assert told in found
    with pytest.raises(BundleError, match=r"it has to be compiled \(.*--no-compile forbids.*mcdropout compile"):
        load(bundle, Loading(compiles=False))


@pytest.mark.parametrize(
    "harmless",
    [
        change("labels", ["a", "b", "c"]),
        change("description", "another"),
        change("temperature", 2.0),
        change("passes", {"default": 9}),
        change("input", {"shape": [4], "minimum": -1, "preprocessing": {"scale": 2}}),
        lambda folder: (folder / "README.md").write_text("words"),
        lambda folder: os.utime(folder / "network.py", (1, 1)),
    ],
)
def test_what_does_not_touch_the_program_may_change(bundle: Path, harmless: Callable[[Path], None]) -> None:
    harmless(bundle)
    assert stale_parts(Bundle(bundle)) == []


FILLS = CLASSIFIER.replace("self.layers(x)", "self.layers(x.nan_to_num(0.5))")


@pytest.mark.long
@pytest.mark.usefixtures("compiled_here")
def test_values_may_be_missing_as_the_manifest_says_now_without_compiling_anew(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "model", FILLS, input={"shape": [4], "missing": "allowed"})
    (folder / "example.json").write_text('{"inputs": [[1, null, 3, 4], [1, 2, null, 4]]}')
    engine = load(folder, Loading()).engine
    assert (engine.predict([[1.0, np.nan, 3, 4]], 0).mean == engine.predict([[1.0, 0.5, 3, 4]], 0).mean).all()
    change("input", {"shape": [4]})(folder)
    assert stale_parts(Bundle(folder)) == []
    with pytest.raises(BundleError, match=r"example\.json: inputs holds null"):
        load(folder, Loading())


@pytest.mark.parametrize(
    ("misfit", "told"),
    [
        (change("labels", ["a", "b"]), r"labels has 2 entries; the network's 3 classes are accepted"),
        (change("labels", []), r"labels has 0 entries; the network's 3 classes are accepted"),
        (change("task", "regression", labels=["a"]), r"labels is \['a'\], which a regression has not; no labels"),
    ],
    ids=["too few", "none", "of a regression"],
)
@pytest.mark.parametrize("compiled_before", [True, False])
def test_labels_that_do_not_fit_are_refused_alike_by_who_compiles_and_by_who_serves(
    bundle: Path, misfit: Callable[[Path], None], told: str, compiled_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcdropout.catalogue.loading.compile_bundle", compile_or_refuse_here)
    monkeypatch.setattr("mcdropout.catalogue.compilation.compile_bundle", compile_or_refuse_here)
    monkeypatch.setattr("mcdropout.log.configure", lambda *_: None)
    if not compiled_before:
        shutil.rmtree(bundle / "compiled")
    misfit(bundle)
    with pytest.raises(BundleError, match=told) as served:
        load(bundle, Loading())
    compiling = CliRunner().invoke(app, ["compile", str(bundle)])
    assert compiling.exit_code == 1
    assert str(served.value) in compiling.output


def test_a_bundle_that_was_compiled_by_another_version_is_compiled_anew(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcdropout.catalogue.provenance._VERSION", "99.0")
    assert stale_parts(Bundle(bundle)) == [f"it was made by version {version('mcdropout')}, this is 99.0"]


def test_a_compiled_bundle_is_loaded_without_its_code_being_run(bundle: Path) -> None:
    engine = load(bundle, Loading(compiles=False)).engine
    assert engine.predict(ROWS, 10, 1).mean.shape == (1, 3)


@pytest.mark.usefixtures("compiled_here")
def test_a_damaged_one_is_compiled_anew_and_kept(bundle: Path) -> None:
    wanted = load(bundle, Loading()).engine.predict(ROWS, 10, 1).mean
    program = bundle / "compiled" / "program.json"
    program.write_text(program.read_text()[:-100])
    with pytest.raises(BundleError, match=r"program\.json"):
        load(bundle, Loading(compiles=False))
    assert (load(bundle, Loading()).engine.predict(ROWS, 10, 1).mean == wanted).all()
    assert load(bundle, Loading(compiles=False)).name == "model"
    assert sorted(path.name for path in bundle.glob("*compiled*")) == ["compiled"]
    assert sorted(path.name for path in bundle.glob(".*")) == []


def test_compiling_twice_writes_the_same_files(bundle: Path, tmp_path: Path) -> None:
    compile_here(bundle, tmp_path / "again")  # the first was by `mcdropout compile`, in a process of its own
    names = sorted(path.name for path in (bundle / "compiled").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (bundle / "compiled" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.usefixtures("compiled_here")
def test_a_bundle_that_cannot_be_written_to_is_served_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_bundle(tmp_path, "fixed")

    def refuse(*_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("mcdropout.catalogue.loading.install", refuse)
    assert load(folder, Loading()).engine.predict(ROWS, 10, 1).mean.shape == (1, 3)
    assert not (folder / "compiled").exists()


@pytest.mark.wide
@pytest.mark.parametrize(
    ("code", "limits", "told"),
    [
        (CRASH, CompileLimits(), "compiling ended by SIGABRT"),
        (HUNGRY, CompileLimits(memory_bytes=3 * 2**30), "more memory than is accepted|MemoryError"),
        (SLOW, CompileLimits(seconds=4.0), "longer than the 4 s"),
    ],
)
def test_code_that_ends_or_blocks_or_fills_the_process_is_refused(
    tmp_path: Path, code: str, limits: CompileLimits, told: str
) -> None:
    folder = write_bundle(tmp_path, "bad")
    (folder / "network.py").write_text("\n".join(line[4:] for line in code.splitlines()))
    with pytest.raises(BundleError, match=told):
        compile_bundle(Bundle(folder), tmp_path / "out", limits)


def test_what_is_being_done_is_told_while_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcdropout.catalogue.compilation._POLL_SECONDS", 0.005)
    told: list[str] = []
    compile_bundle(Bundle(write_bundle(tmp_path, "model")), tmp_path / "out", told=told.append)
    long = ["trying rows unlike the examples", "following it by torch.export", "writing it as ONNX"]
    assert [stage for stage in told if stage in long] == long
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "program.json" in left
    assert not any(name.startswith("stage") for name in left)


def test_a_server_that_stops_while_it_compiles_leaves_no_process_behind(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "models", "slow")
    (folder / "network.py").write_text("\n".join(line[4:] for line in SLOW.splitlines()))
    with serving(tmp_path / "models", tmp_path) as server:
        server.wait_until_listening()
        children = wait_until(lambda: _children(server.process.pid))
        assert len(children) == 1
        assert server.stop() == 0
    assert not Path(f"/proc/{children[0]}").exists()


def test_a_server_compiles_what_it_finds_and_is_quicker_the_next_time(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "model")
    with serving(tmp_path / "models", tmp_path) as server:
        server.wait_until_ready()
        first = server.client.post("/predict?seed=1", json={"inputs": ROWS}).json()["predictions"]
        server.wait_for_log("compiled", "seconds=")
    with serving(tmp_path / "models", tmp_path, "--no-compile") as server:
        server.wait_until_ready()
        assert server.client.post("/predict?seed=1", json={"inputs": ROWS}).json()["predictions"] == first
        server.wait_for_log("status=200")  # which is written after all before it
        assert "compiling" not in server.log


def test_a_network_that_cannot_be_compiled_is_served_by_pytorch_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcdropout.catalogue.loading.compile_bundle", compile_or_refuse_here)
    branching = CLASSIFIER.replace("return self.layers(x)", "return self.layers(x) if x.sum() > -1e9 else x")
    folder = write_bundle(tmp_path, "branching", branching)
    assert load(folder, Loading()).engine.program.runtime == "eager"
    done = subprocess.run([MCDROPOUT, "compile", folder], capture_output=True, text=True, timeout=patience(120))
    assert done.returncode == 1
    assert "runs on eager and cannot be compiled" in done.stderr


def test_compile_says_what_is_compiled_already_and_fails_for_what_is_refused(bundle: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "other", "plain", CLASSIFIER.replace("nn.Dropout(0.5)", "nn.Identity()"))
    (tmp_path / "file").write_text("")
    command = [MCDROPOUT, "compile", bundle, tmp_path / "file", tmp_path / "other" / "plain", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(120))
    assert done.returncode == 1
    assert done.stdout == "model: is compiled already\n"
    assert "has no dropout to switch on" in done.stderr
    assert f"there is no {tmp_path / 'none'}; a bundle's folder, which holds a model.yaml, is accepted" in done.stderr


def test_installing_replaces_what_was_there(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "only").write_text("1")
    install(tmp_path / "fresh", Bundle(bundle))
    assert [path.name for path in (bundle / "compiled").iterdir()] == ["only"]


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split() or [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


@pytest.mark.parametrize("kind", ["pt2", "scripted", "traced"])
def test_a_saved_program_answers_as_the_bundle_of_code_that_it_was_saved_from(tmp_path: Path, kind: str) -> None:
    code = write_bundle(tmp_path, "code")
    network, x = network_of(code), torch.rand(3, 4)
    folder = tmp_path / kind
    folder.mkdir()
    file = "model.pt2" if kind == "pt2" else "model.pt"
    if kind == "pt2":
        rows = torch.export.Dim("rows")
        torch.export.save(torch.export.export(network, (x,), dynamic_shapes=({0: rows},)), folder / file)
    elif kind == "scripted":
        torch.jit.script(network).save(folder / file)
    else:
        torch.jit.trace(network, x).save(folder / file)
    fields = manifest(kind, network=None, weights=None, model=file)
    (folder / "model.yaml").write_text(yaml.safe_dump(fields))
    found = load(compiled_already(folder), Loading()).engine.predict(ROWS, 50, 3)
    wanted = load(compiled_already(code), Loading()).engine.predict(ROWS, 50, 3)
    for name in ("mean", "variance", "mutual_information"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-6)
    assert stale_parts(Bundle(folder)) == []
    with (folder / file).open("ab") as out:
        out.write(b" ")
    assert stale_parts(Bundle(folder)) == [f"{file} changed"]
