"""Rewards that one can compute by hand, and that count how often they are asked."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from distill.errors import UserError, did_you_mean
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
        return torch.where(torch.tensor([prompt == self.broken for prompt in cond.text.prompts]), torch.nan, score)


class Label(Reward):
    """The label that an image was asked for, plus the mean of its values."""

    def forward(self, images: Tensor, cond: Condition) -> Tensor:
        assert cond.label is not None
        return images.mean((1, 2, 3)) + cond.label


class Settings(RewardSettings):
    """Brightness: how bright an image is."""

    name: Literal["brightness", "label"] = "brightness"
    path: str = ""
    bias: float = 0.0

    def load(self) -> Reward:
        if self.path == "nowhere":
            raise UserError("brightness.path: nowhere holds no weights")
        if self.name == "label":
            return Label()
        return LOADED.setdefault(self.bias, Brightness(self.bias))


LOADED: dict[float, Brightness] = {}
"""The rewards by their bias, each loaded once, so that tests see what they were asked."""


def of_name(score: str, **settings: object) -> RewardSettings:
    """`brightness`, `brightness2`, whose bias is 2, and `label`."""
    known = {"brightness": {"name": "brightness"}, "brightness2": {"name": "brightness", "bias": 2.0}, "label": {"name": "label"}}
    if score not in known:
        raise UserError(f"'{score}' is no score{did_you_mean(score, known)}")
    return Settings.model_validate({**known[score], **settings})
