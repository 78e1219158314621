"""`mcdropout compile`: which folders it takes, and what it says of others."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mcdropout.cli import app

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture
def compile_here(tmp_path, monkeypatch):
    """The command in a folder that has two compiled bundles, and a file beside them."""
    for name in ("mnist-cnn", "tumour-mlp"):
        shutil.copytree(MODELS / name, tmp_path / "models" / name)
    (tmp_path / "models" / "common.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mcdropout.log.configure", lambda *_: None)  # which is for a whole process
    return lambda *arguments: CliRunner().invoke(app, ["compile", *arguments])


def test_it_takes_several_folders_and_leaves_out_files_beside_them(compile_here):
    done = compile_here("models/common.py", "models/mnist-cnn", "models/tumour-mlp")
    assert done.exit_code == 0
    assert done.stdout == "mnist-cnn: is compiled already\ntumour-mlp: is compiled already\n"
    assert "models/common.py is a file, no bundle's folder: left out" in done.stderr


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nothere", "there is no nothere; a bundle's folder, which holds a model.yaml, is accepted"),
        ("models", "models is a folder of 2 bundles; models/* names all of them, and models/mnist-cnn one"),
        ("models/common.py", "models/common.py is a file; a bundle's folder, which holds a model.yaml, is accepted"),
        ("models/mnist-cnn/compiled", "models/mnist-cnn/compiled holds no model.yaml; a bundle's folder is accepted"),
    ],
)
def test_what_is_no_bundle_is_named_by_what_it_is(compile_here, path, told):
    done = compile_here(path)
    assert done.exit_code == 1
    assert f"error: {told}" in done.stderr
    assert done.stdout == ""
