"""A compiled bundle is stale once anything changed that compiling looked at, however it was read, and nothing else."""

import json
import os
import shutil
from pathlib import Path
from textwrap import dedent, indent

import pytest
import yaml

from mcdropout.catalogue import reads as reads_module
from mcdropout.catalogue.bundle import COMPILED, Bundle
from mcdropout.catalogue.code import load_network
from mcdropout.catalogue.provenance import SOURCES, sources_of, stale_parts
from mcdropout.catalogue.reads import Reads
from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compile_here

HEAD = "from pathlib import Path\nimport os, json\nHERE = Path(__file__).parent\n"
# What code does while it is imported, with the file that is then changed.
AT_IMPORT = {
    "opened": ("vocabulary.txt", "words = open(HERE / 'vocabulary.txt').read()"),
    "read as bytes by its descriptor": (
        "vocabulary.bin",
        "number = os.open(HERE / 'vocabulary.bin', os.O_RDONLY)\nwords = os.read(number, 9)\nos.close(number)",
    ),
    "mapped": (
        "vocabulary.npy",
        "import mmap\nwith open(HERE / 'vocabulary.npy') as file:\n"
        "    words = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)[:]",
    ),
    "opened by C": (
        "sub/vocabulary.txt",
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "assert libc.open(bytes(HERE / 'sub' / 'vocabulary.txt'), os.O_RDONLY) > 0",
    ),
    "read by another process": (
        "vocabulary.txt",
        "import subprocess\nsubprocess.run(['cat', HERE / 'vocabulary.txt'], check=True, capture_output=True)",
    ),
    "in a folder of a folder": ("hf/small/config.json", "words = (HERE / 'hf' / 'small' / 'config.json').read_text()"),
    "read from the working directory": (
        "vocabulary.txt",
        "before = os.getcwd()\nos.chdir(HERE)\nwords = open('vocabulary.txt').read()\nos.chdir(before)",
    ),
    "imported beside it": ("layers.py", "from . import layers"),
    "imported by its name": (
        "own_layers_of_a_bundle.py",
        "import sys\nsys.path.insert(0, str(HERE))\nimport own_layers_of_a_bundle\nsys.path.remove(str(HERE))\n"
        "del sys.modules['own_layers_of_a_bundle']",
    ),
    "imported from a package": ("parts/layers.py", "from .parts import layers"),
    "run": ("layers.py", "import runpy\nrunpy.run_path(str(HERE / 'layers.py'))"),
    "only looked for": ("flag", "deep = (HERE / 'flag').exists()"),
    "hidden": (".vocabulary", "words = (HERE / '.vocabulary').read_text()"),
    "called as results are": ("results.json", "words = (HERE / 'results.json').read_text()"),
}


def bundle(models: Path, at_import: str = "", at_build: str = "", in_forward: str = "", **files: str) -> Path:
    code = HEAD + at_import + "\n" + dedent(CLASSIFIER)
    code = code.replace("super().__init__()\n", "super().__init__()\n" + indent(at_build or "pass", " " * 8) + "\n")
    code = code.replace("(self, x):\n", "(self, x):\n" + indent(in_forward or "pass", " " * 8) + "\n")
    made = write_bundle(models, "plain")
    folder = models / "model"
    shutil.copytree(made, folder)
    (folder / "model.yaml").write_text((folder / "model.yaml").read_text().replace("name: plain", "name: model"))
    (folder / "network.py").write_text(code)
    for name, text in files.items():
        write(folder / name, text)
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)


def compiled(folder: Path, *, whole: bool = False) -> Bundle:
    """The bundle, compiled; where not as a whole, only as far as its record goes, whose code is run for it."""
    found = Bundle(folder)
    if whole:
        compile_here(folder, folder / COMPILED)
    else:
        with Reads(folder) as reads:
            load_network(found)
        (folder / COMPILED).mkdir(exist_ok=True)
        (folder / COMPILED / SOURCES).write_text(json.dumps(sources_of(found, reads)))
    assert stale_parts(found) == []
    return found


@pytest.mark.parametrize("how", AT_IMPORT)
def test_a_file_counts_however_it_is_read(tmp_path: Path, how: str) -> None:
    name, code = AT_IMPORT[how]
    found = compiled(bundle(tmp_path, code, **{name: "1"}))
    write(found.folder / name, "2")
    assert stale_parts(found) == [f"{name} changed"]
    (found.folder / name).unlink()
    assert stale_parts(found) == [f"{name} is gone"]


@pytest.mark.parametrize("when", ["at_build", "in_forward"])
def test_a_file_counts_whenever_it_is_read(tmp_path: Path, when: str) -> None:
    code = "self.words = (HERE / 'vocabulary.txt').read_text()"
    found = compiled(bundle(tmp_path, **{when: code, "vocabulary.txt": "1"}), whole=True)
    write(found.folder / "vocabulary.txt", "2")
    assert stale_parts(found) == ["vocabulary.txt changed"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (
            "extra.json",
            "extra = (HERE / 'extra.json').read_text() if (HERE / 'extra.json').exists() else ''",
        ),
        ("extra.json", "extra = os.access(HERE / 'extra.json', os.R_OK)"),
        ("extra.json", "try:\n    open(HERE / 'extra.json')\nexcept OSError:\n    pass"),
        ("extra.py", "try:\n    from . import extra\nexcept ImportError:\n    pass"),
        (
            "extra.py",
            "import importlib as i\ntry:\n    i.import_module('.extra', __package__)\nexcept ImportError:\n    pass",
        ),
        ("hf/adapter.json", "extra = os.path.isfile(HERE / 'hf' / 'adapter.json')"),
    ],
)
def test_a_file_counts_that_was_looked_for_in_vain(tmp_path: Path, name: str, code: str) -> None:
    found = compiled(bundle(tmp_path, code))
    write(found.folder / name, "{}")
    assert stale_parts(found) == [f"{name} is new"]


