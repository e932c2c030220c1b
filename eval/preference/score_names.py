"""The scores by their names: rewards of `distill/rewards`, and on which scales papers print them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from distill.config.errors import UserError, did_you_mean
from distill.rewards import RewardSettings, of_name
from distill.storage.tensors import weights_sha256
from eval.preference.scores import Scorer

LOCATIONS = ("path", "processor", "tokenizer", "clip")
"""Settings that say where files are, which are the same files wherever they are: weights are known by their hash, the others by `describe`."""


class Printed(NamedTuple):
    """How papers name a score, and other scales on which they print it, by their names, as factors."""

    title: str
    also: dict[str, float]


def choose_scores(names: str, weights: Sequence[str]) -> dict[str, RewardSettings]:
    """The settings of the scores `NAME` or `NAME:PATH`, commas between them, with `NAME=PATH` and `NAME.SETTING=VALUE` of `--weights`.

    Raises UserError, with the nearest right name, where one is none.
    """
    given: dict[str, dict[str, str]] = {}
    for text in names.split(","):
        name, _, path = text.strip().partition(":")
        if name in given:
            raise UserError(f"--scores {names}: names {name} twice")
        given[name] = {"path": path} if path else {}
    for text in weights:
        key, equals, value = text.partition("=")
        name = max((name for name in given if key == name or key.startswith(f"{name}.")), key=len, default="")
        if not equals or not value:
            raise UserError(
                f"--weights {text}: expected NAME=PATH or NAME.SETTING=VALUE, such as pickscore=models/pickscore"
            )
        if not name:
            raise UserError(f"--weights {text}: '{key}' is none of the scores{did_you_mean(key, given)}")
        given[name][key[len(name) + 1 :] or "path"] = value
    return {name: of_name(name, **given[name]) for name in given}


def open_scorer(name: str, settings: RewardSettings, device: torch.device) -> Scorer:
    """Open a reward on a device. Raises UserError where its weights cannot be had."""
    reward = settings.load().to(device)
    decisive = settings.model_dump(mode="json", exclude={"name", "weight", "bounds", *LOCATIONS})
    return Scorer(
        name,
        reward,
        {
            "score": name,
            "weights_sha256": weights_sha256(reward),
            "settings": decisive,
            "reads": reward.describe(),
        },
    )


def describe_score(name: str, settings: RewardSettings) -> dict[str, Any]:
    """What a result says of a score besides its numbers: names, scales, convention, and where its files were."""
    title, also = printed(name, settings)
    locations = settings.model_dump(mode="json", include=set(LOCATIONS))
    return {
        "title": title,
        "also": also,
        "convention": (type(settings).__doc__ or name).splitlines()[0],
        "files": locations,
    }


def printed(name: str, settings: RewardSettings) -> Printed:
    """The name and the scales of a score, of its own name where nothing is known of it."""
    if settings.name == "pickscore":
        return Printed("PickScore", {"PickScore / 100": 0.01})
    if settings.name == "hpsv2":
        title = f"HPS {getattr(settings, 'version')}"  # noqa: B009 - a field of this one alone
        return Printed(title, {f"{title} x 100": 100.0})
    if settings.name == "clipscore":
        scale = getattr(settings, "scale")  # noqa: B009
        if scale == "cosine":
            return Printed("CLIPScore, cosine", {"CLIPScore, cosine x 100": 100.0})
        return Printed(f"CLIPScore, {scale} max(cosine, 0)", {})
    titles = {"imagereward": "ImageReward", "aesthetic": "LAION aesthetic", "classifier": "log p(label)"}
    return Printed(titles.get(settings.name, name), {})
