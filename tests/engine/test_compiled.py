"""Saving an engine and loading it: the same answers to the bit, the same checks, and nothing that is damaged."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mcdropout.engine import Engine, InvalidInputError, UnsupportedModelError, VerificationError
from mcdropout.engine.errors import CompiledError
from mcdropout.engine.runtimes.sessions import SessionOptions
from mcdropout.layers import GaussianDropout
from tests.engine.networks import Custom, conv_net, drop_connect, many_sites, mlp


def rows(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


def wide():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(300, 512),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(512, 3),
    )


def noisy():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), GaussianDropout(0.3), nn.Linear(8, 3))


def two_outputs():
    def forward(network, x):
        hidden = network.drop(network.first(x))
        return network.mean(hidden), network.log_variance(hidden)

    torch.manual_seed(0)
    return Custom(
        forward, first=nn.Linear(4, 8), drop=nn.Dropout(0.1), mean=nn.Linear(8, 1), log_variance=nn.Linear(8, 1)
    )


def by_keyword():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words, self.rest = nn.Embedding(9, 4), mlp()

        def forward(self, *, kept, ids):
            return {"logits": self.rest((self.words(ids) * kept.unsqueeze(-1)).mean(1))}

    return Keywords()


def sequence_first():
    return Custom(lambda self, x: self.rest(x.mean(0)), rest=mlp())


KINDS = {
    "mlp": (mlp, rows(3, 4), {}),
    "convolutions": (conv_net, rows(3, 1, 6, 6), {}),
    "a long chain": (wide, rows(3, 300), {}),
    "many kinds of dropout": (many_sites, rows(3, 6), {}),
    "dropout of weights": (drop_connect, rows(3, 4), {}),
    "numbers of its own": (noisy, rows(3, 4), {}),
    "mean and variance": (two_outputs, rows(3, 4), {"task": "regression"}),
    "keywords": (
        by_keyword,
        {"ids": np.array([[1, 2, 3], [4, 5, 6], [0, 8, 2]]), "kept": np.ones((3, 3), bool)},
        {"output": "logits"},
    ),
    "a small p": (lambda: mlp(1e-4), rows(3, 4), {}),
    "rows in the second dimension": (sequence_first, rows(5, 3, 4), {"row_axis": 1}),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Each kind of network as an engine, and the folder that it was saved to."""
    made = {}

    def make(kind):
        if kind not in made:
            module, x, options = KINDS[kind]
            engine = Engine.from_module(module(), x, **options)
            folder = tmp_path_factory.mktemp("compiled")
            engine.save(folder)
            made[kind] = engine, folder
        return made[kind]

    return make


def answers(engine, x):
    found = engine.predict(x, passes=20, seed=5)
    plain = engine.predict(x, passes=0)
    return [value for value in (*found.values.values(), *plain.values.values()) if value is not None]


@pytest.mark.wide
@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_that_was_saved_answers_as_the_one_that_saved_it_to_the_bit(saved, kind):
    engine, folder = saved(kind)
    _, x, _ = KINDS[kind]
    loaded = Engine.load(folder)
    found, wanted = answers(loaded, x), answers(engine, x)
    assert len(found) == len(wanted) > 4
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (loaded.sites, loaded.sites_off, loaded.inputs) == (engine.sites, engine.sites_off, engine.inputs)


def test_what_is_told_of_an_engine_is_told_of_the_loaded_one_and_its_checks_are_run_again(saved):
    engine, folder = saved("mlp")
    loaded = Engine.load(folder)
    assert [check.name for check in loaded.program.checks] == [check.name for check in engine.program.checks]
    assert all(check.passed for check in loaded.program.checks)
    for name in ("strategy", "runtime", "device", "reason", "frontier", "cost", "prefix_operations"):
        assert getattr(loaded.program, name) == getattr(engine.program, name)


def test_an_engine_can_be_saved_again_after_it_was_loaded(saved, tmp_path):
    engine, folder = saved("a long chain")
    Engine.load(folder).save(tmp_path / "again")
    again = Engine.load(tmp_path / "again")
    np.testing.assert_array_equal(
        again.predict(KINDS["a long chain"][1], 9, 1).mean, engine.predict(KINDS["a long chain"][1], 9, 1).mean
    )


