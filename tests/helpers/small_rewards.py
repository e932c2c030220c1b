"""Rewards that are easy to compute by hand and record what they are asked."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from distill import rewards
from distill.config.errors import UserError
from distill.rewards import RewardSettings
from distill.types import Condition, Reward


class Brightness(Reward):
    """The mean of an image's values, plus a hundredth for each letter of its prompt, plus a bias."""

    asked: list[tuple[str, ...]]
    """The prompts of every batch so far."""
    broken: str | None = None
    """A prompt whose score is not finite."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.register_buffer("bias", torch.tensor(bias))
        self.asked = []

    def forward(self, images: Tensor, cond: Condition) -> Tensor:
        assert cond.text is not None
        self.asked.append(cond.text.prompts)
        letters = torch.tensor([len(prompt) for prompt in cond.text.prompts])
        score = images.mean((1, 2, 3)) + letters / 100 + self.bias
        is_broken = torch.tensor([prompt == self.broken for prompt in cond.text.prompts])
        return torch.where(is_broken, torch.nan, score)


class Settings(RewardSettings):
    """Brightness: how bright an image is."""

    name: Literal["brightness"] = "brightness"
    path: str = ""
    bias: float = 0.0

    def load(self) -> Reward:
        if self.path == "nowhere":
            raise UserError("brightness.path: nowhere holds no weights")
        return LOADED.setdefault(self.bias, Brightness(self.bias))


LOADED: dict[float, Brightness] = {}
"""Rewards by their bias. Each is loaded once, so that tests can see what it was asked."""


def of_name(score: str, **settings: object) -> RewardSettings:
    """Return the settings of `brightness`, of `brightness2`, whose bias is 2, or of a real reward."""
    own = {"brightness": {}, "brightness2": {"bias": 2.0}}
    if score in own:
        return Settings.model_validate({**own[score], **settings})
    return rewards.of_name(score, **settings)
