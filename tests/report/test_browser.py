"""The page in headless Chromium: quiet, offline, never wider than the screen, usable by keyboard."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from luss_ray.report.data import ReportData
from luss_ray.report.page import render

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next((found for found in map(shutil.which, NAMES) if found), None)
    if path is None:
        pytest.skip(f"no browser on the PATH (looked for {', '.join(NAMES)})")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(
    run: ReportData, unlabelled: ReportData, begun: ReportData, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    for name, data in {"run": run, "unlabelled": unlabelled, "begun": begun}.items():
        (folder / f"{name}.html").write_text(render(data), encoding="utf-8")
    return {path.stem: path for path in folder.iterdir()}


def open_page(browser: Browser, path: Path, width: int, scheme: str) -> tuple[Page, list[str]]:
    """Return the open page and what it complained about or asked the network for."""
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    noise: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith(("data:", "file:")) else noise.append(request.url)
    )
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    return page, noise


@pytest.mark.parametrize("name", ["run", "unlabelled", "begun"])
@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_quiet_offline_and_no_wider_than_the_screen(
    browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    page, noise = open_page(browser, pages[name], width, scheme)
    assert noise == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.screenshot(full_page=True)
    images = page.evaluate(
        "[...document.images].map(image => [image.alt, image.complete && image.naturalWidth > 0 && image.width > 20])"
    )
    assert all(alt and drawn for alt, drawn in images)
    assert (len(images) > 40) == (name != "begun")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(background[4:].split(",")[0]) < 60) == (scheme == "dark")
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_segmentations_are_on_the_first_screen(browser: Browser, pages: dict[str, Path], width: int) -> None:
    page, _ = open_page(browser, pages["run"], width, "light")
    bottoms = page.evaluate(
        "[...document.querySelectorAll('.pair img')].map(image => image.getBoundingClientRect().bottom)"
    )
    assert sum(bottom <= 844 for bottom in bottoms) >= (12 if width == 1280 else 4)
    page.close()


def test_tab_order_starts_at_the_skip_link(browser: Browser, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 844})
    page.goto(pages["run"].as_uri())
    places = []
    for _ in range(10):
        page.keyboard.press("Tab")
        places.append(page.evaluate("document.activeElement.getAttribute('href') || document.activeElement.tagName"))
    links = ["#examples", "#scores", "#clusters", "#threshold", "#training", "#run"]
    assert places == ["#main", *links, *["SUMMARY"] * 3]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open")
    page.close()


def test_skip_link_appears_and_leads_to_the_results(browser: Browser, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(pages["run"].as_uri())
    assert page.evaluate("document.querySelector('.skip').getBoundingClientRect().bottom") < 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('.skip').getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.close()


def test_screen_readers_get_landmarks_and_names(browser: Browser, pages: dict[str, Path]) -> None:
    page, _ = open_page(browser, pages["run"], 1280, "light")
    for role, name in [
        ("navigation", "Sections"),
        ("region", "Scores"),
        ("region", "Clusters"),
        ("region", "Training"),
    ]:
        assert page.get_by_role(role, name=name, exact=True).count() == 1  # type: ignore[arg-type]
    assert page.get_by_role("main").count() == 1
    assert page.get_by_role("rowheader", name="Fine-tuned network").count() == 3
    assert page.get_by_role("img", name="Pretraining: loss").count() == 1
    page.close()
