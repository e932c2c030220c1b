"""Rewards, one file each; the file's name is its name in a config. The same object is a term of training and a score of `eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.registry import Settings

if TYPE_CHECKING:
    from distill.types import Reward


class RewardSettings(Settings):
    """Settings of a reward. `load` opens it, frozen and in evaluation mode."""

    name: str
    weight: float = 1.0
    """Its weight among several rewards."""
    clip: tuple[float | None, float | None] | None = None
    """Lowest and highest value that count in training, null for no bound: beyond them it gives no gradient."""

    def load(self) -> Reward:
        """The reward. Raises UserError where its weights cannot be had."""
        raise TypeError(f"{type(self).__name__} is not a reward")
