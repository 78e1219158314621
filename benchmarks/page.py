"""The page in a real browser: its bytes, its first view, and the time from a stroke to the first estimate of it.

    python -m benchmarks.page [--model mnist-cnn] [--strokes 40]

Needs Chromium, and the packages of the tests.
"""

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.servers import ROOT, serving

_STROKE = [(0.32, 0.24), (0.5, 0.25), (0.67, 0.22), (0.6, 0.42), (0.52, 0.6), (0.47, 0.8)]
_PAUSE_MS = 250


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist-cnn")
    parser.add_argument("--strokes", type=int, default=40, help="how many are drawn")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("Chromium is not installed; apt-get install chromium does that")
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        serving(ROOT / "models", Path(folder), "--default", options.model) as server,
    ):
        server.wait_until_ready()
        browser = playwright.chromium.launch(executable_path=chromium, args=[] if os.getuid() else ["--no-sandbox"])
        _first_views(browser, server.url)
        _strokes(browser.new_page(), server.url, options.strokes)
        browser.close()


def _first_views(browser: Browser, url: str) -> None:
    """Bytes and time of a first visit, each in a window of its own."""
    paints, answers, sizes = [], [], []
    for _ in range(5):
        page = browser.new_page()
        sent: list[int] = []
        page.on("requestfinished", lambda request, sent=sent: sent.append(request.sizes()["responseBodySize"]))
        page.goto(url)
        page.get_by_text("passes in").wait_for()
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        entry = "performance.getEntriesByName('mcdropout.first-estimate')[0]"
        answers.append(page.evaluate(f"{entry}.startTime + {entry}.duration"))
        sizes.append(sum(sent))
        page.close()
    files = [path for path in (ROOT / "service/mcdropout/api/page/static").rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    print(f"files: {len(files)}, {total / 1000:.1f} kB")
    print(f"sent in a first visit, answers too: {statistics.median(sizes) / 1000:.1f} kB")
    print(f"first contentful paint: {_told(paints)}; first answer on the page: {_told(answers)}")


def _strokes(page: Page, url: str, count: int) -> None:
    """From what a stroke changes to the first estimate of it that is shown."""
    page.goto(url)
    page.get_by_text("passes in").wait_for()
    box = page.locator(".pad canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in _STROKE]
    taken: list[float] = []
    for index in range(count):
        if index % len(places) == 0:
            page.get_by_role("button", name="Clear").click()
            page.wait_for_timeout(_PAUSE_MS)
        start, end = places[index % len(places) - 1], places[index % len(places)]
        page.evaluate("performance.clearMeasures()")
        page.mouse.move(*start)
        page.mouse.down()
        page.mouse.move(*end)
        page.mouse.up()
        page.wait_for_timeout(_PAUSE_MS)
        taken += page.evaluate(
            "performance.getEntriesByName('mcdropout.first-estimate').map((entry) => entry.duration)"
        )
    print(f"from a stroke to the first estimate of it, {len(taken)} of them: {_told(taken)}")


def _told(milliseconds: list[float]) -> str:
    ordered = sorted(milliseconds)
    p50, p95 = statistics.median(ordered), ordered[int(0.95 * (len(ordered) - 1))]
    return f"p50 {p50:.0f} ms, p95 {p95:.0f} ms"


if __name__ == "__main__":
    main()
