"""`python -m eval geneval` from its arguments to its files, on drawn shapes and on tiny networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from distill.config.errors import UserError
from distill.eval.__main__ import main
from distill.eval.preference.statistics import wilson
from tests.helpers import tiny_reward_networks
from tests.helpers.drawn_shapes import PaletteColors, ShapeDetector, draw
from tests.helpers.geneval_prompts import entry, write
from tests.helpers.preference_runs import save_models
from tests.helpers.tiny_detectors import mask2former

BUS = entry("single_object", "a bus", {"class": "bus", "count": 1})
CLOCK = entry("single_object", "a clock", {"class": "clock", "count": 1})
CLOCKS = {
    **entry("counting", "two clocks", {"class": "clock", "count": 2}),
    "exclude": [{"class": "clock", "count": 3}],
}
RED = entry("colors", "a red bus", {"class": "bus", "count": 1, "color": "red"})
LEFT = entry(
    "position",
    "a bus left of a bottle",
    {"class": "bottle", "count": 1},
    {"class": "bus", "count": 1, "position": ["left of", 0]},
)
ENTRIES = [BUS, CLOCK, CLOCKS, RED, LEFT]
DRAWN = {
    0: [draw(("bus", "red", 10, 10)), draw(("clock", "red", 10, 10))],
    1: [draw(("clock", "blue", 10, 10)), draw(("clock", "green", 40, 40))],
    2: [
        draw(("clock", "blue", 5, 5), ("clock", "blue", 50, 5)),
        draw(("clock", "blue", 5, 5), ("clock", "blue", 50, 5), ("clock", "red", 5, 60)),
    ],
    3: [draw(("bus", "red", 10, 10)), draw(("bus", "blue", 10, 10))],
    4: [
        draw(("bus", "red", 5, 40), ("bottle", "blue", 70, 30)),
        draw(("bottle", "red", 5, 40), ("bus", "blue", 60, 40)),
    ],
}
"""Two images of each prompt, of which the first is right."""
REASONS = [
    *["", "", "", "", ""],
    "expected bus>=1, found 0",
    "",
    "expected clock<3, found 3",
    "expected red bus>=1, found 1 blue",
    "expected bus left of target, found right of target",
]


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> ShapeDetector:
    """Use the stand-ins in place of the networks."""
    shapes = ShapeDetector()
    module = "distill.eval.composition.geneval.benchmark"
    monkeypatch.setattr(f"{module}.check_networks", lambda *_: None)
    monkeypatch.setattr(f"{module}.open_detector", lambda source, device: shapes)
    monkeypatch.setattr(f"{module}.open_colors", lambda source, device: PaletteColors())
    return shapes


def write_layout(folder: Path, drawn: dict[int, list[Image.Image]] = DRAWN) -> Path:
    """Write images as GenEval's scripts do, with the prompts beside them."""
    for number, images in drawn.items():
        samples = folder / f"{number:05d}" / "samples"
        samples.mkdir(parents=True)
        for turn, image in enumerate(images):
            image.save(samples / f"{turn:04d}.png")
        images[0].save(samples.parent / "grid.png")  # of all images, which the scripts make by default
        (samples.parent / "metadata.jsonl").write_text(json.dumps(ENTRIES[number]))
    return folder


def geneval(folder: Path, arguments: str, out: str = "result") -> dict[str, Any]:
    """Run the command on the prompts of this test, and return its results."""
    prompts = write(folder / "prompts.jsonl", ENTRIES)
    settings = f"--prompts {prompts} --device cpu --store {folder}/store --out {folder}/{out}.json"
    main(["geneval", *arguments.split(), *settings.split()])
    return json.loads((folder / f"{out}.json").read_text())


