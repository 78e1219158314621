"""The page as a whole: what it is made of, who it asks, and who can use it."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

import mcdropout.api.page
from tests.page.looking import settled, visit
from tests.servers import Server

STATIC = Path(mcdropout.api.page.__file__).parent / "static"
VIEWS = [
    *("#/predict/mnist-cnn", "#/predict/concrete-mlp", "#/predict/digits-segmentation", "#/predict/digits-multilabel"),
    *("#/theatre/mnist-cnn", "#/training/mnist-cnn", "#/model/mnist-cnn"),
]


def look_at(page: Page, server: Server, address: str) -> None:
    visit(page, server, address)
    if "predict" in address:
        settled(page)
    elif "theatre" in address:
        expect(page.locator(".site").first).to_be_visible()


def test_it_is_small(server: Server) -> None:
    paths = [path for path in STATIC.rglob("*") if path.suffix in (".js", ".css", ".html")]
    assert sum(path.stat().st_size for path in paths) < 150_000
    found = server.client.get("/", headers={"accept-encoding": "gzip"})
    assert found.headers["content-encoding"] == "gzip"


def test_what_a_browser_has_already_is_not_sent_again(server: Server) -> None:
    first = server.client.get("/page/main.js")
    assert (first.status_code, first.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    again = server.client.get("/page/main.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert server.client.get("/page/nothing.js").status_code == 404
    assert server.client.get("/page/../predict.py").status_code == 404


@pytest.mark.parametrize("address", VIEWS)
def test_a_view_keeps_nobody_out_fits_a_telephone_and_asks_no_other_host(
    page: Page, server: Server, address: str
) -> None:
    asked: set[str] = set()
    page.on("request", lambda request: asked.add(request.url))
    look_at(page, server, address)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found = Axe().run(page).response["violations"]
        wrong = [violation for violation in found if violation["impact"] in ("serious", "critical")]
        assert [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in wrong] == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {f"127.0.0.1:{server.port}"}


def test_the_keyboard_is_enough(page: Page, server: Server) -> None:
    visit(page, server)
    settled(page)
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.textContent"
        )
        reached.append((name or "")[:40])
        if "Draw here" in reached[-1]:
            break
    assert "Skip to the content" in reached[0]
    assert "Draw here" in reached[-1]
    page.keyboard.press("Backspace")
    # A one: the pen goes up from the middle, is put down, and comes down again.
    for _ in range(8):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    for _ in range(17):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    settled(page)
    expect(page.locator("tr.best th")).to_have_text("1")
    page.locator("nav a", has_text="Theatre").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".site").first).to_be_visible()
    page.get_by_role("button", name="Step").focus()
    page.keyboard.press("Enter")
    expect(page.locator("dd[data-name=count]")).to_have_text("2")


def test_touch_draws(browser: Browser, server: Server) -> None:
    window = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = window.new_page()
    visit(page, server)
    settled(page)
    page.get_by_role("button", name="Clear").tap()
    box = page.locator(".pad canvas").bounding_box()
    assert box is not None
    session = window.new_cdp_session(page)
    points = [(box["x"] + box["width"] / 2, box["y"] + box["height"] * (0.2 + 0.05 * n)) for n in range(13)]
    for kind, (x, y) in zip(["touchStart", *["touchMove"] * 12], points, strict=True):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settled(page)
    expect(page.locator("tr.best th")).to_have_text("1")
    window.close()


def test_the_model_page_says_what_is_known_of_it(page: Page, server: Server) -> None:
    visit(page, server, "#/model/mnist-cnn")
    known = server.client.get("/models/mnist-cnn").json()
    expect(page.locator("tbody th[scope=row]").first).to_have_text(known["sites"][0]["path"])
    expect(page.locator(".checks li")).to_have_count(len(known["program"]["checks"]))
    expect(page.get_by_text("test error")).to_be_visible()


def test_the_live_charts_follow_the_metrics(page: Page, server: Server) -> None:
    visit(page, server)
    settled(page)
    page.locator("details.live summary").click()
    page.get_by_role("button", name="Another seed").click()
    expect(page.get_by_text("a second").last).to_be_visible()
