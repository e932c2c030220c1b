"""`python -m eval scene` from its arguments to its file, and its complaints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import distill
from distill.config.errors import UserError
from distill.eval.__main__ import main
from distill.eval.scene.psnr import psnr
from distill.networks.folder import save_model
from distill.networks.scene.cameras import Orbit, Ring
from distill.networks.scene.scene import SceneGenerator
from distill.networks.scene.sizes import SceneSizes
from distill.teachers.known_scenes import Settings as KnownScenesTeacher
from tests.helpers import stand_in_trackers
from tests.helpers.preference_runs import install_small_rewards
from tests.helpers.runs import write_finished_run

RING = Ring(count=4, elevations=(20.0,))
KNOWN: dict[str, Any] = {
    "name": "known_scenes",
    "scenes": ["snowman", "tree"],
    "cameras": RING.model_dump(),
    "size": 8,
    "samples": 16,
}
PROMPT = "a red apple"


def write_scene(run: Path, particles: int, cameras: Ring | Orbit, **settings: Any) -> SceneGenerator:
    """Write a run whose student has scenes of random colours, and return it."""
    torch.manual_seed(0)
    sizes = SceneSizes(particles=particles, cameras=cameras, resolution=4, width=0, samples=8)
    generator = SceneGenerator(sizes, (3, 8, 8))
    torch.nn.init.normal_(generator.field.grid.nodes)
    (run / "export").mkdir(parents=True)
    save_model(generator, run / "export")
    student = {"name": "scene", **sizes.model_dump(mode="json")}
    write_finished_run(run, KNOWN, generator={"network": student}, **settings)
    return generator


@pytest.fixture(autouse=True)
def _small_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    install_small_rewards(monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three particles on a teacher that knows two scenes."""
    write_scene(tmp_path / "run", 3, RING)
    return tmp_path / "run"


def measure(run: Path, *arguments: str) -> dict[str, Any]:
    main(["scene", "--run", str(run), *arguments])
    return json.loads((run / "scene.json").read_text())


def test_particles_are_compared_with_the_scenes_that_the_teacher_knows(run: Path) -> None:
    found = measure(run)["known_scenes"]
    cameras = RING.model_copy(update={"turn": 45.0}).numbered(torch.arange(4))
    generator = distill.load_generator(run)
    assert isinstance(generator, SceneGenerator)
    teacher = KnownScenesTeacher(**{key: value for key, value in KNOWN.items() if key != "name"}).load()
    for particle in range(3):
        images = generator.render(cameras, torch.full((4,), particle), 8, 8).colour
        table = [psnr(images, teacher.render(cameras, scene, 8, 8).colour).mean().item() for scene in (0, 1)]
        assert found["psnr"][particle] == pytest.approx(table, rel=1e-5)
        assert found["nearest"][particle] == ("snowman", "tree")[table.index(max(table))]
    assert sum(found["mass"].values()) == pytest.approx(1)
    assert (found["found"], found["found_psnr"]) == ([], 20.0)


