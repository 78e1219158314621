"""The view of predictions, in a real browser against the real server."""

import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from mcdropout.access.keys import hash_of
from tests.conftest import MODELS
from tests.page.looking import SEVEN, asked_again, draw, epistemic, query_of, settled, visit
from tests.patience import patience
from tests.servers import Server, serving

SECRET = "a-long-enough-secret-of-a-desk"


def test_a_seven_that_is_drawn_is_seen_as_one(page: Page, server: Server) -> None:
    visit(page, server)
    page.get_by_role("button", name="Clear").click()
    draw(page, SEVEN)
    expect(page.locator(".verdict")).to_have_text("Sure: 7")
    expect(page.locator("tr.best th")).to_have_text("7")


def test_turning_a_digit_raises_its_epistemic_uncertainty(page: Page, server: Server) -> None:
    visit(page, server)
    page.get_by_role("button", name="Clear").click()
    draw(page, SEVEN)
    settled(page)
    upright = epistemic(page)
    page.get_by_label("Rotate").fill("90")
    settled(page)
    assert epistemic(page) > 10 * upright
    expect(page.locator(".verdict")).not_to_contain_text("Sure")
    # Beside it stands how sure the network is of something when it is asked as usual.
    expect(page.locator(".compared")).to_have_text(re.compile(r"Without dropout the same network says \d, \d+\.\d %"))


def test_what_is_shown_is_what_the_service_answers_to_the_command_beside_it(page: Page, server: Server) -> None:
    visit(page, server, "#/predict/mnist-mlp?seed=5&passes=40")
    page.get_by_role("button", name="Draw 4", exact=True).click()
    settled(page)
    answer = asked_again(page, server)
    assert (answer["seed"], answer["mc"]) == (5, 40)
    (row,) = answer["predictions"]
    shown = page.locator("tbody tr td:nth-child(3)").all_inner_texts()
    assert [float(text.strip(" <>%")) for text in shown] == pytest.approx(np.multiply(row["mean"], 100), abs=0.11)
    assert epistemic(page) == pytest.approx(row["mutual_information"], rel=0.01, abs=1e-4)


def test_a_permalink_shows_the_same_again(page: Page, window: BrowserContext, server: Server) -> None:
    visit(page, server, "#/predict/mnist-cnn?seed=3&passes=60")
    page.get_by_role("button", name="Draw scribble").click()
    page.get_by_label("Rotate").fill("25")
    settled(page)
    first = page.locator("tbody").inner_text()
    assert query_of(page)["rotate"] == "25"
    other = window.new_page()
    other.goto(page.url)
    settled(other)
    again = other.locator("tbody").inner_text()
    # Four bits a pixel are kept of the picture, so that the address stays short.
    numbers = [[float(found) for found in re.findall(r"(\d+\.\d) %", text)] for text in (first, again)]
    assert len(page.url) < 2000
    assert np.abs(np.subtract(*(one[:10] for one in numbers))).max() < 8


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("mnist-vit", r"\d"),
        ("mnist-dropconnect", r"\d"),
        ("tumour-mlp", r"benign|malignant"),
        ("concrete-mlp", r"\d+(\.\d+)?, between \d+(\.\d+)? and \d+"),
        ("sentiment-cnn", r"between"),
        ("digits-multilabel", r"It finds 0, 9"),
        ("digits-segmentation", r"48 . 48 places"),
    ],
)
def test_each_task_has_a_view_of_its_answers(page: Page, server: Server, model: str, said: str) -> None:
    visit(page, server, f"#/predict/{model}")
    settled(page)
    expect(page.locator(".verdict")).to_have_text(re.compile(said))
    expect(page.locator(".problem:not(:empty)")).to_have_count(0)


