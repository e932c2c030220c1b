"""Pictures of a run's samples: their seeds, labels and number, and the trackers that get them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from PIL import Image

from distill import load_generator
from distill.config.errors import UserError
from distill.data.images import save_samples_picture
from distill.diffusion.sampling import balanced_labels, sample_generator
from distill.training.batches.previews import Previews
from distill.training.logging import log_picture
from distill.training.settings.preview import PreviewSettings
from distill.types import Condition
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.runs import read_run, refusal, train_run, write_run


def test_a_run_shows_the_seeds_and_labels_that_are_asked_for(tmp_path: Path) -> None:
    file = write_run(tmp_path, steps=1, preview={"labels": [7, 3, 3], "seed": 5, "count": 6})
    run = train_run(file)
    cond = Condition(torch.tensor([7, 3, 3, 7, 3, 3]))
    samples = sample_generator(load_generator(run), range(5, 11), cond)
    save_samples_picture(samples, tmp_path / "expected.png", condition_count=3)
    found = np.asarray(Image.open(run / "samples" / "step-00000001.png"))
    assert np.array_equal(found, np.asarray(Image.open(tmp_path / "expected.png")))


def test_without_settings_the_labels_come_in_turn_and_the_seeds_from_zero(tmp_path: Path) -> None:
    network = save_random_teacher(tmp_path / "teacher")
    previews = Previews(PreviewSettings(), network, None)
    assert previews.seeds(range(3)) == [0, 1, 2]
    found = previews.condition(range(12)).label
    assert found is not None
    assert torch.equal(found, torch.arange(12) % 10)
    assert torch.equal(found, balanced_labels(12, 10).label)
    assert previews.condition_count == 10


def test_a_prompt_may_have_commas_and_a_file_stands_for_its_lines(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n\n two, three \n")
    several = PreviewSettings.model_validate({"prompts": ["a, b", str(tmp_path / "prompts.txt"), "x" * 300]})
    assert several.read_prompts() == ["a, b", "one", "two, three", "x" * 300]
    assert PreviewSettings.model_validate({"prompts": "a cat, asleep"}).read_prompts() == ["a cat, asleep"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "--preview.labels=[3, 10]",
            "preview.labels: 10 is no label of the network with 10; expected 0 to 9",
        ),
        ("--preview.prompts=a cat", "preview.prompts: the network takes no text; expected null"),
        ("--preview.count=0", "preview.count: expected greater than or equal to 1; found 0"),
    ],
)
def test_previews_that_the_network_cannot_make_are_refused(
    tmp_path: Path, override: str, message: str
) -> None:
    assert message in refusal(write_run(tmp_path), override)
    assert not (tmp_path / "run").exists()


def test_prompts_and_labels_at_once_are_refused(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    with pytest.raises(UserError, match=r"preview: labels: are given beside 'prompts'; expected one of them"):
        read_run(file, "--preview.labels=[1]", "--preview.prompts=x")


class Recorder:
    """A fake package of a tracker, and its run: it records what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def init(self, **given: Any) -> Recorder:
        self.calls.append(("init", given))
        return self

    def log(self, values: dict[str, Any], step: int | None = None, **given: Any) -> None:
        self.calls.append(("log", (values, step)))

    def finish(self) -> None:
        self.calls.append(("finish", None))

    def of(self, name: str) -> list[Any]:
        return [given for called, given in self.calls if called == name]


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Recorder]]:
    """Install fake packages of wandb and trackio."""
    recorders = {}
    for name in ("wandb", "trackio"):
        module, recorder = ModuleType(name), Recorder()
        module.__spec__ = ModuleSpec(name, None)
        picture = (lambda path: ("picture", path)) if name == "trackio" else np.asarray
        config = SimpleNamespace(update=lambda values, allow_val_change: None)
        vars(module).update(init=recorder.init, Image=picture, config=config)
        monkeypatch.setitem(sys.modules, name, module)
        recorders[name] = recorder
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType(name) for name in recorders])
    yield recorders
    AcceleratorState._reset_state(reset_partial_state=True)


def test_trackers_get_pictures_and_names(tmp_path: Path, packages: dict[str, Recorder]) -> None:
    settings = {"trackers": ["wandb", "trackio"], "preview": {"count": 4}}
    file = write_run(tmp_path, steps=2, sample_every=1, **settings, tracker_project="digits")
    run = train_run(file)
    pixels = [np.asarray(Image.open(run / "samples" / f"step-{step:08d}.png")) for step in range(3)]
    assert packages["wandb"].of("init") == [{"project": "digits", "name": "run"}]
    shown = [
        (values["samples"][0], step) for values, step in packages["wandb"].of("log") if "samples" in values
    ]
    assert [step for _, step in shown] == [0, 1, 2]
    for (picture, _), expected in zip(shown, pixels, strict=True):
        assert np.array_equal(picture[..., 0], expected)
    assert packages["trackio"].of("init") == [{"project": "digits", "name": "run", "resume": "never"}]
    assert [
        (values["samples"], step) for values, step in packages["trackio"].of("log") if "samples" in values
    ] == [(("picture", str(run / "samples" / f"step-{step:08d}.png")), step) for step in range(3)]
    losses = [step for values, step in packages["wandb"].of("log") if "loss/fake" in values]
    assert losses == [1, 2]
    train_run(file, "--steps=3", "--tracker_name=mine")
    assert packages["trackio"].of("init")[1] == {"project": "digits", "name": "mine", "resume": "allow"}


def test_tensorboard_gets_rows_columns_and_channels(tmp_path: Path) -> None:
    class TensorBoard(GeneralTracker):
        name = "tensorboard"
        requires_logging_directory = False
        tracker = None

        def __init__(self) -> None:
            self.given: Any = None

        def log_images(self, values: dict[str, Any], step: int, **given: Any) -> None:
            self.given = (values, step, given)

    Image.new("L", (5, 3), 7).save(tmp_path / "x.png")
    tracker = TensorBoard()
    log_picture(SimpleNamespace(trackers=[tracker]), "samples", tmp_path / "x.png", 4)  # type: ignore[arg-type]
    values, step, given = tracker.given
    assert (step, given) == (4, {"dataformats": "NHWC"})
    assert values["samples"].shape == (1, 3, 5, 3)
    assert set(values["samples"].flatten().tolist()) == {7}
