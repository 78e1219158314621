import gc
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests import selection
from tests.compilations import keep_compilations
from tests.patience import measure_for_all
from tests.servers import ROOT, Server, serving

MODELS = ROOT / "models"
# Folders whose files take long begin first, so that all processes of a run end at about one time.
_FIRST = ("tests/ray/", "tests/catalogue/", "tests/processes/", "tests/api/", "tests/engine/")


def pytest_addoption(parser: pytest.Parser) -> None:
    selection.add_option(parser)


def pytest_configure(config: pytest.Config) -> None:
    """What all processes of a run share is made by the first, which starts the others."""
    if not hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's threads that wait for more work take others' time
        measure_for_all()
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # where what fails can be looked at
        # Servers that are killed, among others, leave files; those of a run go with it.
        temporary = tempfile.TemporaryDirectory(prefix="mcdropout-tests-", ignore_cleanup_errors=True)
        config.add_cleanup(temporary.cleanup)
        os.environ["TMPDIR"] = tempfile.tempdir = temporary.name
        keep_compilations(Path(temporary.name) / "compilations")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selection.deselect(config, items)
    items.sort(key=lambda item: next((n for n, place in enumerate(_FIRST) if item.nodeid.startswith(place)), 99))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # to look for garbage in PyTorch's modules again and again takes a sixth of the time of an export
    gc.set_threshold(100_000, 20, 50)  # and so does to look for it in the graphs that an export makes


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server on the bundles of the repository, ready."""
    with serving(MODELS, tmp_path_factory.mktemp("log"), "--default", "mnist-cnn", "--log-format", "json") as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="session")
def seven() -> npt.NDArray[np.float64]:
    """The README's example, a handwritten 7, `[1, 1, 28, 28]`."""
    return np.asarray(json.loads((MODELS / "mnist-cnn" / "example.json").read_text())["inputs"], np.float64)[None]


@pytest.fixture(scope="session")
def mnist_folder() -> Path:
    """The folder of the MNIST files, from MCDROPOUT_MNIST, else `../shared/data/mnist`."""
    folder = Path(os.environ.get("MCDROPOUT_MNIST", ROOT.parent / "shared" / "data" / "mnist"))
    if not folder.is_dir():
        pytest.skip(
            f"no MNIST files in {folder}; set MCDROPOUT_MNIST to a folder of the four files of "
            "https://storage.googleapis.com/cvdf-datasets/mnist/"
        )
    return folder
