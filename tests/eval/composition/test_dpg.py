"""DPG-Bench: its file, its rules beside an independent implementation, and the command on drawn shapes."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.config.errors import UserError
from distill.eval.__main__ import main
from distill.eval.composition.dpg.benchmark import counted
from distill.eval.composition.dpg.questions import Question, read_questions
from tests.helpers import stand_in_trackers
from tests.helpers.drawn_shapes import draw
from tests.helpers.preference_runs import save_models
from tests.helpers.tiny_answerers import ColorAnswerer, blip

HEAD = [
    *("item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed"),
    *("tuple", "question_natural_language"),
]
ROWS = [
    ("cars1", "A red bus, beside green.", 1, "0", "entity - whole (bus, red)", "Is there a red bus?"),
    ("cars1", "A red bus, beside green.", 2, "1", "attribute - color (green)", "Is anything green?"),
    ("cars1", "A red bus, beside green.", 3, "1,2", "relation - spatial (a, b)", "Is blue near?"),
    ("art7", "Blue on its own.", 1, "0", "entity - whole (blue)", "Is there blue?"),
]


def write(folder: Path, rows: Sequence[tuple[Any, ...]] = ROWS, head: Sequence[str] = HEAD) -> Path:
    """Write the file of the benchmark with these rows."""
    path = folder / "dpg_bench.csv"
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, head, extrasaction="ignore")
        writer.writeheader()
        for item, text, number, parents, proposition, question in rows:
            cells = {"item_id": item, "text": text, "proposition_id": number, "dependency": parents}
            kinds = {"category_broad": proposition.split(" ")[0], "tuple": proposition}
            writer.writerow({**cells, **kinds, "keywords": "", "question_natural_language": question})
    return path


def test_questions_are_read(tmp_path: Path) -> None:
    prompts, items = read_questions(str(write(tmp_path)))
    assert prompts.texts == ["A red bus, beside green.", "Blue on its own."]
    assert (prompts.name, prompts.departures) == ("dpg", ("2 prompts, not 1065",))
    assert items["art7"] == [Question(1, "Is there blue?", (), "entity")]
    assert items["cars1"][2] == Question(3, "Is blue near?", (1, 2), "relation")
    without = [name for name in HEAD if name != "tuple"]
    assert read_questions(str(write(tmp_path, head=without)))[1] == items


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("a", "t", "one", "0", "entity", "q"),
            r"row 2 has 'one' where the number of a question is expected",
        ),
        (("a", "t", 1, "x", "entity", "q"), "row 2 has 'x' where the number of a question"),
        (("a", "t", 1, "2", "entity", "q"), "item 'a': question 1 depends on 2, which it has not"),
        (("a", "t", 1, "0", "entity", " "), "row 2 has ' ' for a question; expected text"),
        (("art7", "t", 1, "0", "entity", "q"), "item 'art7' has two questions of one number"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, row: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_questions(str(write(tmp_path, [row, *ROWS])))


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    head = [name for name in HEAD if name != "question_natural_language"]
    with pytest.raises(UserError, match="has no column question_natural_language; expected DPG-Bench's"):
        read_questions(str(write(tmp_path, head=head)))


def test_a_question_counts_if_all_its_ancestors_are_answered_yes() -> None:
    draw_from = np.random.default_rng(0)
    for _ in range(300):
        count = int(draw_from.integers(1, 9))
        parents = [[p for p in range(1, n) if draw_from.random() < 0.3] for n in range(1, count + 1)]
        answers = ["yes" if draw_from.random() < 0.7 else "no" for _ in range(count)]
        questions = [{"number": n, "parents": parents[n - 1]} for n in range(1, count + 1)]

        def holds(number: int, parents: Any = parents, answers: Any = answers) -> bool:
            return answers[number - 1] == "yes" and all(holds(one) for one in parents[number - 1])

        assert counted(answers, questions) == [holds(number) for number in range(1, count + 1)]


def test_a_parent_further_down_counts_by_its_answer() -> None:
    questions = [{"number": 1, "parents": [2]}, {"number": 2, "parents": [3]}, {"number": 3, "parents": []}]
    assert counted(["yes", "yes", "no"], questions) == [True, False, False]
    assert counted(["yes", "no", "yes"], questions) == [False, False, True]


RED, GREEN, BLUE = (("bus", name, left, 10) for name, left in (("red", 5), ("green", 40), ("blue", 65)))


def write_images(folder: Path) -> Path:
    """Write a grid of four images of each item, as the benchmark's images come."""
    folder.mkdir()
    grids = {
        "cars1": [draw(RED, GREEN, BLUE), draw(RED, GREEN), draw(GREEN, BLUE), draw(RED)],
        "art7": [draw(BLUE), draw(BLUE), draw(RED), draw(BLUE)],
    }
    for item, images in grids.items():
        grid = Image.new("RGB", (192, 192))
        for place, image in enumerate(images):
            grid.paste(image, (96 * (place % 2), 96 * (place // 2)))
        grid.save(folder / f"{item}.png")
    return folder


def command(images: Path, folder: Path) -> list[str]:
    """Return the arguments of the benchmark on these images; the file and the store are in the folder."""
    places = ("--prompts", str(write(folder)), "--store", f"{folder}/store")
    return ["dpg", "--images", str(images), *places, "--device", "cpu"]


@pytest.fixture
def answerer(monkeypatch: pytest.MonkeyPatch) -> ColorAnswerer:
    """Use the stand-in in place of the network."""
    colors = ColorAnswerer()
    module = "distill.eval.composition.dpg.benchmark"
    monkeypatch.setattr(f"{module}.check_answerer", lambda *_: None)
    monkeypatch.setattr(f"{module}.open_answerer", lambda *_: colors)
    return colors


def test_grids_of_four_images(
    tmp_path: Path, answerer: ColorAnswerer, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images")
    arguments = command(images, tmp_path)
    main([*arguments, "--out", f"{tmp_path}/dpg.json"])
    results = json.loads((tmp_path / "dpg.json").read_text())
    scores = [one["score"] for one in results["images"]]
    # The third image shows green and blue but no red bus, on which both depend.
    assert scores[::2] == pytest.approx([1, 2 / 3, 0, 1 / 3])
    assert scores[1::2] == [1, 1, 0, 1]
    assert results["images"][4]["reason"] == "Is there a red bus?"
    measures = results["measures"]
    assert measures["score"]["value"] == pytest.approx((0.5 + 0.75) / 2)
    # Kinds have shares of yes: a red bus in 3 of 4 images, blue in 3 of 4.
    assert measures["entity"]["value"] == pytest.approx(6 / 8)
    assert measures["attribute"]["value"] == pytest.approx(3 / 4)
    assert measures["relation"]["value"] == pytest.approx(2 / 4)
    assert measures["relation"]["count"] == 1
    printed = capsys.readouterr().out
    assert "DPG-Bench 62.50 ± 12.50; not dpg (2 prompts, not 1065), 2 prompts, 4 images each" in printed
    assert "published numbers are by mPLUG-large of ModelScope, and cannot be compared" in printed
    assert answerer.calls == 8
    main([*arguments, "--out", f"{tmp_path}/again.json"])
    assert answerer.calls == 8


def test_trackers_get_the_measures_and_the_sheet(
    tmp_path: Path, answerer: ColorAnswerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = stand_in_trackers.install(monkeypatch)
    arguments = command(write_images(tmp_path / "images"), tmp_path)
    places = f"--out {tmp_path}/dpg.json --log-dir {tmp_path}/logs"
    main([*arguments, *places.split(), "--log-to", "wandb"])
    results = json.loads((tmp_path / "dpg.json").read_text())
    assert runs[0].numbers == {0: {f"dpg/{key}": one["value"] for key, one in results["measures"].items()}}
    assert list(runs[0].images) == ["dpg/sheet"]
    assert runs[0].opened["name"] == "dpg-images"


def test_a_page_shows_the_images_of_grids(
    tmp_path: Path, answerer: ColorAnswerer, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images")
    arguments = command(images, tmp_path)
    main([*arguments, "--out", f"{tmp_path}/dpg.json"])
    main(["report", f"{tmp_path}/dpg.json", "--out", f"{tmp_path}/page.html"])
    assert "note: " not in capsys.readouterr().err  # the images are those that were examined
    shown = re.findall('src="data:image/png;base64,(.*?)"', (tmp_path / "page.html").read_text())
    copies = [Image.open(io.BytesIO(base64.b64decode(one))) for one in shown]
    expected = [draw(RED, GREEN, BLUE), draw(BLUE), draw(RED, GREEN), draw(BLUE), draw(GREEN, BLUE)]
    assert [copy.tobytes() for copy in copies[:5]] == [image.tobytes() for image in expected]
    assert len(copies) == 8


def test_grids_that_are_absent_or_odd_are_refused(tmp_path: Path, answerer: ColorAnswerer) -> None:
    images = write_images(tmp_path / "images")
    arguments = command(images, tmp_path)
    Image.new("RGB", (33, 32)).save(images / "cars1.png")
    with pytest.raises(UserError, match=r"cars1.png: has 33 x 32 pixels; expected a grid of four images"):
        main(arguments)
    (images / "cars1.png").rename(images / "other.png")
    with pytest.raises(UserError, match="holds no image of item 'cars1'; expected a grid of each item"):
        main(arguments)


def test_a_run_on_a_tiny_blip(tmp_path: Path) -> None:
    models = save_models(tmp_path)
    blip(tmp_path / "blip")
    arguments = f"--run {models}/run --prompts {write(tmp_path)} --vqa {tmp_path}/blip --per-prompt 2"
    main(f"dpg {arguments} --device cpu --store {tmp_path}/store".split())
    results = json.loads((models / "run" / "dpg.json").read_text())
    assert results["seeds"] == [0, 1, 2, 3]
    assert results["prompts"]["departures"] == ["2 prompts, not 1065", "2 images of a prompt, not 4"]
    assert 0 <= results["measures"]["score"]["value"] <= 1
    assert list(results["examiner"]) == ["answers"]


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    models = save_models(tmp_path)
    blip(tmp_path / "blip")
    networks = f"--pipeline {models}/pipe --steps 1 --vqa {tmp_path}/blip"
    arguments = f"dpg {networks} --prompts {write(tmp_path)} --per-prompt 3 --device cpu"
    main([*arguments.split(), "--store", f"{tmp_path}/one", "--out", f"{tmp_path}/one.json"])
    launcher = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node 2 -m -- eval"
    done = subprocess.run(
        f"{launcher} {arguments} --store {tmp_path}/two --out {tmp_path}/two.json".split(),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "."},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["subject"].pop("folder") != one["subject"].pop("folder")
    assert two.pop("sheet") != one.pop("sheet")
    assert two == one
    assert {file.name for file in (tmp_path / "two").glob("*/findings/*/*.jsonl")} == {"0.jsonl", "1.jsonl"}
