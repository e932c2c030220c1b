"""Word match: how well ImageNet features of an image fit the words of its prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.config.installation import find_asset
from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward


class Settings(RewardSettings):
    """How well ImageNet features of an image fit the words of its prompt, -1 to 1."""

    name: Literal["word_match"] = "word_match"
    path: str
    """Folder that `python -m distill train-word-match` wrote. Scores of different folders cannot be
    compared."""

    @property
    def trained_features(self) -> tuple[str, ...]:
        return ("efficientnet_lite0",)

    def load(self) -> Reward:
        from distill.rewards.pretrained.word_match import load_word_match

        return load_word_match(find_asset(Path(self.path))).eval().requires_grad_(False)
