"""Figures of a run's report: their axes, and how a browser shows them, light, dark, narrow and enlarged."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from distill.publishing.report import charts
from distill.publishing.report.page import write_report
from distill.publishing.report.sections import render_speed
from distill.publishing.run_record import read_run
from tests.helpers.browser import needs_chromium, open_page
from tests.helpers.finished_run import EVALUATION, finished_run


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


def test_a_panel_has_its_unit_at_the_axis_and_in_the_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def keep(figure: Any, alt: str, text: str) -> str:
        drawn.append(figure.axes[0].get_ylabel())
        return text

    monkeypatch.setattr(charts, "card", keep)
    assert charts.curve("speed", [1, 2], [3.0, 20.0], unit="images/s") == "speed|last 20 images/s"
    assert drawn == ["images/s"]


def test_the_speed_is_that_between_two_logged_steps(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def keep(name: str, steps: list[int], values: list[float], unit: str) -> str:
        drawn.update(name=name, steps=steps, values=values, unit=unit)
        return name

    monkeypatch.setattr(charts, "curve", keep)
    run = read_run(report.parent)
    assert render_speed(run) == '<div class="row small">speed</div>'
    # 100 steps of 128 images in 50 seconds
    assert drawn == {
        "name": "speed",
        "steps": list(range(200, 1100, 100)),
        "values": [256.0] * 9,
        "unit": "images/s",
    }
    assert render_speed(dataclasses.replace(run, lines=run.lines[:1])) == ""


def test_a_wide_chart_has_a_narrow_one_for_narrow_screens() -> None:
    for chart in (
        charts.monitored("Fréchet distance|", [1, 2], [3.0, 2.0], 1.0, "teacher"),
        charts.time_bars({"fake": 30.0, "generator": 10.0}),
    ):
        sources = re.findall('(?:src|srcset)="data:image/svg[^,]*,([^"]*)"', chart)
        widths = [re.search('width="([0-9.]*)pt"', base64.b64decode(one).decode()) for one in sources]
        assert [width and float(width.group(1)) for width in widths] == [259.2, 547.2]  # 3.6 and 7.6 inches
        assert '<picture><source media="(max-width: 600px)"' in chart


def test_warnings_of_the_evaluation_are_at_the_top_and_with_the_results(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    assert "of the evaluation: see Results" not in write_report(run).read_text(encoding="utf-8")
    measured = {**EVALUATION, "warnings": ["student: 9 < 10"], "skipped": {"recall": "too few"}}
    (run / "eval.json").write_text(json.dumps(measured))
    page = write_report(run).read_text(encoding="utf-8")
    assert '<p class="note">1 warning of the evaluation: see Results.</p>' in page
    assert "<li>Warning: student: 9 &lt; 10</li><li>recall was not measured: too few</li>" in page


def test_the_report_says_which_label_is_where_in_the_grids(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    measured = {**EVALUATION, "grids": "labels 0 to 99 of 1000, one image of each"}
    (run / "eval.json").write_text(json.dumps(measured))
    page = write_report(run).read_text(encoding="utf-8")
    assert '<p class="note">Each grid has labels 0 to 99 of 1000, one image of each.</p>' in page


@needs_chromium
@pytest.mark.slow
def test_a_narrow_screen_shows_the_narrow_charts_without_scrolling(report: Path) -> None:
    for width, expected in ((1280, 7.6 * 96), (400, 3.6 * 96)):
        with open_page(report.as_uri(), width=width) as browser:
            browser.wait_for_function("[...document.images].every(image => image.complete)")
            drawn = browser.eval_on_selector(".wide .card img", "image => image.naturalWidth")
            assert drawn == pytest.approx(expected, abs=1)
            card = browser.eval_on_selector(".wide .card", "card => [card.scrollWidth, card.clientWidth]")
            assert card[0] == card[1]


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
