"""Every preset of a paper, two steps of it, on a network of the same classes that is tiny and has random weights; and of the laboratory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from PIL import Image

from distill.networks.edm.arguments import PUBLISHED, describe_network
from distill.networks.folder import build_network, load_generator, save_denoiser
from distill.training.config import read_config
from distill.training.launch import launch
from distill.training.settings import DistillRun
from tests.helpers import tiny_pipelines, tiny_rewards
from tests.helpers.random_teacher import save_random_teacher

ALIGNMENT = sorted(Path("configs").glob("*/di_*.yaml"))
PIPELINES: dict[str, Callable[[Path], Path]] = {
    "sd15": tiny_pipelines.stable_diffusion,
    "sdxl": tiny_pipelines.stable_diffusion_xl,
    "pixart": tiny_pipelines.pixart_alpha,
}
PRESETS = sorted([*Path("configs/cifar10").glob("*.yaml"), *Path("configs/imagenet64").glob("*.yaml")])
TINY = {"model_channels": 8, "num_blocks": 1, "label_dim": 3}


@pytest.fixture
def images(tmp_path: Path):
    def make(size: int, classes: int) -> Path:
        """A folder of three noise images for each class."""
        for index in range(3 * max(1, classes)):
            folder = tmp_path / "images" / (f"class{index % classes}" if classes else "")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(
                256, (size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(index)
            )
            Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
        return tmp_path / "images"

    return make


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_two_steps_of_it_change_the_student(path: Path, tmp_path: Path, images) -> None:
    preset = read_config(path)
    assert isinstance(preset, DistillRun)
    # The published network but for its width, its blocks and, if it has any, the number of its labels.
    arguments = PUBLISHED[preset.teacher.path.name]
    arguments = {
        **arguments,
        **{name: value for name, value in TINY.items() if name != "label_dim" or name in arguments},
    }
    torch.manual_seed(0)
    teacher = build_network(describe_network("EDMPrecond", arguments), path)
    for parameter in teacher.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    (tmp_path / "teacher").mkdir()
    save_denoiser(teacher, tmp_path / "teacher")

    data = images(arguments["img_resolution"], arguments.get("label_dim", 0))
    small = [
        "--teacher.path",
        str(tmp_path / "teacher"),
        "--data.path",
        str(data),
        "--run_dir",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]
    small += [
        "--steps",
        "2",
        "--batch_size",
        "2",
        "--micro_batch_size",
        "1",
        "--precision",
        "fp32",
        "--fake.warmup_steps",
        "0",
        "--log_every",
        "1",
    ]
    small += ["--terms", json.dumps([{**term.model_dump(), "start_step": 0} for term in preset.terms])]
    launch(read_config(path, [*small, "--generator.init_from", "null"]))

    student = load_generator(tmp_path / "run")
    moved = [
        (new - old).abs().max().item()
        for new, old in zip(student.parameters(), teacher.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 1
    last = json.loads((tmp_path / "run" / "stats.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2
    assert all(
        torch.isfinite(torch.tensor(value)) for name, value in last.items() if name.startswith("loss/")
    )


@pytest.mark.parametrize("path", sorted(Path("configs/lab").glob("*.yaml")), ids=lambda path: path.stem)
def test_two_steps_in_the_laboratory(path: Path, tmp_path: Path) -> None:
    small = [
        "--run_dir",
        str(tmp_path / "run"),
        "--steps",
        "2",
        "--batch_size",
        "8",
        "--fake.warmup_steps",
        "1",
        "--log_every",
        "1",
    ]
    preset = read_config(path)
    assert isinstance(preset, DistillRun)
    if preset.teacher_samples is not None:
        small += ["--teacher_samples.path", str(tmp_path / "samples"), "--teacher_samples.count", "16"]
    launch(read_config(path, small))
    last = json.loads((tmp_path / "run" / "stats.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2
    assert last["grad_norm/generator"] > 0
    assert all(
        torch.isfinite(torch.tensor(value)) for name, value in last.items() if name.startswith("loss/")
    )


QUICK = ("digits/di_star", "digits/di_plus_plus", "sdxl/di_star")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=f"{path.parent.name}-{path.stem}",
            marks=() if f"{path.parent.name}/{path.stem}" in QUICK else pytest.mark.slow,
        )
        for path in ALIGNMENT
    ],
)
def test_two_steps_of_alignment(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny network or pipeline of the same classes, with a tiny reward under the same settings of the term, which counts from the start."""
    tiny_rewards.offer(monkeypatch)
    family, content = path.parent.name, yaml.safe_load(path.read_text())
    if family == "digits":
        save_random_teacher(tmp_path / "teacher")
    else:
        content["teacher"]["resolution"] = 256 if family == "pixart" else 16
        (tmp_path / "prompts.txt").write_text("a cat\ntwo dogs\n")
        content["prompts"] = {"name": "text_file", "path": str(tmp_path / "prompts.txt")}
        PIPELINES[family](tmp_path / "teacher")
    content["teacher"]["path"] = str(tmp_path / "teacher")
    content["generator"] = {**content["generator"], "init_from": None, "ema": 0.0}
    content["fake"] = {**content["fake"], "updates": 1, "warmup_steps": 0}
    for term in content["terms"]:
        term["start_step"] = 0
        if term["name"] == "reward":
            term["rewards"] = [{"name": "tiny"}]
    small: dict[str, Any] = {
        "steps": 2,
        "batch_size": 2,
        "micro_batch_size": 1,
        "log_every": 1,
        "device": "cpu",
        "stop_when": [],
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**content, **small, "run_dir": str(tmp_path / "run")}))
    AcceleratorState._reset_state(reset_partial_state=True)  # the precision of the last run is kept otherwise
    launch(read_config(tmp_path / "run.yaml"))

    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert line["reward/tiny"] < 0
        assert all(
            torch.isfinite(torch.tensor(value)) for name, value in line.items() if name.startswith("loss/")
        )
        assert ("loss/implicit_reward" in line) == (path.stem == "di_plus_plus")
        assert line["grad_norm/generator"] > 0
