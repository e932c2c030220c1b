"""What a run of a scene leaves by itself: its export, its model card and its report."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from distill.networks.folder import load_generator
from distill.networks.scene.scene import SceneGenerator
from distill.publishing.export import main
from distill.publishing.model_card import write_card
from distill.publishing.report.page import write_report
from distill.publishing.report.story import tell_story
from distill.publishing.run_record import read_run, summarise
from tests.helpers.exported import run_of
from tests.helpers.small_scenes import ball_scene

TEACHER = {"name": "native", "path": "runs/some-teacher"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the folder of a finished run of two small scenes."""
    run = run_of(ball_scene(particles=2, size=12), tmp_path_factory.mktemp("runs") / "balls", TEACHER)
    write_card(run / "export", run)
    return run


def test_an_export_holds_the_scene_and_a_turntable_of_each_particle(run: Path) -> None:
    assert sorted(path.name for path in (run / "export").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "turntable-0.gif",
        "turntable-1.gif",
    ]
    with Image.open(run / "export" / "turntable-1.gif") as gif:
        assert (gif.n_frames, gif.size) == (24, (12, 12))
    assert isinstance(load_generator(run), SceneGenerator)


def test_an_export_can_be_exported_again(run: Path, tmp_path: Path) -> None:
    main(["--run", str(run), "--out", str(tmp_path / "again")])
    for name in ("config.json", "model.safetensors", "turntable-0.gif"):
        assert (tmp_path / "again" / name).read_bytes() == (run / "export" / name).read_bytes()


def test_turntables_in_an_export_are_at_most_256_pixels_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.publishing.scene.turntable.EXPORT_SIZE", 6)
    run = run_of(ball_scene(size=12), tmp_path / "run", TEACHER)
    with Image.open(run / "export" / "turntable-0.gif") as gif:
        assert gif.size == (6, 6)


def test_the_code_of_a_card_renders_the_scene(run: Path) -> None:
    card = (run / "export" / "README.md").read_text()
    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    scene = ball_scene(particles=2, size=12)
    camera = names["ring"].numbered(torch.tensor([3]))
    expected = scene.render(camera, torch.tensor([0]), 12, 12).colour[0]
    assert torch.equal(names["image"], expected)


def test_a_card_says_how_to_make_views_and_shows_the_turntables(run: Path) -> None:
    card = (run / "export" / "README.md").read_text()
    assert f"```sh\npython sample.py --run {run}/export --views 24 --out views\n```" in card
    assert "![particle 0](turntable-0.gif) ![particle 1](turntable-1.gif)" in card
    assert "Holds 2 scenes in three dimensions, rendered from any side. Distilled from" in card
    assert "It has 2 particles, numbered from 0, in the cube from -1 to 1" in card
    assert "count 8, elevations [0.0], distance 3.0, field_of_view 50.0, turn 0.0." in card
    assert "DiffusionPipeline" not in card
    head = yaml.safe_load(card.split("---\n")[1])
    assert head == {
        "library_name": "distill",
        "tags": ["3d", "diffusion-distillation", "distribution_matching", "SceneGenerator"],
    }


def test_a_card_of_an_upload_downloads_it_first(run: Path) -> None:
    write_card(run / "export", run, "me/balls")
    card = (run / "export" / "README.md").read_text()
    write_card(run / "export", run)
    assert (
        "hf download me/balls --local-dir scene\npython sample.py --run scene --views 24 --out views" in card
    )
    assert 'scene = load_generator(snapshot_download("me/balls"))' in card


def test_a_report_shows_the_turntable_of_each_particle(run: Path) -> None:
    page = write_report(run).read_text()
    body = page.split("<h2>Scene</h2>")[1].split("</section>")[0]
    assert re.findall(r"<figcaption><b>([^<]*)</b> ([^<]*)<", body) == [
        ("Particle 0", "of 2, from all sides"),
        ("Particle 1", "of 2, from all sides"),
    ]
    for number, encoded in enumerate(re.findall(r'src="data:image/gif;base64,([^"]*)"', body)):
        assert base64.b64decode(encoded) == (run / "export" / f"turntable-{number}.gif").read_bytes()
    assert f"<code>python sample.py --run {run} --views 24 --out {run}/views</code>" in body
    assert re.findall(r'\b(?:src|href)="(?!data:|#)', page) == []


def test_a_report_of_a_scene_speaks_of_it(run: Path) -> None:
    record = read_run(run)
    story = tell_story(record, summarise(record))
    assert story.startswith(
        "This run distilled a diffusion teacher, runs/some-teacher, that makes an image in many network "
        "evaluations into 2 scenes in three dimensions."
    )


def test_a_report_says_which_turntable_is_missing(tmp_path: Path) -> None:
    run = run_of(ball_scene(size=4), tmp_path / "run", TEACHER)
    (run / "export" / "turntable-0.gif").write_bytes(b"no picture")
    page = write_report(run).read_text()
    assert "There is no readable export/turntable-0.gif. Make it with <code>python train.py" in page


def test_a_damaged_description_costs_the_report_one_line(tmp_path: Path) -> None:
    run = run_of(ball_scene(size=4), tmp_path / "run", TEACHER)
    config = run / "export" / "config.json"
    config.write_text(config.read_text().replace('"particles": 1', '"particles": 0'))
    assert "Not as this version writes it" in write_report(run).read_text()
