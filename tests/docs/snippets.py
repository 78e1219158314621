"""The commands and the Python in the documents, as they are run by a test.

What stands before a block in a comment of HTML, which nobody sees who reads the page, says what it takes:

    <!-- setup ... -->        Python that makes what the block presumes
    <!-- serves: models -->   the block asks a server of the bundles that the page made, not of the repository's
    <!-- needs: timm -->      the rest of the page takes a package that not every machine has
    <!-- not run: ... -->     why the block is not run
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MODELS
from tests.patience import patience
from tests.servers import ROOT, Server, serving

_PARTS = re.compile(
    r"^<!-- (?P<word>setup|serves:|needs:|not run:)(?P<said>.*?)-->$|^```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
_ADDRESS = "127.0.0.1:8000"
_WITHIN = 120.0


@dataclass(frozen=True)
class Snippet:
    """A block of a document.

    Attributes:
        page: where it stands, from the repository's folder.
        line: its first line.
        kind: "sh" or "python".
        code: what is run.
        setup: Python that makes what it presumes.
        serves: the folder of the bundles that it asks; the repository's where empty.
        not_run: why it is not run; empty where it is.
    """

    page: str
    line: int
    kind: str
    code: str
    setup: str = ""
    serves: str = ""
    not_run: str = ""


def snippets_of(path: Path) -> Iterator[Snippet]:
    """The blocks of a document that can be run, in their order; skips the test where it needs what is not there."""
    text = path.read_text()
    setup, serves, not_run = "", "", ""
    for found in _PARTS.finditer(text):
        word, said = found["word"], (found["said"] or "").strip()
        if word == "setup":
            setup += f"{said}\n"
        elif word == "serves:":
            serves = said
        elif word == "not run:":
            not_run = said
        elif word == "needs:":
            if find_spec(said) is None:
                pytest.skip(f"{path.name} needs {said}")
        else:
            if found["kind"] in ("sh", "python"):
                line = text[: found.start()].count("\n") + 2
                page = path.relative_to(ROOT).as_posix()
                yield Snippet(page, line, found["kind"], found["code"], setup, serves, not_run)
            setup, serves, not_run = "", "", ""


class Reader:
    """Somebody who follows a page from its top, in a folder of their own."""

    def __init__(self, folder: Path, server: Server) -> None:
        self._folder, self._server = folder, server
        self._names: dict[str, Any] = {}
        (folder / "models").mkdir()
        for bundle in MODELS.iterdir():
            if bundle.is_dir():
                (folder / "models" / bundle.name).symlink_to(bundle)
        (folder / ".curlrc").write_text("fail-with-body\n")

    def follow(self, snippet: Snippet) -> None:
        """Do as a snippet says.

        Raises:
            AssertionError: a command fails.
        """
        if snippet.setup:
            self._python(snippet.setup, f"setup of {snippet.page}:{snippet.line}", f"127.0.0.1:{self._server.port}")
        if snippet.not_run:
            return
        if not snippet.serves:
            self._run(snippet, f"127.0.0.1:{self._server.port}")
            return
        made = self._folder / "made"
        made.mkdir()
        for bundle in (self._folder / snippet.serves).iterdir():
            if not bundle.is_symlink():
                (made / bundle.name).symlink_to(bundle)
        with serving(made, self._folder) as own:
            own.wait_until_ready()
            self._run(snippet, f"127.0.0.1:{own.port}")

    def _run(self, snippet: Snippet, address: str) -> None:
        where = f"{snippet.page}:{snippet.line}"
        if snippet.kind == "python":
            self._python(snippet.code, where, address)
            return
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", snippet.code.replace(_ADDRESS, address)],
            cwd=self._folder,
            env=os.environ
            | {"PATH": path, "CURL_HOME": str(self._folder), "MCDROPOUT_CLIENT_URL": f"http://{address}"},
            capture_output=True,
            text=True,
            timeout=patience(_WITHIN),
        )
        assert done.returncode == 0, f"{where} ends with status {done.returncode}:\n{done.stdout}\n{done.stderr}"

    def _python(self, code: str, where: str, address: str) -> None:
        exec(compile(code.replace(_ADDRESS, address), where, "exec"), self._names)
