"""`mcdropout --version`."""

import subprocess
from importlib.metadata import version

from tests.patience import patience
from tests.servers import MCDROPOUT


def test_it_tells_the_version_that_is_installed_and_ends() -> None:
    shown = subprocess.run([str(MCDROPOUT), "--version"], capture_output=True, text=True, timeout=patience(60))
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, f"mcdropout {version('mcdropout')}\n", "")
