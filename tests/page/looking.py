"""What tests do on the page, and what they read there."""

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, expect

from tests.patience import patience
from tests.servers import Server

SEVEN = [(0.32, 0.24), (0.5, 0.25), (0.67, 0.22), (0.6, 0.42), (0.52, 0.6), (0.47, 0.8)]
"""A 7, in parts of the pad's side."""


def visit(page: Page, server: Server, address: str = "") -> None:
    """Open the page at an address of its own, `#/view/model?...`, and wait until it shows something."""
    page.goto(f"{server.url}/{address}")
    page.wait_for_selector("main > *:not(noscript)")


def draw(page: Page, points: list[tuple[float, float]]) -> None:
    """Draw a stroke with the mouse."""
    box = page.locator(".pad canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def settled(page: Page) -> None:
    """Wait until what is shown is the answer to what was given last."""
    expect(page.locator(".took").first).to_contain_text("passes in", timeout=patience(10) * 1000)
    page.wait_for_timeout(600)


def epistemic(page: Page) -> float:
    """The epistemic uncertainty that is shown."""
    return float(page.locator("output[data-name=epistemic]").inner_text())


def query_of(page: Page) -> dict[str, str]:
    """What the permalink says."""
    fragment = urlsplit(page.url).fragment
    return {name: values[0] for name, values in parse_qs(urlsplit(fragment).query).items()}


def asked_again(page: Page, server: Server, **query: Any) -> dict[str, Any]:
    """What the service answers to the request that the page says reproduces it, but for some of its query."""
    page.locator(".reproduce summary").click()
    shell = page.locator(".reproduce code").first.inner_text()
    address, body = shell.split("'")[1], shell.split("--json '")[1].rsplit("'", 1)[0]
    parts = urlsplit(address)
    asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
    response = server.client.post(parts.path, params=asked | query, json=json.loads(body))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