def test_a_form_of_a_table_changes_the_answer_and_says_what_it_lacks(page: Page, server: Server) -> None:
    visit(page, server, "#/predict/concrete-mlp")
    settled(page)
    before = page.locator(".verdict").inner_text()
    page.get_by_label("age").fill("300")
    settled(page)
    assert page.locator(".verdict").inner_text() != before
    page.get_by_label("age").fill("")
    expect(page.locator(".problem").first).to_have_text("This cannot be sent: age is empty; a number is accepted.")


def test_a_text_is_answered(page: Page, server: Server) -> None:
    visit(page, server, "#/predict/sentiment-cnn")
    settled(page)
    field = page.get_by_label("A text")
    field.fill("a delight from beginning to end")
    settled(page)
    good = page.locator(".verdict").inner_text()
    field.fill("a dreadful, tedious mess")
    settled(page)
    bad = page.locator(".verdict").inner_text()
    assert float(good.split(",")[0]) > float(bad.split(",")[0])


def test_another_p_is_asked_for_and_its_own_again(page: Page, server: Server) -> None:
    visit(page, server, "#/predict/mnist-cnn?seed=1&passes=50")
    page.get_by_role("button", name="Draw 9", exact=True).click()
    settled(page)
    own = epistemic(page)
    page.get_by_label("p, for all sites").fill("0.9")
    settled(page)
    assert epistemic(page) > 2 * own
    assert asked_again(page, server)["p"] == 0.9
    page.get_by_role("button", name="Its own").click()
    settled(page)
    assert epistemic(page) == own


def test_the_page_says_that_the_server_is_gone_and_goes_on_when_it_is_back(
    window: BrowserContext, tmp_path: Path
) -> None:
    page = window.new_page()
    with serving(MODELS, tmp_path, "--default", "mnist-mlp") as running:
        running.wait_until_ready()
        visit(page, running, "#/predict/mnist-mlp")
        settled(page)
        port = running.port
    page.get_by_role("button", name="Draw 3", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="gone")).to_be_visible()
    with serving(MODELS, tmp_path, "--default", "mnist-mlp", "--port", str(port)) as again:
        again.port, again.url = port, f"http://127.0.0.1:{port}"
        again.client.base_url = again.url
        again.wait_until_ready()
        expect(page.locator("#banner")).to_be_empty(timeout=patience(20) * 1000)
        expect(page.locator("tr.best th")).to_have_text("3")


def test_a_model_that_is_asked_for_too_much_says_why(page: Page, server: Server) -> None:
    visit(page, server, "#/predict/mnist-cnn")
    settled(page)
    page.route(
        "**/predict**",
        lambda route: route.fulfill(status=503, headers={"retry-after": "2"}, json={"detail": "300 rows wait already"}),
    )
    page.get_by_role("button", name="Draw 2", exact=True).click()
    expect(page.locator(".problem").first).to_have_text(
        "The server is slow or has too much to do: 300 rows wait already. It is asked again in 2 s."
    )
    page.unroute("**/predict**")
    expect(page.locator(".problem").first).to_be_empty(timeout=patience(15) * 1000)
    expect(page.locator("tr.best th")).to_have_text("2")


def test_a_key_is_asked_for_where_the_server_has_some(window: BrowserContext, tmp_path: Path) -> None:
    page = window.new_page()
    keys = json.dumps([{"name": "desk", "sha256": hash_of(SECRET).hex(), "roles": ["predict"]}])
    with serving(MODELS, tmp_path, "--default", "mnist-mlp", MCDROPOUT_KEYS=keys) as guarded:
        guarded.client.headers["authorization"] = f"Bearer {SECRET}"
        guarded.wait_until_ready()
        assert httpx.get(f"{guarded.url}/models").status_code == 401
        assert httpx.get(guarded.url).status_code == 200  # the page itself is for whoever has none yet
        visit(page, guarded, "#/predict/mnist-mlp")
        expect(page.get_by_role("alert").filter(has_text="no key is shown")).to_be_visible()
        page.get_by_label("Key").fill(SECRET)
        page.get_by_role("button", name="Use it").click()
        settled(page)
        expect(page.locator(".verdict")).not_to_be_empty()
