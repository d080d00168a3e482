"""Pages in a real browser, as wide as a phone and a desk: nothing sticks out, is said or loaded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aeplus.commands.main import main
from browser import Page, browser, find_browser
from made_runs import made_comparison, made_experiment, made_metrics, made_records, made_run

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on the path, nor in $CHROMIUM")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert PROGRAM is not None
    with browser(PROGRAM, tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a report can hold, with names that no line can break."""
    folder = tmp_path_factory.mktemp("report")
    long = "a_name_that_is_longer_than_a_phone_is_wide_" * 3
    method = "alphaedit_plus:relax=none:prior=equal:smooth=false:prior_strength=100.0"
    made_run(folder / long, made_metrics(method, model=f"/{long}/model"), made_records(prompt=f"<script>{'x' * 200}"))
    made_run(
        folder / "other", made_metrics("memit", model=f"/{long}/model"), made_records(prompt=f"<script>{'x' * 200}")
    )
    runs = [folder / long, folder / "other", made_comparison(folder / "out"), made_experiment(folder / "table1")]
    assert main(["report", *map(str, runs), "--out", str(folder / "page.html")]) == 0
    return folder / "page.html"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [375, 390, 1280])
def test_the_page_fits(page: Page, report: Path, width: int, dark: bool) -> None:
    page.messages.clear()
    page.requests.clear()
    page.open(report, width, dark=dark)
    assert page.ask("innerWidth") == width
    assert page.ask("document.documentElement.scrollWidth") <= width
    outside = (
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && "
        "!e.closest('.scroll, .pane, details')).map(e => e.outerHTML.slice(0, 80))"
    )
    assert page.ask(outside) == []
    assert page.ask("document.querySelectorAll('table').length") >= 10
    assert page.ask("[...document.images].filter(i => !(i.complete && i.naturalWidth)).length") == 0
    narrow = "Math.min(...[...document.querySelectorAll('tbody th')].map(e => e.getBoundingClientRect().width))"
    assert page.ask(narrow) > 25
    background = page.ask("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(21, 24, 29)" if dark else "rgb(255, 255, 255)")
    assert page.messages == []
    assert {address.split(":")[0] for address in page.requests} <= {"file", "data"}
    assert [address for address in page.requests if address.startswith("file")] == [report.as_uri()]


def test_paper_shows_whole_tables(page: Page, report: Path) -> None:
    page.open(report, 720, dark=True, media="print")
    assert page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert (
        page.ask("[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length") == 0
    )
