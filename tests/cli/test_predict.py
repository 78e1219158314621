"""`mcdropout predict`: what it reads, what it prints of a real server's answers, and its exit status."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from mcdropout.cli import app
from tests.client.answering import ANSWER, answering, overloaded
from tests.conftest import MODELS
from tests.patience import patience
from tests.servers import Server, free_port


def predict(url: str, *arguments: str, stdin: bytes = b"", **environment: str) -> Result:
    """What the command does in this process."""
    wide = {"COLUMNS": "140", **environment}
    return CliRunner().invoke(app, ["predict", "--url", url, *arguments], input=stdin, env=wide)


def in_a_process(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """What a Python does with these arguments."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=patience(60))


def body(model: str) -> Path:
    return MODELS / model / "example.json"


def mean(done: Result) -> list[float]:
    """What `--json` printed of the first row's mean."""
    assert done.exit_code == 0, done.stderr
    values: list[float] = json.loads(done.stdout)["predictions"][0]["mean"]
    return values


def test_a_row_of_a_classifier_is_a_line_and_its_classes_are_bars(server: Server) -> None:
    done = predict(server.url, str(body("mnist-cnn")), "--seed", "7")
    assert done.exit_code == 0, done.stderr
    lines = [line.strip("│ ").split() for line in done.stdout.splitlines()]
    assert "mnist-cnn 1: mc 50, seed 7" in done.stdout
    assert [
        "row",
        "label",
        "probability",
        "mean",
        "std_error",
        "entropy",
        "mutual_information",
        "variation_ratio",
    ] in lines
    (row,) = [line for line in lines if line[:2] == ["0", "7"]]
    assert (row[2], row[3]) == ("█" * 20, "1.0000")
    assert [line[0] for line in lines if len(line) in (4, 5) and line[0].isdigit()] == list("0123456789")


def test_rows_of_a_regression_are_lines_with_their_intervals(server: Server) -> None:
    done = predict(server.url, str(body("concrete-mlp")), "--model", "concrete-mlp", "--seed", "7")
    document = json.loads(
        predict(server.url, str(body("concrete-mlp")), "--model", "concrete-mlp", "--seed", "7", "--json").stdout
    )
    for row in document["predictions"]:
        lower, upper = row["interval"]
        assert f"{lower:.4g} to {upper:.4g}" in done.stdout
        assert f"{row['mean']:.4g}" in done.stdout


@pytest.mark.wide
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("tumour-mlp", ["benign", "malignant", "probability"]),
        ("digits-multilabel", ["0, 9", "joint_mutual_information", "variation_ratio"]),
        ("digits-segmentation", ["background 88%", "max"]),
        ("sentiment-cnn", ["epistemic_variance", "interval"]),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")  # of NumPy, about what holds no number at all
def test_every_task_is_printed(server: Server, model: str, words: list[str]) -> None:
    for mc in ("50", "1", "0", "auto"):
        done = predict(server.url, str(body(model)), "--model", model, "--seed", "7", "--mc", mc)
        assert done.exit_code == 0, done.stderr
        if mc == "50":
            assert all(word in done.stdout for word in words), done.stdout


def test_bodies_arrays_tables_and_images_are_read(
    server: Server, seven: npt.NDArray[np.float64], tmp_path: Path
) -> None:
    np.save(tmp_path / "seven.npy", seven)
    np.savez(tmp_path / "seven.npz", image=seven)
    np.savez(tmp_path / "unnamed.npz", seven)
    Image.fromarray(seven[0, 0].astype(np.uint8)).save(tmp_path / "seven.PNG")
    asked = ("--seed", "7", "--json", "--model", "mnist-cnn")
    expected = mean(predict(server.url, "-", *asked, stdin=body("mnist-cnn").read_bytes()))
    for file in (
        body("mnist-cnn"),
        *(tmp_path / name for name in ("seven.npy", "seven.npz", "unnamed.npz", "seven.PNG")),
    ):
        assert mean(predict(server.url, str(file), *asked)) == pytest.approx(expected, abs=1e-6)
    rows = json.loads(body("concrete-mlp").read_text())["inputs"]
    lines = ["a,b,c,d,e,f,g,h", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "mixtures.csv").write_text("\n".join(lines))
    asked = ("--model", "concrete-mlp", "--seed", "7", "--json")
    of_table = predict(server.url, str(tmp_path / "mixtures.csv"), *asked)
    of_body = predict(server.url, str(body("concrete-mlp")), *asked)
    assert mean(of_table) == pytest.approx(mean(of_body), abs=1e-4)
    assert len(json.loads(of_table.stdout)["predictions"]) == 4


