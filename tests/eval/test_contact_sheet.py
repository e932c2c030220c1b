"""Contact sheets: the prompts that they show, the place of each image, and their use in a run's report."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.eval.preference.contact_sheet import (
    GAP,
    LINE,
    SIDE,
    Tile,
    choose,
    draw_sheet,
    save_sheets,
    shown,
)
from distill.eval.preference.found_images import find_images
from distill.eval.preference.result_types import FORMAT
from distill.eval.preference.results import measure
from distill.eval.preference.subject_spec import SubjectSpec
from distill.eval.prompt_sets import PromptSet
from distill.eval.prompt_sets.formats import Prompt
from distill.publishing.report.page import write_report
from tests.helpers.finished_run import finished_run

RED, GREEN, BLUE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def plain(colour: tuple[int, int, int], height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width).contiguous()


def test_the_best_the_median_and_the_worst() -> None:
    means = torch.tensor([3.0, 9.0, 1.0, 7.0, 5.0, 2.0, 8.0, 4.0, 6.0], dtype=torch.float64)
    assert choose(means, 2) == {"Best": [1, 6], "Median": [8, 4], "Worst": [5, 2]}
    assert choose(means, 4) == {"Best": [1, 6, 3], "Median": [8, 4, 7], "Worst": [0, 5, 2]}  # no prompt twice
    assert choose(means[:3], 4) == {"Best": [1], "Median": [0], "Worst": [2]}
    assert choose(means[:2], 4) == {"Best": [1], "Worst": [0]}
    assert choose(means[:1], 4) == {"Best": [0]}
    assert choose(torch.ones(5, dtype=torch.float64), 1) == {"Best": [0], "Median": [2], "Worst": [4]}


def test_images_as_they_are_shown() -> None:
    small, large, wide = (shown(plain(RED, *size)) for size in ((8, 8), (512, 512), (100, 400)))
    assert (small.size, large.size, wide.size) == ((168, 168), (SIDE, SIDE), (SIDE, 42))
    assert small.getpixel((167, 0)) == RED
    assert shown(torch.full((1, 5, 5), 200, dtype=torch.uint8)).getpixel((3, 3)) == (200,) * 3


def test_a_sheet_holds_every_image_in_its_place() -> None:
    def tile(*colours: Any) -> Tile:
        return Tile([plain(colour) for colour in colours], "1.234", "a " + "very " * 60 + "long prompt")

    sheet = draw_sheet("a title", {"Best": [tile(RED, GREEN), tile(GREEN, BLUE)], "Worst": [tile(BLUE, RED)]})
    pixels = np.asarray(sheet)
    pair = 2 * SIDE + 4
    top = GAP + LINE + GAP + LINE + 6
    row = SIDE + 4 * LINE + 6 + 2 * LINE + GAP
    assert sheet.width == 3 * (pair + GAP) + GAP
    second = GAP + SIDE + 4
    next_tile = GAP + pair + GAP
    corners = {
        (GAP, top): RED,
        (second, top): GREEN,
        (next_tile, top): GREEN,
        (next_tile + SIDE + 4, top): BLUE,
        (GAP, top + row): BLUE,
        (second, top + row): RED,
    }
    for (x, y), colour in corners.items():
        assert (pixels[y : y + SIDE, x : x + SIDE] == colour).all()
    assert (pixels[:, -GAP:] == 255).all()  # no caption leaves its tile
    assert (pixels[:, GAP + pair : GAP + pair + GAP][top:] == 255).all()
    assert (pixels[top + SIDE : top + SIDE + 24, GAP : GAP + 60] < 128).any()  # the score


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return finished_run(tmp_path)


def test_sheets_and_the_report_of_a_run(run_dir: Path, tmp_path: Path) -> None:
    colours = (RED, GREEN, BLUE, (9, 9, 9))
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        for number, colour in enumerate(colours):
            shown(plain(colour)).save(tmp_path / side / f"{number}.png")
    prompts = PromptSet.whole(
        "mine",
        "mine.txt",
        [Prompt(f"<b>{number}</b>", "even" if number % 2 == 0 else "odd") for number in range(4)],
    )
    sides = [
        find_images(SubjectSpec("images", str(tmp_path / side), "--images"), prompts, 1, tmp_path)
        for side in ("a", "b")
    ]
    score = {
        "title": "PickScore",
        "also": {"PickScore / 100": 0.01},
        "convention": "PickScore v1.",
        **measure([[22.0, 20, 21, 19], [21.0, 21, 21, 20]], prompts),
    }
    results = {
        "format": FORMAT,
        "prompts": {**prompts.describe()},
        "per_prompt": 1,
        "independent": 4,
        "seeds": [None] * 4,
        "subject": {"of": "a"},
        "against": {"of": "the <b> other"},
        "scores": {"pickscore": score},
        "notes": [],
        "commit": None,
    }
    save_sheets(run_dir / "preference.json", results, sides)
    assert score["sheet"] == "preference-pickscore.png"
    (run_dir / "preference.json").write_text(json.dumps(results))
    page = write_report(run_dir).read_text(encoding="utf-8")
    titles = re.findall(r"<h2>([^<]*)</h2>", page)
    assert titles[titles.index("Results") + 1] == "Preference scores"
    section = page[page.index("<h2>Preference scores") :].split("</section>")[0]
    assert base64.b64encode((run_dir / "preference-pickscore.png").read_bytes()).decode() in section
    assert re.findall(r'<figure id="[^"]*" class="(.*?)">', section) == ["wide"]
    stated = "Means over 4 prompts of mine, an image each, against the &lt;b&gt; other on the same prompts"
    assert f"{stated}; ± is the standard error, of 4 independent draws." in section
    rows = {
        name: re.findall("<td>([^<]*)</td>", cells)
        for name, cells in re.findall(r'<th scope="row">([^<]*)</th>(.*?)</tr>', section)
    }
    # a win and a tie of four
    assert rows["PickScore"] == ["20.50 ± 0.65", "20.75 ± 0.25", "37.5% [9.2%, 78.1%]"]
    assert rows["PickScore / 100"] == ["0.2050 ± 0.0065", "0.2075 ± 0.0025", ""]
    assert rows["even (2)"] == ["75.0% [19.8%, 97.3%]"]
    assert not re.search(r"https?://|<script|<link", page)


def test_a_run_without_preference_scores_has_no_such_section(run_dir: Path) -> None:
    assert "Preference scores" not in write_report(run_dir).read_text(encoding="utf-8")
