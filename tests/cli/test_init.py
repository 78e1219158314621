"""`mcdropout init`: bundles of what people have, and the commands that it prints."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import mcdropout
from mcdropout.catalogue.compilation import WithoutDropoutError
from mcdropout.catalogue.compiler import compile_here
from mcdropout.catalogue.making.answers import task_of
from mcdropout.catalogue.making.source import Source
from mcdropout.catalogue.manifest import BundleError
from mcdropout.cli import app
from mcdropout.cli.served import state_of
from tests import sources
from tests.exporting import export_quickly
from tests.patience import patience, wait_until
from tests.servers import MCDROPOUT, serving

ROWS = np.random.default_rng(1).random((5, 4), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder, with a source of each kind."""
    folder = tmp_path_factory.mktemp("user")
    sources.write_code(folder)
    sources.write_onnx(folder / "flowers.onnx")
    sources.write_onnx(folder / "one.onnx", classes=1)
    sources.write_of_scikit_learn(folder / "sure.onnx")
    sources.write_of_scikit_learn(folder / "line.onnx", hidden=False)
    sources.write_of_scikit_learn(folder / "maps.onnx", maps=True)
    sources.write_exported(folder / "exported.pt2")
    sources.write_traced(folder / "traced.pt")
    sources.write_lightning(folder / "run.ckpt")
    sources.write_texts(folder / "reviews")
    sources.write_images(folder / "pictures")
    layers = {f"layers.{name}": value for name, value in sources.network().state_dict().items()}
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in layers.items()}}, folder / "w.pth"
    )
    return folder


def init(*arguments, folder):
    """The command as a process, without a terminal."""
    return subprocess.run(
        [str(MCDROPOUT), "init", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=patience(300),
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "140"},
    )


@pytest.fixture
def init_here(folder, monkeypatch):
    """The same in this process, where PyTorch is imported already, and compiles."""
    export_quickly()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr("mcdropout.log.configure", lambda *_: None)  # which is for a whole process
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("mcdropout.catalogue.making.make.compile_bundle", _compile)

    def run(*arguments):
        modules = set(sys.modules)
        done = CliRunner().invoke(app, ["init", *map(str, arguments)])
        for name in set(sys.modules) - modules:
            if name.partition(".")[0] in ("shop", "shapes", "alone"):
                del sys.modules[name]
        return done

    return run


def _compile(bundle, into, told):
    into.mkdir(exist_ok=True)
    outcome, error = compile_here(bundle.folder, into)
    if outcome != "compiled":
        raise (WithoutDropoutError if outcome == "without_dropout" else BundleError)(error)


def expected(rows):
    """What the network of `sources` answers with its dropout off."""
    with torch.no_grad():
        return sources.network()(torch.from_numpy(rows)).softmax(1).numpy()


def fields_of(bundle):
    return yaml.safe_load((bundle / "model.yaml").read_text())


def ask(printed, port):
    """Send the request of the curl command that was printed to a server at another port."""
    (command,) = re.findall(r"curl -s .*", printed)
    _, _, url, _, header, _, data = shlex.split(command)
    assert data.startswith("@")
    name, value = header.split(": ")
    url = url.replace(":8000", f":{port}")
    return httpx.post(url, content=Path(data[1:]).read_bytes(), headers={name: value}, timeout=patience(60))