def test_every_option_reaches_the_server_and_the_key_may_come_from_the_environment() -> None:
    options = {"model": "m", "mc": "auto", "seed": "3", "tolerance": "0.5", "deadline-ms": "9.0"}
    options |= {"fields": "mean,entropy", "reduce": "p95", "regions": "2x2"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
    with answering([ANSWER]) as server:
        predict(server.url, "-", *arguments, "--samples", stdin=b"{}", MCDROPOUT_CLIENT_KEY="of-the-environment")
        predict(server.url, "-", "--key", "given", stdin=b"{}", MCDROPOUT_CLIENT_KEY="of-the-environment")
        first, second = server.asked
    assert first.path == (
        "/models/m/predict?mc=auto&seed=3&tolerance=0.5&deadline_ms=9.0&samples=true&fields=mean%2Centropy&reduce=p95"
        "&regions=2x2"
    )
    assert (first.content, second.path) == (b"{}", "/predict")
    assert first.headers["authorization"] == "Bearer of-the-environment"
    assert second.headers["authorization"] == "Bearer given"


def test_as_a_process_it_prints_the_answer_as_it_came_and_its_status_is_0(server: Server) -> None:
    arguments = ("--url", server.url, "--json", "--model", "tumour-mlp", "--fields", "label", "--seed", "7")
    done = in_a_process("-m", "mcdropout", "predict", *arguments, stdin=body("tumour-mlp").read_text())
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["predictions"] == [{"label": label, "passes": 50} for label in ("benign", "malignant", "malignant")]


def test_what_is_refused_is_a_sentence_and_the_exit_status_1(server: Server, tmp_path: Path) -> None:
    (tmp_path / "no.npy").write_text("words")
    (tmp_path / "no.csv").write_text("1,2\n3,x\n")
    (tmp_path / "words.csv").write_text(f"{'1,' * 29}1\n{'1,' * 29}x\n")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    for arguments, said in (
        (["nix.json"], "nix.json"),
        ([str(tmp_path / "no.npy")], "no.npy"),
        ([str(tmp_path / "objects.npy")], "arrays of numbers are accepted"),
        ([str(tmp_path / "no.csv")], "a line of a table one dimension"),
        ([str(tmp_path / "words.csv"), "--model", "tumour-mlp"], "line 2 of the table holds 'x'"),
        ([str(body("mnist-cnn")), "--model", "nix"], "404 Not Found: there is no model 'nix'"),
        ([str(body("mnist-cnn")), "--mc", "many"], "mc is 'many'; a whole number from 0 on, or auto, is accepted"),
        ([str(body("mnist-cnn")), "--retries", "-1"], "retries is -1"),
    ):
        done = predict(server.url, *arguments)
        assert (done.exit_code, done.stdout) == (1, ""), done.exception
        assert done.stderr.startswith("error: ")
        assert said in done.stderr


def test_a_server_that_cannot_be_reached_or_is_overloaded_is_exit_status_1() -> None:
    done = predict(f"http://127.0.0.1:{free_port()}", "-", "--retries", "0", stdin=b"{}")
    assert (done.exit_code, "cannot be reached" in done.stderr) == (1, True)
    with answering([overloaded(Retry_After="0")]) as server:
        done = predict(server.url, "-", "--retries", "1", stdin=b"{}")
        assert (done.exit_code, "503" in done.stderr, len(server.asked)) == (1, True, 2)


def test_where_httpx_is_missing_it_says_what_to_install() -> None:
    without = "import sys; sys.modules['httpx'] = None"
    program = f"{without}; sys.argv = ['mcdropout', 'predict']; import mcdropout.cli; mcdropout.cli.run()"
    done = in_a_process("-c", program, stdin="{}")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'mcdropout[client]' mends it")
    assert "Traceback" not in done.stderr
