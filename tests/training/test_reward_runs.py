"""Whole runs with rewards: the rewards rise, runs split and resume, and the rewards' networks stay frozen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DiffusionPipeline

from distill import load_generator
from distill.diffusion.sampling import balanced_labels, sample_generator
from distill.rewards import pickscore
from distill.training.distillation.build import build_method
from distill.training.settings.stop_condition import STOPPED
from tests.helpers import tiny_pipelines, tiny_rewards
from tests.helpers import tiny_reward_networks as tiny_networks
from tests.helpers.runs import (
    assert_same_tensors,
    checkpoint_tensors,
    read_lines,
    read_run,
    refusal,
    train_run,
    write_run,
)
from tests.helpers.tiny_rewards import Likeness
from train import main

REWARD = {"name": "reward", "weight": 20.0, "rewards": [{"name": "tiny", "bounds": [-5.0, -0.01]}], "crop": 5}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return settings of DI* for four steps, with a random crop and the implicit reward."""
    tiny_rewards.offer(monkeypatch)
    return {
        "steps": 4,
        "batch_size": 4,
        "objective": {"name": "score_matching", "distance": "pseudo_huber"},
        "guidance": {"teacher": 1.5},
        "terms": [REWARD, {"name": "implicit_reward", "weight": 0.5, "start_step": 1, "warmup_steps": 3}],
        "checkpoint_every": 2,
        "sample_every": 100,
    }


def test_a_run_with_rewards_resumes_bit_for_bit_and_saves_none_of_their_weights(
    config: dict[str, Any], tmp_path: Path
) -> None:
    file = write_run(tmp_path, **config)
    whole = checkpoint_tensors(train_run(file))
    elsewhere = f"--run_dir={tmp_path / 'resumed'}"
    stop = "--stop_when=[{measure: reward/tiny, above: -1e9, start_step: 2}]"
    train_run(file, elsewhere, stop, exit_code=STOPPED)
    assert_same_tensors(checkpoint_tensors(train_run(file, elsewhere)), whole)
    assert {name.split(":")[0] for name in whole} == {
        "generator.safetensors",
        "generator.optimizer.safetensors",
        "fake.safetensors",
        "fake.optimizer.safetensors",
        "model.safetensors",
    }


def test_micro_batches_share_the_batch_s_crops(config: dict[str, Any], tmp_path: Path) -> None:
    file = write_run(tmp_path, **config)
    whole, split = (
        read_lines(train_run(file, f"--run_dir={tmp_path / size}", f"--micro_batch_size={size}"))
        for size in ("null", "1")
    )
    measures = [
        "loss/objective",
        "loss/reward",
        "reward/tiny",
        "reward/tiny_clipped",
        "grad_norm/generator",
    ]
    for one, other in zip(whole, split, strict=True):
        for name in measures:
            assert one[name] == pytest.approx(other[name], rel=2e-3), name
    assert "loss/implicit_reward" not in whole[0]
    assert whole[1]["loss/implicit_reward"] != 0


def test_the_reward_rises(config: dict[str, Any], tmp_path: Path) -> None:
    """It is that of images of fixed seeds, for every label."""
    config |= {
        "batch_size": 8,
        "terms": [{**REWARD, "crop": None, "weight": 200.0}],
        "generator": {"optimizer": {"lr": 1e-3}, "ema": 0},
        "log_every": 100,
    }
    cond = balanced_labels(40, 10)
    rewards = []
    for steps in (1, 20):
        run = train_run(
            write_run(tmp_path, **config), f"--steps={steps}", f"--run_dir={tmp_path / str(steps)}"
        )
        images = sample_generator(load_generator(run), range(40), cond)
        rewards.append(Likeness()(images, cond).mean().item())
    assert rewards[0] < -0.2
    assert rewards[1] > 0.7 * rewards[0]


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "distribution_matching", "divergence": "reverse_kl"},
        {"name": "expanded_divergence", "divergence": "reverse_kl", "estimator": "exact"},
        {"name": "score_matching", "weight": 0.0},
    ],
    ids=lambda objective: f"{objective['name']}-{objective.get('weight', 1)}",
)
def test_any_objective_goes_with_a_reward(
    config: dict[str, Any], tmp_path: Path, objective: dict[str, Any]
) -> None:
    """A weight of 0 leaves the reward alone."""
    config |= {"objective": objective, "terms": [{**REWARD, "rewards": [{"name": "tiny"}]}], "steps": 1}
    line = read_lines(train_run(write_run(tmp_path, **config)))[0]
    assert line["loss/reward"] == pytest.approx(-20 * line["reward/tiny"])
    assert (line["loss/objective"] == 0) == (objective.get("weight") == 0)
    assert line["gradient_at_sample/reward"] > 0


def test_rewards_are_frozen(config: dict[str, Any], tmp_path: Path) -> None:
    method = build_method(read_run(write_run(tmp_path, **config)), torch.device("cpu"))
    term: Any = method.terms[0].term
    assert not term.training
    assert [parameter.requires_grad for parameter in term.parameters()] == [False]


