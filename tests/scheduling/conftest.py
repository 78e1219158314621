"""What the tests of scheduling share."""

import pytest
from mcdropout.catalogue.loading import Loading, Model, load

from tests.bundles import CLASSIFIER, write_bundle


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small classifier of 4 numbers."""
    return load(write_bundle(tmp_path_factory.mktemp("models"), "small", CLASSIFIER), Loading())