class TestEachKind:
    """Two of them as processes, as a user runs them; the others in this process."""

    def test_an_onnx_file_becomes_a_bundle_that_answers_the_printed_curl(self, folder, tmp_path):
        done = init("flowers.onnx", "--into", tmp_path / "models", "--labels", "a,b,c", folder=folder)
        assert done.returncode == 0, done.stderr
        assert re.search(r"^compiling flowers\ncompiled flowers in \d+\.\d s$", done.stderr, re.MULTILINE)
        assert "/2/Dropout" in done.stdout
        bundle = tmp_path / "models" / "flowers"
        assert f"mcdropout serve {bundle}" in done.stdout
        with serving(bundle.parent, tmp_path) as server:
            server.wait_until_ready()
            answer = ask(done.stdout, server.port)
        assert answer.status_code == 200, answer.text
        assert {row["label"] for row in answer.json()["predictions"]} <= {"a", "b", "c"}
        np.testing.assert_allclose(mcdropout.load(bundle).predict(ROWS, 0).mean, expected(ROWS), atol=1e-6)

    def test_a_folder_of_hugging_face_is_asked_by_texts(self, init_here, folder, tmp_path):
        done = init_here("reviews", "--into", tmp_path / "models")
        assert done.exit_code == 0, done.output
        bundle = tmp_path / "models" / "reviews"
        fields = fields_of(bundle)
        assert (fields["task"], fields["labels"]) == ("classification", ["bad", "good", "neither"])
        assert fields["sizes"] == {"tokens": [2, 8]}
        with serving(bundle.parent, tmp_path) as server:
            server.wait_until_ready()
            assert ask(done.output, server.port).status_code == 200
            url = f"{server.url}/models/reviews/predict?mc=0&fields=label,mean"
            pair = {"text": "it works", "text_pair": "nobody knows"}
            rows = server.client.post(url, json={"inputs": ["it works !", pair, "it " * 20]}).json()["predictions"]
        import transformers

        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "reviews").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "reviews")
        given = [("it works !",), ("it works", "nobody knows"), ("it " * 20,)]
        for row, texts in zip(rows, given, strict=True):
            with torch.no_grad():
                logits = model(**tokenizer(*texts, return_tensors="pt", truncation=True)).logits
            np.testing.assert_allclose(row["mean"], logits.softmax(1)[0].numpy(), atol=1e-6)
            assert row["label"] == model.config.id2label[int(logits.argmax())]

    def test_a_function_becomes_a_bundle_that_does_without_its_users_folder(self, folder, tmp_path, monkeypatch):
        models = tmp_path / "models"
        done = init("shop.nets:with_rows", "--weights", "w.pth", "--into", models, folder=folder)
        assert done.returncode == 0, done.stderr
        bundle = models / "nets-with_rows"
        assert {path.name for path in (bundle / "code").rglob("*.py")} == {"__init__.py", "nets.py", "shapes.py"}
        assert fields_of(bundle)["input"]["shape"] == [4]
        monkeypatch.chdir(tmp_path)
        assert compile_here(bundle, bundle / "compiled") == ("compiled", None)
        np.testing.assert_allclose(mcdropout.load(bundle).predict(ROWS, 0).mean, expected(ROWS), atol=1e-6)

    def test_a_checkpoint_of_lightning_is_read_without_the_classes_that_it_names(self, init_here, tmp_path):
        done = init_here("run.ckpt", "--module", "shop.nets:Net", "--shape", "4", "--into", tmp_path)
        assert done.exit_code == 0, done.output
        assert fields_of(tmp_path / "run")["arguments"] == {"width": 8}
        np.testing.assert_allclose(mcdropout.load(tmp_path / "run").predict(ROWS, 0).mean, expected(ROWS), atol=1e-6)

    @pytest.mark.parametrize(("file", "options"), [("exported.pt2", ()), ("traced.pt", ("--shape", "4"))])
    def test_a_saved_program_is_a_bundle_without_code(self, init_here, tmp_path, file, options):
        done = init_here(file, *options, "--into", tmp_path, "--name", "mine")
        assert done.exit_code == 0, done.output
        assert not list((tmp_path / "mine").glob("*.py"))
        np.testing.assert_allclose(mcdropout.load(tmp_path / "mine").predict(ROWS, 0).mean, expected(ROWS), atol=1e-6)

    def test_a_file_alone_is_copied_and_its_words_are_within_what_its_embedding_knows(self, init_here, tmp_path):
        done = init_here("alone.py:Words", "--shape", "tokens:int64", "--sizes", "tokens=1:6", "--into", tmp_path)
        assert done.exit_code == 0, done.output
        bundle = tmp_path / "alone-Words"
        assert (bundle / "network.py").read_text() == Path("alone.py").read_text()
        assert (fields_of(bundle)["input"]["minimum"], fields_of(bundle)["input"]["maximum"]) == (0, 29)

    @pytest.mark.long
    def test_a_model_of_images_takes_files_as_its_processor_would(self, init_here, tmp_path):
        image = pytest.importorskip("PIL.Image")
        done = init_here("pictures", "--into", tmp_path)
        assert done.exit_code == 0, done.output
        pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
        found = mcdropout.load(tmp_path / "pictures").predict(image.fromarray(pixels), 0).mean
        import transformers

        model = transformers.AutoModelForImageClassification.from_pretrained(Path("pictures")).eval()
        values = (pixels / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.5, 0.25]
        with torch.no_grad():
            logits = model(torch.from_numpy(values.transpose(2, 0, 1)[None]).float()).logits
        np.testing.assert_allclose(found, logits.softmax(1).numpy(), atol=1e-5)

    @pytest.mark.long
    def test_a_network_of_timm_has_as_many_classes_as_its_weights(self, init_here, folder, tmp_path):
        try:
            import timm
        except Exception as error:  # torchvision, which it imports, may not fit this PyTorch
            pytest.skip(f"timm cannot be imported: {error}")
        weights = timm.create_model("test_efficientnet", num_classes=5).state_dict()
        torch.save({"state_dict": weights}, folder / "timm.pth")
        arguments = ("--weights", "timm.pth", "--argument", "drop_rate=0.2", "--into", tmp_path)
        done = init_here("timm:test_efficientnet", *arguments)
        assert done.exit_code == 0, done.output
        assert fields_of(tmp_path / "test_efficientnet")["arguments"] == {"drop_rate": 0.2, "num_classes": 5}