@pytest.mark.parametrize(
    "code",
    [
        "parts = os.listdir(HERE / 'parts')",
        "parts = list((HERE / 'parts').glob('*.txt'))",
        "import glob\nparts = glob.glob(str(HERE / '*' / '*.txt'))",
        "parts = [entry.name for entry in os.scandir(HERE / 'parts')]",
    ],
)
def test_the_names_in_a_folder_count_that_was_listed(tmp_path: Path, code: str) -> None:
    found = compiled(bundle(tmp_path, code, **{"parts/a.txt": "1"}))
    write(found.folder / "parts" / "b.txt", "1")
    assert stale_parts(found) == ["what lies in parts changed"]


def test_an_example_counts_that_is_brought_later(tmp_path: Path) -> None:
    found = compiled(bundle(tmp_path))
    write(found.folder / "example.json", '{"inputs": [[1, 2, 3, 4]]}')
    assert stale_parts(found) == ["example.json is new"]


@pytest.mark.parametrize(
    ("code", "is_file"),
    [
        ("HERE / 'hf' / 'words.txt'", False),
        ("(HERE / 'hf').resolve() / 'words.txt'", False),
        ("HERE / 'words.txt'", True),
    ],
)
@pytest.mark.parametrize("opened", ["open({}).read()", "__import__('ctypes').CDLL(None).open(bytes({}), 0)"])
def test_what_a_link_leads_to_counts(tmp_path: Path, code: str, is_file: bool, opened: str) -> None:
    folder = bundle(tmp_path / "models", f"words = {opened.format(code)}")
    write(tmp_path / "elsewhere" / "words.txt", "1")
    if is_file:
        (folder / "words.txt").symlink_to(tmp_path / "elsewhere" / "words.txt")
    else:
        (folder / "hf").symlink_to(tmp_path / "elsewhere")
    found = compiled(folder)
    write(tmp_path / "elsewhere" / "words.txt", "2")
    assert stale_parts(found) == ["words.txt changed" if is_file else "hf/words.txt changed"]


@pytest.mark.parametrize("name", ["README.md", "train.py", "results.json", "notes/day.txt", "weights.backup", ".git/x"])
def test_what_compiling_did_not_look_at_may_come_change_and_go(tmp_path: Path, name: str) -> None:
    found = compiled(bundle(tmp_path, "words = (HERE / 'vocabulary.txt').read_text()", **{"vocabulary.txt": "1"}))
    write(found.folder / name, "1")
    assert stale_parts(found) == []
    again = compiled(found.folder)
    write(found.folder / name, "2")
    assert stale_parts(again) == []
    (found.folder / name).unlink()
    assert stale_parts(again) == []


def test_the_manifest_counts_as_a_whole_only_where_the_network_reads_it(tmp_path: Path) -> None:
    for read in (False, True):
        folder = bundle(tmp_path / str(read), "words = (HERE / 'model.yaml').read_text()" if read else "")
        found = compiled(folder)
        fields = yaml.safe_load((folder / "model.yaml").read_text())
        (folder / "model.yaml").write_text(yaml.safe_dump(fields | {"labels": ["a", "b", "c"]}))
        assert stale_parts(found) == (["model.yaml changed"] if read else [])


@pytest.mark.parametrize("lost", ["no inotify", "overflow"])
def test_every_file_counts_where_the_system_does_not_say_what_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    if lost == "no inotify":
        monkeypatch.setattr(reads_module.sys, "platform", "darwin")
    else:
        monkeypatch.setattr(reads_module, "_OVERFLOWED", reads_module._OPENED)
    folder = bundle(tmp_path, "", **{"sub/vocabulary.bin": "1"})
    with Reads(folder) as reads:
        (folder / "network.py").read_text()
    assert {"sub/vocabulary.bin", "network.py", "weights.safetensors"} <= reads.names
    assert "model.yaml" not in reads.names


def test_what_is_asked_is_answered_and_left_as_it_was(tmp_path: Path) -> None:
    before = {name: getattr(os, name) for name in ("stat", "lstat", "access")}
    with Reads(tmp_path):
        assert os.stat(tmp_path).st_ino == before["stat"](tmp_path).st_ino
        assert os.stat in os.supports_fd
        with pytest.raises(FileNotFoundError):
            os.stat(tmp_path / "none")
    assert {name: getattr(os, name) for name in before} == before
    with Reads(tmp_path) as reads:
        pass
    (tmp_path / "later").write_text("1")
    assert reads.names == set()


def test_records_of_the_first_form_are_read(tmp_path: Path) -> None:
    found = compiled(bundle(tmp_path))
    path = found.folder / "compiled" / "sources.json"
    record: dict[str, object] = json.loads(path.read_text())
    del record["listed"]
    path.write_text(json.dumps(record))
    assert stale_parts(found) == []
