"""Scores of renders and prompts, and R-precision: how often the true prompt is the nearest of many.

R-precision is that of DreamFields and DreamFusion (Jain et al. 2022; Poole et al. 2022), by any reward that
reads prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.config.text_files import read_text, split_lines
from distill.eval.features import quantise
from distill.eval.preference.score_names import describe_score, open_scorer
from distill.eval.preference.scores import AT_ONCE, rewards_of
from distill.eval.scene.results import PrecisionResults, PromptResults, SceneScoreResults
from distill.rewards import RewardSettings
from distill.training.settings import DistillRun, RunConfig
from distill.types import Condition, Reward, Text


def choose_prompt(prompt: str | None, config: RunConfig | None) -> str:
    """Return `--prompt`, or else the run's description of its scene, without the words of a view."""
    if prompt is not None:
        if not prompt.strip():
            raise UserError("--prompt: is empty; expected a description of the scene")
        return prompt
    settings = config.prompts if isinstance(config, DistillRun) else None
    if settings is None:
        raise UserError("--scores: the run has no prompt; expected --prompt with a description of the scene")
    if settings.name == "views":
        return settings.prompt
    raise UserError(
        f"--scores: the run's prompts are {settings.name}, not of one scene; expected --prompt with a "
        "description of the scene"
    )


def read_distractors(path: Path, prompt: str) -> list[str]:
    """Read the prompts of a text file, one a line, each once, without the true one."""
    lines = [line.strip() for line in split_lines(read_text(path, f"--distractors {path}:"))]
    others = list(dict.fromkeys(line for line in lines if line and line != prompt))
    if not others:
        raise UserError(f"--distractors {path}: holds no other prompt; expected one on each line")
    return others


def describe_prompts(prompt: str, distractors: Sequence[str]) -> PromptResults:
    """Return what the results record of the prompts."""
    digest = hashlib.sha256("\n".join(distractors).encode()).hexdigest()
    return {"prompt": prompt, "distractors": len(distractors), "distractors_sha256": digest}


def measure_score(
    name: str,
    settings: RewardSettings,
    images: Float[Tensor, "particles views c h w"],
    prompts: Sequence[str],
    device: torch.device,
) -> SceneScoreResults:
    """Score the renders with the first prompt and, if there are others, compute R-precision among all."""
    scorer = open_scorer(name, settings, device)
    pixels = quantise(2 * images.flatten(0, 1) - 1, "renders")
    if pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1)
    table = scores_of_pairs(scorer.reward, pixels, prompts, name).unflatten(0, images.shape[:2])
    results: SceneScoreResults = {
        **describe_score(name, settings),
        **scorer.identity,
        "mean": float(table[..., 0].mean()),
        "by_particle": table[..., 0].mean(1).tolist(),
    }
    if len(prompts) > 1:
        results["r_precision"] = r_precision(table)
    return results


def scores_of_pairs(
    reward: Reward, pixels: UInt8[Tensor, "n c h w"], prompts: Sequence[str], name: str
) -> Float64[Tensor, "n m"]:
    """Return the score of every image with every prompt; `name` is the reward's in messages."""
    places = torch.cartesian_prod(torch.arange(len(pixels)), torch.arange(len(prompts)))
    parts = []
    for part in places.split(AT_ONCE):
        texts = [prompts[number] for number in part[:, 1].tolist()]
        texts += [""] * (AT_ONCE - len(texts))
        cond = Condition(text=Text({"tokens": torch.zeros(AT_ONCE, 0, 0)}, {}, tuple(texts)))
        parts.append(rewards_of(reward, pixels[part[:, 0]], cond))
    scores = torch.cat(parts).unflatten(0, (len(pixels), len(prompts)))
    if not scores.isfinite().all():
        row, column = (~scores.isfinite()).nonzero()[0].tolist()
        raise UserError(
            f"{name}: the score of render {row} is {float(scores[row, column])}, for '{prompts[column]}'"
        )
    return scores


def r_precision(table: Float64[Tensor, "particles views prompts"]) -> PrecisionResults:
    """Return the share of renders, and of particles, that fit the first prompt better than all others.

    A particle's score with a prompt is the mean over its views. A tie is no hit.
    """
    return {"renders": _share_of_hits(table.flatten(0, 1)), "particles": _share_of_hits(table.mean(1))}


def _share_of_hits(scores: Float64[Tensor, "n prompts"]) -> float:
    return float((scores[:, 0] > scores[:, 1:].amax(1)).double().mean())