class TestWhatIsLeft:
    def test_nothing_is_left_of_what_fails_wherever_that_is(self, init_here, tmp_path):
        for arguments in (("shop.nets:Sure", "--shape", "4"), ("shop.nets:Net", "--shape", "4", "--labels", "a,b")):
            assert init_here(*arguments, "--into", tmp_path / "new" / "models").exit_code == 1
            assert not (tmp_path / "new").exists()

    def test_nothing_is_left_of_what_is_interrupted(self, folder, tmp_path):
        process = subprocess.Popen(
            [str(MCDROPOUT), "init", "flowers.onnx", "--into", str(tmp_path / "models")],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: list((tmp_path / "models").glob(".init-*/flowers")), 60, every=0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience(30)) == 130
        assert process.stderr is not None
        assert "nothing was made" in process.stderr.read()
        assert not (tmp_path / "models").exists()

    def test_a_bundle_is_replaced_where_that_is_asked_for_and_nothing_else_ever(self, init_here, tmp_path):
        assert init_here("flowers.onnx", "--into", tmp_path).exit_code == 0
        mark = tmp_path / "flowers" / "mark"
        mark.touch()
        refused = init_here("flowers.onnx", "--into", tmp_path)
        assert (refused.exit_code, mark.exists()) == (1, True)
        assert "flowers is there already; another --name, or --force" in refused.output
        assert init_here("flowers.onnx", "--into", tmp_path, "--force").exit_code == 0
        assert not mark.exists()
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis").touch()
        refused = init_here("flowers.onnx", "--into", tmp_path, "--name", "mine", "--force")
        assert "is no bundle" in refused.output
        assert (tmp_path / "mine" / "thesis").exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["flowers", "mine"]


