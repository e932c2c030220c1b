"""Whole runs with rewards: they rise, split and resume like any other, and the networks of the rewards stay what and where they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from diffusers import DiffusionPipeline
from torch import Tensor

from distill import load_generator
from distill.config.errors import UserError
from distill.diffusion.sampling import balanced_labels, sample_generator
from distill.networks.folder import checkpoints
from distill.rewards import pickscore
from distill.storage.tensors import load_tensors
from distill.training.config import read_config
from distill.training.distillation.build import build_method
from distill.training.launch import launch
from distill.training.settings import DistillRun
from tests.helpers import tiny_pipelines, tiny_rewards
from tests.helpers import tiny_reward_networks as tiny_networks
from tests.helpers.random_teacher import save_random_teacher
from tests.helpers.tiny_rewards import Likeness
from train import main

REWARD = {"name": "reward", "weight": 20.0, "rewards": [{"name": "tiny", "bounds": [-5.0, -0.01]}], "crop": 5}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A run of four steps on a random teacher: DI*, with a random crop and the implicit reward besides."""
    tiny_rewards.offer(monkeypatch)
    save_random_teacher(tmp_path / "teacher")
    return {
        "task": "distill",
        "run_dir": str(tmp_path / "run"),
        "teacher": {"name": "native", "path": str(tmp_path / "teacher")},
        "steps": 4,
        "batch_size": 4,
        "device": "cpu",
        "objective": {"name": "score_matching", "distance": "pseudo_huber"},
        "guidance": {"teacher": 1.5},
        "terms": [REWARD, {"name": "implicit_reward", "weight": 0.5, "start_step": 1, "warmup_steps": 3}],
        "log_every": 1,
        "checkpoint_every": 2,
        "sample_every": 100,
    }


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., DistillRun]:
    def read(config: dict[str, Any], *overrides: str) -> DistillRun:
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        found = read_config(tmp_path / "run.yaml", overrides)
        assert isinstance(found, DistillRun)
        return found

    return read


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]


def state(run: Path) -> dict[str, Tensor]:
    files = sorted(checkpoints(run)[-1].glob("*.safetensors"))
    return {f"{file.name} {name}": value for file in files for name, value in load_tensors(file).items()}


def test_a_run_with_rewards_resumes_bit_for_bit_and_saves_none_of_their_weights(
    config, read, tmp_path: Path
) -> None:
    assert launch(read(config)) == 0
    stopped = read(
        config,
        "--run_dir",
        str(tmp_path / "resumed"),
        "--stop_when",
        "[{measure: reward/tiny, above: -1e9, start_step: 2}]",
    )
    assert launch(stopped) == 3
    assert launch(read(config, "--run_dir", str(tmp_path / "resumed"))) == 0
    whole, resumed = state(tmp_path / "run"), state(tmp_path / "resumed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert {name.split()[0] for name in whole} == {
        *(f"{network}{kind}.safetensors" for network in ("generator", "fake") for kind in ("", ".optimizer")),
        "model.safetensors",
    }


def test_micro_batches_change_nothing_but_rounding(config, read, tmp_path: Path) -> None:
    """Crops, too, are the batch's and not the micro-batch's."""
    for size in ("null", "1"):
        launch(read(config, "--run_dir", str(tmp_path / size), "--micro_batch_size", size))
    whole, split = lines(tmp_path / "null"), lines(tmp_path / "1")
    for one, other in zip(whole, split, strict=True):
        for name in (
            "loss/objective",
            "loss/reward",
            "reward/tiny",
            "reward/tiny_clipped",
            "grad_norm/generator",
        ):
            assert one[name] == pytest.approx(other[name], rel=2e-3), name
    assert "loss/implicit_reward" not in whole[0]
    assert whole[1]["loss/implicit_reward"] != 0


def test_the_reward_rises(config, read, tmp_path: Path) -> None:
    """By the very images that the student makes of the same seeds, for every label."""
    terms = json.dumps([{**REWARD, "crop": None, "weight": 200.0}])
    quick = [
        "--generator.optimizer.lr",
        "1e-3",
        "--generator.ema",
        "0",
        "--batch_size",
        "8",
        "--log_every",
        "100",
        "--terms",
        terms,
    ]
    rewards = []
    for steps in ("1", "20"):
        launch(read(config, *quick, "--steps", steps, "--run_dir", str(tmp_path / steps)))
        cond = balanced_labels(40, 10)
        rewards.append(
            Likeness()(sample_generator(load_generator(tmp_path / steps), range(40), cond), cond)
            .mean()
            .item()
        )
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
def test_any_objective_may_stand_beside_a_reward(
    config, read, tmp_path: Path, objective: dict[str, Any]
) -> None:
    """Also none at all: the reward alone."""
    launch(
        read(
            {
                **config,
                "objective": objective,
                "terms": [{**REWARD, "rewards": [{"name": "tiny"}]}],
                "steps": 1,
            }
        )
    )
    line = lines(tmp_path / "run")[0]
    assert line["loss/reward"] == pytest.approx(-20 * line["reward/tiny"])
    assert (line["loss/objective"] == 0) == (objective.get("weight") == 0)
    assert line["gradient_at_sample/reward"] > 0


