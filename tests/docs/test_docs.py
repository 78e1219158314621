"""The documents: what they tell to do works, their links lead somewhere, and they make a site."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

from tests.docs.snippets import Reader, snippets_of
from tests.patience import patience
from tests.servers import ROOT, Server

mpl.use("agg")

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = [page for page in PAGES if re.search(r"^```(sh|python)$", page.read_text(), re.MULTILINE)]
_LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_tells_to_do_works(
    page: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    reader = Reader(tmp_path, server)
    for snippet in snippets_of(page):
        reader.follow(snippet)


def test_few_snippets_are_not_run_and_each_says_why() -> None:
    found = [snippet for page in RUN for snippet in snippets_of(page) if page.stem != "timm"]
    left = {f"{snippet.page}:{snippet.line}": snippet.not_run for snippet in found if snippet.not_run}
    assert len(found) > 20
    assert len(left) <= 9, left
    assert all(len(why) > 10 for why in left.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    for target in _LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_they_make_a_site(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", str(ROOT / "docs"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    assert done.returncode == 0, done.stderr
    assert "mutual_information" in (tmp_path / "numbers.html").read_text()