def test_images_in_the_published_layout(
    tmp_path: Path, detector: ShapeDetector, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_layout(tmp_path / "images")
    results = geneval(tmp_path, f"--images {images} --per-prompt 2")
    assert [one["reason"] for one in results["images"]] == REASONS
    files = [one["file"] for one in results["images"]]
    assert files[:6:5] == ["00000/samples/0000.png", "00000/samples/0001.png"]
    shares = {"single_object": 0.75, "counting": 0.5, "colors": 0.5, "position": 0.5}
    measures = results["measures"]
    assert {name: measures[name]["value"] for name in shares} == shares
    assert measures["overall"]["value"] == pytest.approx(sum(shares.values()) / 4)
    assert measures["images"]["value"] == pytest.approx(0.6)
    assert measures["prompts"]["value"] == 1.0
    assert measures["single_object"]["interval"] == pytest.approx(list(wilson(0.75, 2)))
    assert measures["single_object"]["count"] == 2
    assert results["prompts"]["departures"] == ["5 prompts, not 553", "2 images of a prompt, not 4"]
    assert results["subject"]["paired_by"] == "index"
    printed = capsys.readouterr().out
    label = "not geneval (5 prompts, not 553; 2 images of a prompt, not 4), 5 prompts, 2 images each"
    assert f"GenEval, {label}, seeds not known: {images}\n" in printed
    low, high = wilson(0.75, 2)
    (row,) = [line for line in printed.splitlines() if line.startswith("single_object")]
    assert row.split() == f"single_object 0.7500 ± 0.2500 {low:.4f} to {high:.4f} 2".split()
    with Image.open(tmp_path / "result.png") as sheet:
        assert sheet.width > 3 * 168


def test_findings_are_kept_and_belong_to_image_and_requirement(
    tmp_path: Path, detector: ShapeDetector, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_layout(tmp_path / "images")
    first = geneval(tmp_path, f"--images {images} --per-prompt 2")
    assert detector.calls == 10
    assert geneval(tmp_path, f"--images {images} --per-prompt 2") == first
    assert detector.calls == 10
    (lines,) = (tmp_path / "store").glob("*/findings/*/0.jsonl")
    content = lines.read_text().splitlines()
    lines.write_text("\n".join([*content[:7], content[7][:-9]]))  # a kill within the eighth line
    assert geneval(tmp_path, f"--images {images} --per-prompt 2") == first
    assert detector.calls == 13
    assert "1 stored findings are not whole and are left out" in capsys.readouterr().err
    draw(("bus", "green", 20, 20)).save(images / "00000" / "samples" / "0001.png")
    changed = geneval(tmp_path, f"--images {images} --per-prompt 2")
    assert detector.calls == 14
    assert changed["images"][5]["score"] == 1.0
    assert changed["subject"]["images_sha256"] != first["subject"]["images_sha256"]


def test_a_changed_requirement_is_examined_again(
    tmp_path: Path, detector: ShapeDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_layout(tmp_path / "images")
    first = geneval(tmp_path, f"--images {images} --per-prompt 2")
    monkeypatch.setitem(ENTRIES[3]["include"][0], "color", "blue")
    second = geneval(tmp_path, f"--images {images} --per-prompt 2", "second")
    assert detector.calls == 12
    assert [one["score"] for one in second["images"]][3::5] == [0.0, 1.0]
    with pytest.raises(UserError, match=r"second.json: asked_sha256 is .*results of different ones"):
        main(["compare", f"{tmp_path}/result.json", f"{tmp_path}/second.json"])
    assert first["prompts"]["sha256"] == second["prompts"]["sha256"]


def test_the_counting_task_has_a_threshold_of_its_own(tmp_path: Path, detector: ShapeDetector) -> None:
    detector.score = 0.85
    images = write_layout(tmp_path / "images")
    measures = geneval(tmp_path, f"--images {images} --per-prompt 2")["measures"]
    assert measures["counting"]["value"] == 0.0
    assert measures["single_object"]["value"] == 0.75


def test_two_results_side_by_side(
    tmp_path: Path, detector: ShapeDetector, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_layout(tmp_path / "one")
    swapped = {number: list(reversed(images)) for number, images in DRAWN.items()}
    better = {**swapped, 0: [DRAWN[0][0]] * 2}
    two = write_layout(tmp_path / "two", better)
    geneval(tmp_path, f"--images {one} --per-prompt 2", "first")
    geneval(tmp_path, f"--images {two} --per-prompt 2", "second")
    capsys.readouterr()
    main(["compare", f"{tmp_path}/first.json", f"{tmp_path}/second.json"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"GenEval, differences are from {tmp_path}/first.json\n")
    table = printed.splitlines()
    row = next(line for line in table if "second.json [" in line and "difference" in line)
    assert "+0.2500 [" in row  # single_object: a mean of 1 and 1 after one of 0.5 and 1
    assert "its seeds are not known" in printed
    with pytest.raises(UserError, match=r"is not of the format 'distill-composition/1'"):
        (tmp_path / "other.json").write_text(json.dumps({"format": "distill-fid/1"}))
        main(["compare", f"{tmp_path}/first.json", f"{tmp_path}/other.json"])


def test_layouts_that_do_not_fit_are_refused(tmp_path: Path, detector: ShapeDetector) -> None:
    images = write_layout(tmp_path / "images")
    with pytest.raises(UserError, match="holds 2 images in folder 00000; expected 4"):
        geneval(tmp_path, f"--images {images}")
    shutil.copy(images / "00001" / "metadata.jsonl", images / "00000" / "metadata.jsonl")
    with pytest.raises(UserError, match="has the prompt 'a photo of a clock'; expected 'a photo of a bus'"):
        geneval(tmp_path, f"--images {images} --per-prompt 2")
    (images / "00000" / "metadata.jsonl").write_text("[]")
    with pytest.raises(UserError, match="expected one JSON object with a prompt"):
        geneval(tmp_path, f"--images {images} --per-prompt 2")
    (images / "00000" / "metadata.jsonl").unlink()
    (images / "00002" / "samples" / "0001.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 10 images have no findings: .*0001.png: cannot be read"):
        geneval(tmp_path, f"--images {images} --per-prompt 2")
    assert detector.calls == 9


@pytest.mark.parametrize("command", ["geneval", "dpg", "text"])
def test_a_guidance_scale_is_a_finite_number(command: str) -> None:
    with pytest.raises(UserError, match=r"^--guidance nan: expected a finite number$"):
        main([command, "--teacher", "a", "--prompts", "b", "--guidance", "nan"])


def test_a_run_on_tiny_networks_of_the_real_classes(tmp_path: Path) -> None:
    models = save_models(tmp_path)
    mask2former(tmp_path / "detector")
    tiny_reward_networks.clip(tmp_path / "clip")
    prompts = write(tmp_path / "prompts.jsonl", ENTRIES)
    networks = f"--detector {tmp_path}/detector --clip {tmp_path}/clip"
    main(
        f"geneval --run {models}/run --prompts {prompts} --n 2 --per-prompt 1 --device cpu {networks} "
        f"--store {tmp_path}/store".split()
    )
    results = json.loads((models / "run" / "geneval.json").read_text())
    assert results["seeds"] == [0, 1]
    assert results["sheet"] == "geneval.png"
    assert (models / "run" / "geneval.png").is_file()
    assert results["prompts"]["departures"][1] == "2 of its 5 prompts, the first"
    assert results["measures"]["overall"]["count"] == 2
    (lines,) = (tmp_path / "store").glob("*/findings/*/0.jsonl")
    found = json.loads(lines.read_text().splitlines()[0])["found"]
    assert found.keys() == {"objects", "colors"}
    assert results["examiner"]["constants"]["threshold"] == 0.3