def test_rewards_are_frozen(config, read) -> None:
    term: Any = build_method(read(config), torch.device("cpu")).terms[0].term
    assert not term.training
    assert [parameter.requires_grad for parameter in term.parameters()] == [False]


def test_a_dry_run_counts_the_decoder_and_loads_no_reward(
    config, read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    monkeypatch.setattr(Likeness, "__init__", lambda self, scale: pytest.fail("a reward was loaded"))
    read(config)
    assert main([str(tmp_path / "run.yaml"), "--dry-run"]) == 0
    assert (
        "not counted, neither here nor above: the networks of tiny, whose weights say what they are"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_a_dry_run_goes_through_an_autoencoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """A random crop of the latents, decoded; without the checkpoint its activations are held."""
    tiny_rewards.offer(monkeypatch)
    tiny_pipelines.stable_diffusion_xl(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("a cat")
    reward = {"name": "reward", "weight": 1.0, "rewards": [{"name": "tiny"}], "crop": 12}
    flags = [
        "--teacher.path",
        str(tmp_path / "teacher"),
        "--teacher.resolution",
        "16",
        "--prompts.path",
        str(tmp_path / "prompts.txt"),
    ]
    held = []
    for checkpoint in (True, False):
        terms = ["--terms", json.dumps([{**reward, "checkpoint_decoder": checkpoint}])]
        assert (
            main(
                [
                    "configs/sdxl/di_star.yaml",
                    "--dry-run",
                    *flags,
                    *terms,
                    "--micro_batch_size",
                    "2",
                    "--batch_size",
                    "512",
                ]
            )
            == 0
        )
        said = capsys.readouterr().out
        line = next(line for line in said.splitlines() if "more for a generator update" in line)
        held.append(float(line.split()[0].replace(",", "")))
    assert "vae" in said
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
def test_what_cannot_be_judged_is_refused(config, read, terms: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError) as error:
        launch(read({**config, "terms": terms}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


PROMPTS = ["a cat", "two dogs", "xyz"]


@pytest.mark.slow
def test_di_star_goes_all_the_way_on_a_tiny_sdxl(tmp_path: Path) -> None:
    """Prompts in, from a student of DMD2's preset on; out comes a pipeline that plain diffusers opens, whose images a PickScore likes better."""
    clip = str(tiny_networks.clip(tmp_path / "clip"))
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    tiny_pipelines.stable_diffusion_xl(tmp_path / "teacher")
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
    content["generator"]["optimizer"]["lr"] = content["fake"]["optimizer"]["lr"] = 2e-3
    content.update(batch_size=8, micro_batch_size=4, log_every=1, precision="fp32", device="cpu")

    def train(name: str, **changes: Any) -> Path:
        changed = {**content, "run_dir": str(tmp_path / name), **changes}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(changed))
        AcceleratorState._reset_state(reset_partial_state=True)
        assert launch(read_config(tmp_path / f"{name}.yaml")) == 0
        return tmp_path / name

    # A student to start from, at the same entry, that has hardly moved from the teacher.
    matching = {"name": "distribution_matching", "divergence": "reverse_kl", "weighting": "dmd"}
    start = train(
        "dmd2", steps=3, terms=[], objective=matching, generator={**content["generator"], "init_from": None}
    )
    aligned = train("di_star", steps=30, generator={**content["generator"], "init_from": str(start)})
    reward = pickscore.Settings(path=clip, processor=clip).load()
    z = torch.randn(24, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def score(run: Path) -> float:
        """Of the exported pipeline, called as users call it, but for the noise."""
        pipe = DiffusionPipeline.from_pretrained(run / "export")
        images = tiny_pipelines.call(pipe, z, PROMPTS * 8, num_inference_steps=1, guidance_scale=0)
        return reward(2 * images - 1, tiny_networks.prompted(*PROMPTS * 8)).mean().item()

    before, after = score(start), score(aligned)
    rewards = [line["reward/pickscore"] for line in lines(aligned) if "reward/pickscore" in line]
    assert after > before + 1
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 3