def test_a_dry_run_loads_no_reward(
    config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Likeness, "__init__", lambda self, scale: pytest.fail("a reward was loaded"))
    assert main([str(write_run(tmp_path, **config)), "--dry-run"]) == 0
    assert (
        "not counted, neither here nor above: the networks of tiny, whose weights say what they are"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_a_dry_run_goes_through_an_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random crop of the latents is decoded; without the decoder's checkpoint its activations are held."""
    tiny_rewards.offer(monkeypatch)
    tiny_pipelines.stable_diffusion_xl(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("a cat")
    overrides = [
        f"--teacher.path={tmp_path / 'teacher'}",
        "--teacher.resolution=16",
        f"--prompts.path={tmp_path / 'prompts.txt'}",
        "--micro_batch_size=2",
        "--batch_size=512",
    ]
    reward = {"name": "reward", "weight": 1.0, "rewards": [{"name": "tiny"}], "crop": 12}
    held = []
    for checkpoint in (True, False):
        terms = json.dumps([{**reward, "checkpoint_decoder": checkpoint}])
        assert main(["configs/sdxl/di_star.yaml", "--dry-run", *overrides, f"--terms={terms}"]) == 0
        said = capsys.readouterr().out
        assert "vae" in said
        (line,) = [line for line in said.splitlines() if "more for a generator update" in line]
        held.append(float(line.split()[0].replace(",", "")))
    assert held[0] < held[1]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([REWARD, REWARD], "terms: reward stands there twice; expected once"),
        ([{**REWARD, "crop": 9}], "terms: reward's crop is 9; expected a multiple of 1 up to 8"),
        ([{**REWARD, "rewards": []}], "terms.0.rewards"),
        (
            [{**REWARD, "rewards": [{"name": "tinny"}]}],
            "'tinny' is not in distill/rewards; did you mean 'tiny'?",
        ),
    ],
)
def test_wrong_terms_are_refused_in_one_line(
    config: dict[str, Any], tmp_path: Path, terms: list[dict[str, Any]], message: str
) -> None:
    assert message in refusal(write_run(tmp_path, **config | {"terms": terms}))


PROMPTS = ["a cat", "two dogs", "xyz"]


@pytest.fixture
def di_star(tmp_path: Path) -> dict[str, Any]:
    """Write a tiny SDXL, a tiny CLIP and prompts, and return DI*'s preset of SDXL for them."""
    clip = str(tiny_networks.clip(tmp_path / "clip"))
    tiny_pipelines.stable_diffusion_xl(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    content = yaml.safe_load(Path("configs/sdxl/di_star.yaml").read_text())
    content["teacher"].update(path=str(tmp_path / "teacher"), resolution=16)
    content["prompts"].update(path=str(tmp_path / "prompts.txt"), cache=None)
    content["terms"][0].update(
        rewards=[{"name": "pickscore", "path": clip, "processor": clip}],
        weight=0.1,
        start_step=2,
        warmup_steps=5,
    )
    content["fake"].update(updates=1, warmup_steps=2)
    content["fake"]["optimizer"]["lr"] = 2e-3
    content["generator"]["optimizer"]["lr"] = 2e-3
    content.update(batch_size=8, micro_batch_size=4, log_every=1, precision="fp32", device="cpu")
    return content


@pytest.mark.slow
def test_di_star_improves_the_pickscore_of_an_exported_pipeline(
    di_star: dict[str, Any], tmp_path: Path
) -> None:
    """A student of DMD2 is aligned with PickScore, which compares the images of both exported pipelines."""

    def train(name: str, **changes: Any) -> Path:
        (tmp_path / name).mkdir()
        return train_run(
            write_run(tmp_path / name, **di_star | changes | {"run_dir": str(tmp_path / name / "run")})
        )

    # The student to start from has the same noise level and has hardly moved from the teacher.
    matching = {"name": "distribution_matching", "divergence": "reverse_kl", "weighting": "dmd"}
    generator = di_star["generator"]
    start = train("dmd2", steps=3, terms=[], objective=matching, generator={**generator, "init_from": None})
    aligned = train("di_star", steps=30, generator={**generator, "init_from": str(start)})
    clip = str(tmp_path / "clip")
    reward = pickscore.Settings(path=clip, processor=clip).load()
    z = torch.randn(24, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def score(run: Path) -> float:
        """Score images of the exported pipeline, called as users call it but with given noise."""
        pipe = DiffusionPipeline.from_pretrained(run / "export")
        images = tiny_pipelines.call(pipe, z, PROMPTS * 8, num_inference_steps=1, guidance_scale=0)
        return reward(2 * images - 1, tiny_networks.prompted(*PROMPTS * 8)).mean().item()

    assert score(aligned) > score(start) + 1
    lines = read_lines(aligned)
    rewards = [line["reward/pickscore"] for line in lines if "reward/pickscore" in line]
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 3
