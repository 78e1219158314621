"""The engine's tests run small networks, which two threads of PyTorch slow down by waiting for each other."""

import pytest
import torch

from tests.exporting import export_quickly


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    export_quickly()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
