"""Scores by their names: the rewards of `distill/rewards`, and the scales on which papers print them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from distill.config.errors import UserError, did_you_mean
from distill.eval.preference.result_types import ScoreFacts, ScoreIdentity
from distill.eval.preference.scores import Scorer
from distill.rewards import RewardSettings, clipscore, hpsv2, of_name, vqascore
from distill.storage.tensors import weights_sha256

LOCATIONS = ("path", "processor", "tokenizer", "clip")
"""Settings that say where files are.

They do not identify a score: weights are identified by their hash, the other files by the reward's
`describe`.
"""
NEUTRAL = ("name", "weight", "bounds", "checkpoint")
"""Settings that do not change a score."""


class Printed(NamedTuple):
    """The name of a score in papers, and its other printed scales: their names and their factors."""

    title: str
    also: dict[str, float]


def choose_scores(names: str, weights: Sequence[str]) -> dict[str, RewardSettings]:
    """Parse `--scores` and `--weights` into the settings of each score.

    `names` is `NAME` or `NAME:PATH`, separated by commas; `weights` are `NAME=PATH` and `NAME.SETTING=VALUE`.
    """
    given: dict[str, dict[str, str]] = {}
    for text in names.split(","):
        name, _, path = text.strip().partition(":")
        if name in given:
            raise UserError(f"--scores {names}: names {name} twice")
        given[name] = {"path": path} if path else {}
    for text in weights:
        key, _, value = text.partition("=")
        if not value:
            raise UserError(
                f"--weights {text}: expected NAME=PATH or NAME.SETTING=VALUE, "
                "such as pickscore=models/pickscore"
            )
        # Names may contain dots, as hpsv2.1 does: the longest that fits is meant.
        fitting = [name for name in given if key == name or key.startswith(f"{name}.")]
        if not fitting:
            raise UserError(f"--weights {text}: '{key}' is none of the scores{did_you_mean(key, given)}")
        name = max(fitting, key=len)
        setting = key[len(name) + 1 :] or "path"
        given[name][setting] = value
    return {name: of_name(name, **given[name]) for name in given}


def open_scorer(name: str, settings: RewardSettings, device: torch.device) -> Scorer:
    """Open a reward on a device."""
    reward = settings.load().to(device)
    identity: ScoreIdentity = {
        "score": name,
        "weights_sha256": weights_sha256(reward),
        "settings": settings.model_dump(mode="json", exclude={*NEUTRAL, *LOCATIONS}),
        "reads": reward.describe(),
    }
    return Scorer(name, reward, identity)


def describe_score(name: str, settings: RewardSettings) -> ScoreFacts:
    """Return what a result records of a score except its numbers: names, scales, convention and files."""
    title, also = printed(name, settings)
    return {
        "title": title,
        "also": also,
        "convention": (type(settings).__doc__ or name).splitlines()[0],
        "files": settings.model_dump(mode="json", include=set(LOCATIONS)),
    }


def printed(name: str, settings: RewardSettings) -> Printed:
    """Return the printed name and scales of a score; `name` is used if no paper's name is known."""
    if settings.name == "pickscore":
        return Printed("PickScore", {"PickScore / 100": 0.01})
    if isinstance(settings, hpsv2.Settings):
        title = f"HPS {settings.version}"
        return Printed(title, {f"{title} x 100": 100.0})
    if isinstance(settings, clipscore.Settings):
        if settings.scale == "cosine":
            return Printed("CLIPScore, cosine", {"CLIPScore, cosine x 100": 100.0})
        return Printed(f"CLIPScore, {settings.scale} max(cosine, 0)", {})
    if isinstance(settings, vqascore.Settings):
        logarithm = "log " if settings.scale == "log" else ""
        return Printed(f"{logarithm}VQAScore, {Path(settings.path).name}", {})
    titles = {
        "hpsv3": "HPSv3",
        "imagereward": "ImageReward",
        "aesthetic": "LAION aesthetic",
        "classifier": "log p(label)",
        "word_match": "word match, cosine",
    }
    return Printed(titles.get(settings.name, name), {})
