"""A real browser, for tests of the page."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.patience import patience
from tests.servers import Server

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window; it ends with the file, as an event loop runs in this thread meanwhile."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; apt-get install chromium does that")
    with sync_playwright() as playwright:
        expect.set_options(timeout=patience(10) * 1000)
        sandbox = [] if os.getuid() else ["--no-sandbox"]  # which root cannot have
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield running
        running.close()


@pytest.fixture
def window(browser: Browser) -> Iterator[BrowserContext]:
    """A window that nobody used before, as wide as a desk's."""
    made = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    made.set_default_timeout(patience(10) * 1000)
    yield made
    made.close()


@pytest.fixture
def page(window: BrowserContext, server: Server) -> Iterator[Page]:
    """The page of the server on the bundles of the repository. Whatever it raises fails the test."""
    made = window.new_page()
    raised: list[str] = []
    made.on("pageerror", lambda error: raised.append(str(error)))
    # That a server refuses or is gone, the browser says too, and tests of that do.
    made.on(
        "console",
        lambda line: raised.append(line.text) if line.type == "error" and "resource" not in line.text else None,
    )
    yield made
    assert not raised
