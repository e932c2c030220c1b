"""A reward small enough for tests, and how a configuration gets to choose it: `{name: tiny}`."""

from __future__ import annotations

import sys
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.config.settings import Choice
from distill.rewards import RewardSettings
from distill.types import Condition, Reward


class Likeness(Reward):
    """Minus the mean squared difference from a grey that depends on label or prompt, times its one weight."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.seen: list[torch.dtype] = []

    def forward(self, images: Tensor, cond: Condition) -> Tensor:
        self.seen.append(images.dtype)
        shades = shades_of(cond, images)
        return -self.scale * (images - shades[:, None, None, None]).square().flatten(1).mean(1)


def shades_of(cond: Condition, images: Tensor) -> Tensor:
    """Return a shade of grey: 0.1 for each letter of a prompt, or for each unit of a label."""
    if cond.text is not None:
        if not cond.text.prompts:
            raise UserError("tiny: needs prompts")
        return images.new_tensor([0.1 * len(prompt) for prompt in cond.text.prompts])
    assert cond.label is not None
    assert (cond.label >= 0).all()
    return 0.1 * cond.label.to(images.dtype)


class Settings(RewardSettings):
    """Settings of `Likeness`."""

    name: Literal["tiny"] = "tiny"
    scale: float = 1.0

    def load(self) -> Reward:
        return Likeness(self.scale)


def offer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this the only choice among the rewards."""
    names = Choice.names.fget
    assert names is not None

    def offered(choice: Choice) -> list[str]:
        return ["tiny"] if choice.package == "rewards" else names(choice)

    monkeypatch.setattr(Choice, "names", property(offered))
    monkeypatch.setitem(sys.modules, "distill.rewards.tiny", sys.modules[__name__])