class TestWhatIsRefused:
    def test_a_network_without_dropout_is_offered_what_there_is_and_that_works(self, init_here, tmp_path):
        refused = init_here("shop.nets:Sure", "--shape", "4", "--into", tmp_path)
        assert "no dropout to switch on" in refused.output
        assert "--inject 0.1" in refused.output
        done = init_here("shop.nets:Sure", "--shape", "4", "--into", tmp_path, "--inject", "0.1")
        assert done.exit_code == 0, done.output
        assert "added: the network was not trained with it" in done.output
        assert fields_of(tmp_path / "nets-Sure")["dropout"] == {"add": {"layers.2": 0.1}}
        assert mcdropout.load(tmp_path / "nets-Sure").predict(ROWS, 20, 1).variance.min() > 0

    def test_an_onnx_model_without_dropout_is_offered_the_same(self, init_here, tmp_path):
        refused = init_here("sure.onnx", "--into", tmp_path)
        assert "--inject 0.1, which adds dropout before the last layer" in " ".join(refused.output.split())
        done = init_here("sure.onnx", "--into", tmp_path, "--inject", "0.1")
        assert done.exit_code == 0, done.output
        fields = fields_of(tmp_path / "sure")
        assert (fields["dropout"], fields["output"]) == ({"add": {"Relu": 0.1}}, "probabilities")
        assert mcdropout.load(tmp_path / "sure").predict(ROWS, 20, 1).variance.min() > 0

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["nothing"], "is no file and no folder, and names no function. Accepted are: an ONNX model"),
            (["shop"], "is a folder without a config.json"),
            (["shapes.py"], "is a file of a kind that no bundle is made of (.py)"),
            (["shop.nets:Nix"], "shop.nets defines no 'Nix'; one of Net, Sure, One, with_rows, number is accepted"),
            (["shop.nets:number"], "returns int; a torch.nn.Module, or (network, example_inputs), is accepted"),
            (["shop.nets:Net"], "does not say what sizes a row of its input (flower) has"),
            (["shop.nets:Net", "--shape", "5"], "fails in eval mode on float32 of shape [3, 5]"),
            (["shop.nets:Net", "--shape", "4:int65"], "of the dtype 'int65'; float32"),
            (["shop.nets:Net", "--shape", "tokens"], "--sizes NAME=LEAST:MOST for each name is accepted"),
            (["shop.nets:One", "--shape", "4"], "which may be a yes or no, or a quantity; --task (binary, regression)"),
            (["shop.nets:Net", "--shape", "4", "--weights", "flowers.onnx"], "cannot be read as a checkpoint"),
            (["alone.py:Words", "--shape", "4:int64", "--weights", "w.pth"], "it lacks embedding.weight"),
            (["run.ckpt"], "--module module:Class, or path/to/file.py:Class"),
            (["w.pth", "--module", "shop.nets:Net", "--shape", "4", "--argument", "width=9"], "has the shape [8, 4]"),
            (["flowers.onnx", "--weights", "w.pth"], "--weights is given for flowers.onnx, which is an ONNX model"),
            (["maps.onnx"], "'output_probability' as a sequence and not as a tensor; a tensor is accepted (from sci"),
            (["exported.pt2", "--inject", "0.1"], "its code, as path/to/file.py:function --weights ..., or an ONNX"),
            (["line.onnx", "--inject", "0.1"], "has no layer before a last linear one to put it behind"),
            (["flowers.onnx", "--name", "../other"], "--name is '../other'; up to 100 letters"),
            (["flowers.onnx", "--task", "guess"], "--task is 'guess'; classification, binary"),
            (["flowers.onnx", "--inject", "2"], "--inject is 2; a probability between 0 and 1"),
            (["timm:resnet18x", "--argument", "p"], "--argument is 'p'; NAME=VALUE"),
        ],
    )
    def test_what_cannot_be_used_is_refused_with_what_would_be(self, init_here, tmp_path, arguments, told):
        done = init_here(*arguments, "--into", tmp_path)
        assert done.exit_code == 1
        assert told in " ".join(done.output.split())
        assert list(tmp_path.iterdir()) == []
        assert not (tmp_path.parent / "other").exists()