def copy_of(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    return copy


def rehash(folder):
    """Make the record name the files as they are now."""
    path = folder / "program.json"
    record = json.loads(path.read_text())
    record["files"] = {name: sha256((folder / name).read_bytes()).hexdigest() for name in record["files"]}
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("file", ["prefix.onnx", "suffix.onnx", "reference.npz", "program.json"])
def test_a_file_that_is_missing_or_damaged_is_refused_by_name(saved, tmp_path, file):
    folder = copy_of(saved("mlp")[1], tmp_path)
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CompiledError, match=file):
        Engine.load(folder)
    (folder / file).unlink()
    with pytest.raises(CompiledError, match=file):
        Engine.load(folder)


def test_another_format_is_refused(saved, tmp_path):
    folder = copy_of(saved("mlp")[1], tmp_path)
    path = folder / "program.json"
    path.write_text(path.read_text().replace('"format": 3', '"format": 4'))
    with pytest.raises(CompiledError, match="format"):
        Engine.load(folder)


def test_masks_of_another_mapping_are_refused_where_they_are_others(saved, tmp_path):
    def rewritten(kind, mapping, place):
        place.mkdir()
        folder = copy_of(saved(kind)[1], place)
        record = json.loads((folder / "program.json").read_text())
        record = {key: value for key, value in record.items() if key != "mapping"}
        (folder / "program.json").write_text(json.dumps(record | ({} if mapping is None else {"mapping": mapping})))
        return folder

    engine = Engine.load(rewritten("mlp", None, tmp_path / "first"))  # the first version wrote no number
    assert engine.predict(rows(3, 4), 20, 5).mean.shape == (3, 3)
    for kind, mapping in (("mlp", 99), ("a small p", None), ("a small p", 1)):
        with pytest.raises(CompiledError, match=r"program\.json: its masks are of version (1|99) of the mapping"):
            Engine.load(rewritten(kind, mapping, tmp_path / f"{kind} {mapping}"))


def test_files_elsewhere_are_not_read(saved, tmp_path):
    folder = copy_of(saved("mlp")[1], tmp_path)
    (tmp_path / "secret").write_text("x")
    record = json.loads((folder / "program.json").read_text())
    record["files"]["../secret"] = sha256(b"x").hexdigest()
    (folder / "program.json").write_text(json.dumps(record))
    with pytest.raises(CompiledError, match="secret"):
        Engine.load(folder)


def test_a_program_that_does_not_answer_as_its_network_did_is_refused(saved, tmp_path):
    folder = copy_of(saved("a long chain")[1], tmp_path)
    data = folder / "suffix.onnx.data"
    weights = np.frombuffer(data.read_bytes(), np.float32).copy()
    weights[weights.nonzero()[0][:1000]] += 1.0
    data.write_bytes(weights.tobytes())
    rehash(folder)
    with pytest.raises(VerificationError, match="equals eval mode"):
        Engine.load(folder)


def test_a_network_that_runs_on_pytorch_only_cannot_be_saved(tmp_path):
    def forward(network, x):
        return network.rest(x) if x.abs().sum() >= 0 else x

    engine = Engine.from_module(Custom(forward, rest=mlp()), rows(3, 4))
    with pytest.raises(UnsupportedModelError, match=r"runs on eager and cannot be compiled.*torch.export"):
        engine.save(tmp_path)


@pytest.mark.parametrize("options", [{"optimization": "none"}, {"optimization": "basic"}, {"arena": False}])
def test_other_settings_of_onnx_runtime_give_the_same_statistics(saved, options):
    engine, folder = saved("convolutions")
    x = KINDS["convolutions"][1]
    loaded = Engine.load(folder, sessions=SessionOptions(**options))
    np.testing.assert_allclose(loaded.predict(x, 20, 5).mean, engine.predict(x, 20, 5).mean, atol=1e-6)


def test_a_provider_that_is_not_installed_is_refused_with_those_that_are(saved):
    with pytest.raises(InvalidInputError, match=r"provider is 'tensorrt'.*cpu is accepted.*onnxruntime-gpu"):
        Engine.load(saved("mlp")[1], sessions=SessionOptions(provider="tensorrt"))
    with pytest.raises(InvalidInputError, match="optimization is 'most'; one of all, extended, basic, none"):
        Engine.load(saved("mlp")[1], sessions=SessionOptions(optimization="most"))


def test_files_tell_nothing_of_the_machine_that_they_were_made_on(saved):
    for kind in KINDS:
        for file in Path(saved(kind)[1]).rglob("*"):
            if file.is_file():
                content = file.read_bytes()
                assert str(Path(__file__).parents[2]).encode() not in content, file
                assert b"site-packages" not in content, file
