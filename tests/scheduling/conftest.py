"""What the tests of scheduling share."""

import pytest

from mcdropout.catalogue.loading import Loading, load
from mcdropout.catalogue.model import Model
from tests.bundles import CLASSIFIER, write_bundle
from tests.compilations import compiled


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small classifier of 4 numbers."""
    return load(compiled(write_bundle(tmp_path_factory.mktemp("models"), "small", CLASSIFIER)), Loading())
