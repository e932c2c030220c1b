"""Runs whose rewards are vision-language models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.objectives.terms.reward import Settings
from distill.rewards.pretrained.vision_language import hpsv3
from tests.helpers import tiny_pipelines
from tests.helpers import tiny_vision_language as tiny
from tests.helpers.runs import read_lines, train_run, write_run


@pytest.mark.slow
def test_di_star_raises_the_vqascore_of_its_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HPSv3 is scored beside it with a weight of 0."""
    monkeypatch.setattr(hpsv3, "PIXELS", 256)
    monkeypatch.setattr(hpsv3, "INSTRUCTION", "{text_prompt} <|Reward|>")  # the published one takes minutes
    preferred = str(tiny.hpsv3_folder(tmp_path / "hpsv3", tiny.hpsv3_network()))
    chat = str(tiny.chat_model(tmp_path / "chat", "qwen2_vl"))
    tiny_pipelines.stable_diffusion_xl(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("a cat\ntwo dogs\n")
    content: dict[str, Any] = yaml.safe_load(Path("configs/sdxl/di_star.yaml").read_text())
    content["teacher"].update(path=str(tmp_path / "teacher"), resolution=16)
    content["prompts"].update(path=str(tmp_path / "prompts.txt"), cache=None)
    content["terms"][0].update(
        rewards=[
            {"name": "vqascore", "path": chat, "scale": "log", "dtype": "float32"},
            {"name": "hpsv3", "path": preferred, "processor": preferred, "weight": 0.0},
        ],
        weight=10.0,
        start_step=0,
        warmup_steps=1,
    )
    content["fake"].update(updates=1, warmup_steps=0)
    content["generator"].update(init_from=None)
    content["generator"]["optimizer"]["lr"] = 2e-3
    content.update(
        run_dir=str(tmp_path / "run"),
        steps=20,
        batch_size=4,
        micro_batch_size=4,
        log_every=1,
        precision="fp32",
        device="cpu",
    )
    lines = read_lines(train_run(write_run(tmp_path, **content)))
    scores = [line["reward/vqascore"] for line in lines if "reward/vqascore" in line]
    assert len(scores) == 20
    # The first five differ by 0.03; their mean rises by 0.06.
    assert sum(scores[-3:]) / 3 > max(scores[:5]) + 0.02
    assert all(math.isfinite(line["reward/hpsv3"]) for line in lines if "reward/hpsv3" in line)


def test_a_dry_run_is_told_what_the_networks_take() -> None:
    rewards = [{"name": "hpsv3"}, {"name": "hpsv3", "dtype": "float32"}, {"name": "vqascore"}]
    term = Settings(weight=1.0, rewards=[*rewards, {"name": "pickscore"}])
    assert term.left_out == ("hpsv3 (15.5 GB)", "hpsv3 (31 GB)", "vqascore (2 bytes a weight)", "pickscore")
