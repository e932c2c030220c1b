"""Rewards that one can compute by hand, and that count how often they are asked."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from distill import rewards
from distill.config.errors import UserError
from distill.rewards import RewardSettings
from distill.types import Condition, Reward


class Brightness(Reward):
    """The mean of an image's values, plus a hundredth of the letters of its prompt, plus a bias. `asked` are the prompts, in batches."""

    asked: list[tuple[str, ...]]
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
        return torch.where(
            torch.tensor([prompt == self.broken for prompt in cond.text.prompts]), torch.nan, score
        )


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
"""The rewards by their bias, each loaded once, so that tests see what they were asked."""


def of_name(score: str, **settings: object) -> RewardSettings:
    """`brightness`, and `brightness2`, whose bias is 2; others as `distill.rewards` has them."""
    own = {"brightness": {}, "brightness2": {"bias": 2.0}}
    return (
        Settings.model_validate({**own[score], **settings})
        if score in own
        else rewards.of_name(score, **settings)
    )