def test_scores_and_r_precision_of_a_prompt(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reward adds a hundredth for each letter: the longest prompt is always the nearest."""
    (tmp_path / "others.txt").write_text(f"a cat\n\n{PROMPT}\na dog\na cat\n")
    arguments = ["--scores", "brightness", "--distractors", str(tmp_path / "others.txt")]
    results = measure(run, "--prompt", PROMPT, *arguments)
    assert (results["prompts"]["prompt"], results["prompts"]["distractors"]) == (PROMPT, 2)
    score = results["scores"]["brightness"]
    assert score["r_precision"] == {"renders": 1.0, "particles": 1.0}
    assert score["mean"] == pytest.approx(sum(score["by_particle"]) / 3)
    assert measure(run, "--prompt", "a", *arguments)["scores"]["brightness"]["r_precision"] == {
        "renders": 0.0,
        "particles": 0.0,
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{run}: 3 particles, 4 held-out views of 8x8 pixels"
    assert lines[2] == f"prompt: {PROMPT}; R-precision among 3 prompts"
    assert lines[4].split() == ["brightness", f"{score['mean']:.4f}", "100.0%", "100.0%"]


def test_trackers_get_scores_diversity_and_the_scenes_that_were_found(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = stand_in_trackers.install(monkeypatch)
    distractors = run.parent / "others.txt"
    distractors.write_text("a cat\n")
    scored = f"--scores brightness --distractors {distractors} --log-to wandb --log-dir {run.parent}".split()
    results = measure(run, "--prompt", PROMPT, *scored)
    known, diversity = results["known_scenes"], results["diversity"]
    assert logged[0].numbers == {
        0: {
            "scene/brightness/mean": results["scores"]["brightness"]["mean"],
            "scene/brightness/r_precision/renders": 1.0,
            "scene/brightness/r_precision/particles": 1.0,
            "scene/diversity/distance": diversity["distance"],
            "scene/diversity/psnr": diversity["psnr"],
            "scene/known_scenes/found": 0.0,
            "scene/known_scenes/nearest_psnr": pytest.approx(sum(known["nearest_psnr"]) / 3),
            "scene/known_scenes/mass/snowman": known["mass"]["snowman"],
            "scene/known_scenes/mass/tree": known["mass"]["tree"],
        }
    }
    assert logged[0].opened["name"] == "scene-run"
    assert logged[0].opened["config"]["prompts"] == results["prompts"]


def test_the_prompt_is_the_runs_without_words_of_views(tmp_path: Path) -> None:
    write_scene(tmp_path / "run", 2, Orbit(), prompts={"name": "views", "prompt": "a boat"})
    results = measure(tmp_path / "run", "--scores", "brightness", "--views", "3")
    assert results["prompts"]["prompt"] == "a boat"
    assert results["views"] == 3


def test_diversity_of_particles_is_that_of_their_pixels(run: Path) -> None:
    found = measure(run)["diversity"]
    assert (found["protocol"], found["features"]) == ("fd-pixel", "pixels")
    assert found["distance"] > 0.1
    assert 0 < found["psnr"] < 100


def test_what_cannot_be_had_is_skipped_with_its_reason(tmp_path: Path) -> None:
    """An export has no configuration, so that results need --out."""
    write_scene(tmp_path / "run", 1, RING)
    out = tmp_path / "out.json"
    main(["scene", "--run", str(tmp_path / "run" / "export"), "--out", str(out)])
    results = json.loads(out.read_text())
    assert results["skipped"] == {
        "scores": "no --scores were asked for",
        "diversity": "the scene has one particle",
        "known_scenes": "no teacher of known scenes is recorded (an export records none)",
    }
    assert results.keys().isdisjoint({"scores", "diversity", "known_scenes"})


def test_results_repeat(run: Path) -> None:
    assert measure(run) == measure(run)


WRONG = {
    "": "the following arguments are required: --run",
    "--run X --prompt a": "--prompt: goes with --scores, such as --scores clipscore",
    "--run X --distractors a": "--distractors: goes with --scores, such as --scores clipscore",
    "--run X --views 3": ("--views 3: goes with the cameras orbit; expected none, the run's ring has 4"),
    "--run X --views 0": "--views 0: expected at least 1",
    "--run X --protocol fd-pixl": ("--protocol fd-pixl: is not in eval/protocols; did you mean 'fd-pixel'?"),
    "--run X --scores brightness": (
        "--scores: the run has no prompt; expected --prompt with a description of the scene"
    ),
    "--run X --scores pickscor --prompt a": "'pickscor' is no score; did you mean 'pickscore'?",
    "--run X --scores brightness --prompt a --distractors nowhere": (
        "--distractors nowhere: cannot be read (No such file or directory)"
    ),
    "--run X --out nowhere/x.json": "--out nowhere/x.json: nowhere is no folder",
    "--run nowhere": "nowhere: no such folder; expected a run, a checkpoint or an export",
    "--run assets/digits-classifier": "assets/digits-classifier: holds a classifier; expected a generator",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_arguments_are_refused_in_one_line(run: Path, arguments: str) -> None:
    words = [str(run) if word == "X" else word for word in arguments.split()]
    with pytest.raises(UserError) as error:
        main(["scene", *words])
    assert str(error.value) == WRONG[arguments]
    assert not (run / "scene.json").exists()


def test_prompts_of_other_sources_need_the_prompt(tmp_path: Path) -> None:
    """Such a run is refused by training; its folder may come from elsewhere."""
    from distill.eval.scene.similarity import choose_prompt
    from tests.helpers.runs import read_run, write_run

    path = write_run(tmp_path, data={"name": "digits"}, prompts={"name": "text_file", "path": "prompts.txt"})
    message = r"^--scores: the run's prompts are text_file, not of one scene; expected --prompt with a "
    with pytest.raises(UserError, match=message):
        choose_prompt(None, read_run(path))
    with pytest.raises(UserError, match=r"^--prompt: is empty; expected a description of the scene$"):
        choose_prompt(" ", None)


def test_distractors_without_another_prompt_are_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "same.txt").write_text(f"{PROMPT}\n")
    with pytest.raises(UserError, match=r"same\.txt: holds no other prompt; expected one on each line$"):
        measure(
            run,
            *["--scores", "brightness", "--prompt", PROMPT],
            *["--distractors", str(tmp_path / "same.txt")],
        )


def test_a_student_that_is_no_scene_is_refused() -> None:
    message = r"^--run assets/emoji-text-student: its student is no scene; expected a run of generator"
    with pytest.raises(UserError, match=message):
        main(["scene", "--run", "assets/emoji-text-student"])
