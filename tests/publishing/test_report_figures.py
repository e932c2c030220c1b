"""Figures of a run's report: their axes, and how a browser shows them, light, dark, narrow and enlarged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distill.publishing.report import charts
from distill.publishing.report.page import write_report
from tests.helpers.browser import needs_chromium, open_page
from tests.helpers.finished_run import finished_run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(finished_run(tmp_path_factory.mktemp("report")))


def test_a_click_leads_to_the_figure_around_it_or_back(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    figures = re.findall('<figure id="([^"]*)"', page)
    links = re.findall('href="([^"]*)"', page)
    assert len(set(figures)) == len(figures) == page.count("<figure")
    assert links == [link for figure in figures for link in (f"#{figure}", "#closed")]


def test_a_caption_says_which_axis_is_logarithmic() -> None:
    steps = list(range(1, 9))
    assert "last 128, logarithmic axis</figcaption>" in charts.curve(
        "fake", steps, [2.0**step for step in range(8)]
    )
    assert "logarithmic" not in charts.curve("fake", steps, [1.0 + step for step in range(8)])


def test_the_axes_of_a_distance_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(charts, "card", lambda figure, *_: drawn.append(figure.axes[0]) or "")
    charts.monitored("Fréchet distance (fd-pixel)|small-sample estimate", [1, 2], [3.0, 2.0], None, "")
    charts.curve("fake", [1, 2], [3.0, 2.0])
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in drawn] == [
        ("step", "Fréchet distance (fd-pixel)"),
        ("step", ""),
    ]


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_figure_fills_the_window_until_the_next_click(report: Path, width: int, is_dark: bool) -> None:
    with open_page(report.as_uri(), width=width, is_dark=is_dark) as browser:
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        card = browser.eval_on_selector(".card", "card => getComputedStyle(card).backgroundColor")
        assert card == ("rgb(30, 36, 43)" if is_dark else "rgb(255, 255, 255)")
        before = browser.eval_on_selector(".row.small .card img", "image => image.clientWidth")
        browser.click(".row.small .open")
        figure = browser.eval_on_selector(
            "figure:target", "figure => [figure.clientWidth, figure.clientHeight, innerHeight]"
        )
        assert figure == [width, figure[2], figure[2]]
        after = browser.eval_on_selector("figure:target .card img", "image => image.clientWidth")
        assert after >= before
        browser.click("figure:target .close")
        assert browser.locator("figure:target").count() == 0
