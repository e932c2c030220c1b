"""Presets of papers and of the laboratory train for two steps.

Networks are tiny, of random weights, and of the classes of the published ones.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from distill.networks.edm.arguments import PUBLISHED, describe_network
from distill.networks.folder import build_network, load_generator, save_model
from distill.types import Denoiser
from tests.helpers import tiny_pipelines, tiny_rewards
from tests.helpers.runs import logged_steps, read_lines, read_run, train_run, write_run

PRESETS = sorted([*Path("configs/cifar10").glob("*.yaml"), *Path("configs/imagenet64").glob("*.yaml")])
LABORATORY = sorted(Path("configs/lab").glob("*.yaml"))
ALIGNMENT = sorted(Path("configs").glob("*/di_*.yaml"))
QUICK = (
    *("cifar10-sid_cond", "cifar10-f_distill_cond", "cifar10-sida_uncond", "imagenet64-uni_instruct"),
    *("digits-di_star", "digits-di_plus_plus", "sdxl-di_star"),
)
"""Presets of large networks, or of alignment, that are not slow."""
PIPELINES: dict[str, Callable[[Path], Path]] = {
    "sd15": tiny_pipelines.stable_diffusion,
    "sdxl": tiny_pipelines.stable_diffusion_xl,
    "pixart": tiny_pipelines.pixart_alpha,
}


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def unless_quick(paths: Sequence[Path]) -> list[Any]:
    """Return parameters that are slow, but for those in `QUICK`."""
    return [
        pytest.param(path, id=name_of(path), marks=() if name_of(path) in QUICK else pytest.mark.slow)
        for path in paths
    ]


def write_noise_images(folder: Path, size: int, classes: int) -> Path:
    """Write three images of noise for each class, each in the folder of its class, and return the folder."""
    for index in range(3 * max(1, classes)):
        of_class = folder / f"class{index % classes}" if classes else folder
        of_class.mkdir(parents=True, exist_ok=True)
        random = torch.Generator().manual_seed(index)
        pixels = torch.randint(256, (size, size, 3), dtype=torch.uint8, generator=random)
        Image.fromarray(pixels.numpy()).save(of_class / f"{index}.png")
    return folder


def save_tiny_edm(folder: Path, arguments: dict[str, Any], path: Path) -> Denoiser:
    """Save a network of the published class with random weights, and return it."""
    torch.manual_seed(0)
    teacher = build_network(describe_network("EDMPrecond", arguments), path)
    for parameter in teacher.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    folder.mkdir()
    save_model(teacher, folder)
    return teacher


def losses(line: dict[str, Any]) -> Iterator[float]:
    """Yield the losses of a line; None, which stands for a number that is not finite, becomes NaN."""
    for name, value in line.items():
        if name.startswith("loss/"):
            yield math.nan if value is None else value


@pytest.mark.parametrize("path", unless_quick(PRESETS))
def test_two_steps_of_a_preset_change_the_student(path: Path, tmp_path: Path) -> None:
    preset = read_run(path)
    # The published network has fewer channels, blocks and, if it has any, labels.
    arguments = {**PUBLISHED[preset.teacher.path.name], "model_channels": 8, "num_blocks": 1}
    if "label_dim" in arguments:
        arguments["label_dim"] = 3
    teacher = save_tiny_edm(tmp_path / "teacher", arguments, path)
    images = write_noise_images(
        tmp_path / "images", arguments["img_resolution"], arguments.get("label_dim", 0)
    )
    content = yaml.safe_load(path.read_text())
    content["teacher"]["path"] = str(tmp_path / "teacher")
    content["data"]["path"] = str(images)
    content["generator"]["init_from"] = None
    content["fake"]["warmup_steps"] = 0
    for term in content.get("terms", []):
        term["start_step"] = 0
    small = {"steps": 2, "batch_size": 2, "micro_batch_size": 1, "precision": "fp32"}
    run = train_run(write_run(tmp_path, **content | small | local(tmp_path)))

    student = load_generator(run)
    moved = [
        (new - old).abs().max().item()
        for new, old in zip(student.parameters(), teacher.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 1
    last = read_lines(run)[-1]
    assert last["step"] == 2
    assert all(math.isfinite(loss) for loss in losses(last))


def local(folder: Path) -> dict[str, Any]:
    """Return the settings that let a preset run in a folder on the CPU, and log every step."""
    return {"run_dir": str(folder / "run"), "device": "cpu", "log_every": 1}


@pytest.mark.parametrize("path", LABORATORY, ids=name_of)
def test_two_steps_in_the_laboratory(path: Path, tmp_path: Path) -> None:
    overrides = ["--steps=2", "--batch_size=8", "--fake.warmup_steps=1", "--log_every=1"]
    if read_run(path).teacher_samples is not None:
        overrides += [f"--teacher_samples.path={tmp_path / 'samples'}", "--teacher_samples.count=16"]
    last = read_lines(train_run(path, f"--run_dir={tmp_path / 'run'}", *overrides))[-1]
    assert last["step"] == 2
    assert last["grad_norm/generator"] > 0
    assert all(math.isfinite(loss) for loss in losses(last))


@pytest.mark.parametrize("path", unless_quick(ALIGNMENT))
def test_two_steps_of_alignment(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terms count from the first step, and the reward is a tiny one."""
    tiny_rewards.offer(monkeypatch)
    family = path.parent.name
    content = yaml.safe_load(path.read_text())
    if family == "digits":
        del content["teacher"]
    else:
        (tmp_path / "prompts.txt").write_text("a cat\ntwo dogs\n")
        content["prompts"] = {"name": "text_file", "path": str(tmp_path / "prompts.txt")}
        content["teacher"]["path"] = str(PIPELINES[family](tmp_path / "teacher"))
        content["teacher"]["resolution"] = 256 if family == "pixart" else 16
    content["generator"].update(init_from=None, ema=0.0)
    content["fake"].update(updates=1, warmup_steps=0)
    for term in content["terms"]:
        term["start_step"] = 0
        if term["name"] == "reward":
            term["rewards"] = [{"name": "tiny"}]
    small = {"steps": 2, "batch_size": 2, "micro_batch_size": 1, "stop_when": []}
    run = train_run(write_run(tmp_path, **content | small | local(tmp_path)))

    assert logged_steps(run) == [1, 2]
    for line in read_lines(run):
        assert line["reward/tiny"] < 0
        assert all(math.isfinite(loss) for loss in losses(line))
        assert ("loss/implicit_reward" in line) == (path.stem == "di_plus_plus")
        assert line["grad_norm/generator"] > 0
