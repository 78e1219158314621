"""The theatre and the tab of training, in a real browser against the real server."""

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.page.looking import asked_again, visit
from tests.servers import Server


def figure(page: Page, name: str) -> float:
    """A number of the theatre."""
    return float(page.locator(f"dd[data-name={name}]").inner_text())


def ready(page: Page) -> None:
    expect(page.locator("dd[data-name=count]")).not_to_have_text("0")
    expect(page.locator(".site").first).to_be_visible()


@pytest.mark.parametrize("model", ["mnist-cnn", "mnist-mlp", "mnist-dropconnect", "tumour-mlp", "concrete-mlp"])
def test_the_theatres_numbers_are_the_services_for_that_seed(page: Page, server: Server, model: str) -> None:
    visit(page, server, f"#/theatre/{model}?seed=11&passes=30")
    ready(page)
    for _ in range(6):
        page.get_by_role("button", name="Step").click()
    expect(page.locator("dd[data-name=count]")).to_have_text("7")
    followed = int(page.get_by_label("Of ").first.input_value())
    (row,) = asked_again(page, server, mc=7, samples=False)["predictions"]
    variance = row.get("epistemic_variance", row.get("variance"))
    mean, variance = (np.ravel(value)[followed] for value in (row["mean"], variance))
    assert figure(page, "mean") == pytest.approx(mean, rel=1e-5)
    assert figure(page, "variance") == pytest.approx(variance, rel=1e-5, abs=1e-12)
    assert figure(page, "std-error") == pytest.approx(np.sqrt(variance / 7), rel=1e-5, abs=1e-9)


def test_the_units_that_are_shown_are_those_that_the_service_kept(page: Page, server: Server) -> None:
    visit(page, server, "#/theatre/mnist-cnn?seed=4&passes=10")
    ready(page)
    page.get_by_role("button", name="Step").click()
    expect(page.locator("dd[data-name=count]")).to_have_text("2")
    query = {"seed": 4, "first": 1, "passes": 1, "units": 256}
    (site,) = server.client.post("/models/mnist-cnn/masks", params=query).json()["sites"]
    kept = f"{site['kept'][0]} of {site['units']} units kept"
    expect(page.locator(".site p")).to_contain_text(kept)
    # The canvas shows a filled cell for each unit that is kept.
    filled = page.locator(".site canvas").evaluate(
        """(canvas, [count, cell]) => {
            const wide = canvas.width / cell;
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return Array.from({ length: count }, (_, unit) => {
                const [x, y] = [(unit % wide) * cell + cell / 2, Math.floor(unit / wide) * cell + cell / 2];
                return data[4 * (y * canvas.width + x) + 3] > 0 ? 1 : 0;
            });
        }""",
        [len(site["shown"]), 12],
    )
    assert filled == site["masks"][0]


def test_it_plays_and_pauses_and_goes_back(page: Page, server: Server) -> None:
    visit(page, server, "#/theatre/mnist-mlp?seed=2&passes=20")
    ready(page)
    page.get_by_role("button", name="Start again").click()
    expect(page.locator("dd[data-name=count]")).to_have_text("0")
    page.get_by_label("Speed").fill("4")
    page.get_by_role("button", name="Play").click()
    expect(page.locator("dd[data-name=count]")).to_have_text("20")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.get_by_role("button", name="Back").click()
    expect(page.locator("dd[data-name=count]")).to_have_text("19")


def test_a_network_that_takes_texts_has_masks_of_their_lengths(page: Page, server: Server) -> None:
    visit(page, server, "#/theatre/sentiment-cnn?seed=2&passes=10")
    ready(page)
    page.get_by_label("A text").fill("one two three four five six seven")
    expect(page.locator(".site").first).to_be_visible()
    expect(page.locator(".problem:not(:empty)")).to_have_count(0)


def test_the_tab_of_training_counts_out_all_thinned_networks(page: Page, server: Server) -> None:
    visit(page, server, "#/training/mnist-cnn")
    exact = page.locator("dt", has_text="All 64 networks").locator("+ dd").inner_text()
    for _ in range(20):
        page.get_by_role("button", name="50 more").click()
    sampled = page.locator("dt", has_text="Mean of 1025 draws").locator("+ dd").inner_text()
    assert float(sampled.strip(" %")) == pytest.approx(float(exact.strip(" %")), abs=3.0)
    page.get_by_role("button", name="Draw 100 times").click()
    expect(page.get_by_text("101 draws")).to_be_visible()
    page.get_by_role("button", name="Train").click()
    expect(page.get_by_text("Step 400 of 400")).to_be_visible()