def test_what_cannot_be_seen_is_asked_for_on_a_terminal(folder, tmp_path):
    """A pseudo-terminal, whose user first answers what is not accepted."""
    leader, follower = os.openpty()
    with open(tmp_path / "out", "w") as out:
        process = subprocess.Popen(
            [str(MCDROPOUT), "init", "one.onnx", "--into", str(tmp_path / "models")],
            cwd=folder,
            stdin=follower,
            stderr=follower,
            stdout=out,
        )
    os.close(follower)
    os.write(leader, b"maybe\nregression\n")
    said = b""
    try:
        while chunk := os.read(leader, 4096):
            said += chunk
    except OSError:  # the other side is closed
        pass
    assert process.wait(patience(60)) == 0, said
    assert b"What does it answer? (binary, regression)" in said
    assert b"'maybe' is none of binary, regression" in said
    assert fields_of(tmp_path / "models" / "one")["task"] == "regression"


def test_a_terminal_is_told_why_it_is_asked_where_that_is_so_alone():
    asked = []
    source = Source("net.py:Net")
    for shape in ((3, 3), (3, 1)):
        task_of(shape, source, lambda question: asked.append(question) or "regression")
    assert [(question.default, bool(question.needed)) for question in asked] == [
        ("classification", False),
        (None, True),
    ]


class TestServingASource:
    def test_one_command_makes_and_serves_it_and_the_next_time_it_is_there(self, folder, tmp_path):
        for said in ("compiling flowers", "to ask flowers"):
            environment = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
            with serving(tmp_path, tmp_path, str(folder / "flowers.onnx"), **environment) as server:
                server.wait_until_ready()
                answer = ask(server.log.replace(f":{server.port}", ":8000"), server.port)
                assert answer.status_code == 200, answer.text
                assert said in server.log
        assert "compiling" not in server.log

    def test_what_was_made_is_known_to_be_old_once_a_file_of_it_has_changed(self, tmp_path, monkeypatch):
        sources.write_code(tmp_path)
        monkeypatch.chdir(tmp_path)
        model, weights = tmp_path / "model.onnx", tmp_path / "w.pth"
        model.touch()
        weights.touch()
        for source, files in (
            (Source(str(model)), [model]),
            (Source("shop.nets:Net", weights=weights), [weights, tmp_path / "shapes.py"]),
            (Source(str(tmp_path / "shop")), [tmp_path / "shop" / "nets.py"]),
        ):
            before = state_of(source)
            assert state_of(source) == before
            for file in files:
                file.write_text("other")
                assert state_of(source) != before
                before = state_of(source)

    def test_bundles_are_served_beside_one_another_under_their_names(self, tmp_path):
        models = Path(__file__).resolve().parents[2] / "models"
        bundles = [str(models / "mnist-cnn"), str(models / "tumour-mlp")]
        with serving(tmp_path, tmp_path, *bundles, XDG_CACHE_HOME=str(tmp_path / "cache")) as server:
            server.wait_until_ready()
            names = [model["name"] for model in server.client.get("/models").json()["models"]]
        assert names == ["mnist-cnn", "tumour-mlp"]

    def test_what_is_no_source_is_refused_before_anything_starts(self, tmp_path):
        done = subprocess.run([str(MCDROPOUT), "serve", "nothing"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert "error: 'nothing' is no file and no folder" in done.stderr
        bundle = Path(__file__).resolve().parents[2] / "models" / "mnist-cnn"
        command = [str(MCDROPOUT), "serve", str(bundle), "--task", "binary"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert "model.yaml says what they would" in done.stderr


def test_an_example_is_as_the_network_was_given(folder, tmp_path, init_here):
    done = init_here("shop.nets:with_rows", "--into", tmp_path)
    assert done.exit_code == 0, done.output
    assert "--weights FILE loads yours" in done.output
    example = json.loads((tmp_path / "nets-with_rows" / "example.json").read_text())
    assert np.shape(example["inputs"]) == (3, 4)
