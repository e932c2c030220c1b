"""Rewards: one file for each differentiable score of images; the file's name is its name in the config.

The same object is a term of training and a score of `python -m eval preference`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from distill.config.settings import Choice, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from distill.types import Condition, Reward

VERSIONS = {"hpsv2": {"name": "hpsv2", "version": "v2.0"}, "hpsv2.1": {"name": "hpsv2", "version": "v2.1"}}
"""Scores whose name also fixes a version: papers mean v2.0 by HPSv2."""


class RewardSettings(Settings):
    """Settings of a reward."""

    name: str
    weight: float = 1.0
    """Factor of this reward in the sum of all rewards. A larger one favours this reward over the others."""
    bounds: tuple[float | None, float | None] | None = None
    """Lowest and highest value that training counts, null for no bound. Beyond them the reward gives no
    gradient, which limits over-optimisation."""

    @property
    def memory(self) -> str:
        """Memory of the weights for a dry run, which does not load them; empty where they are small."""
        return ""

    @property
    def trained_features(self) -> tuple[str, ...]:
        """Names in `eval/features` of features of the reward's kind, which it trains."""
        return ()

    def load(self) -> Reward:
        """Open the reward on the CPU, frozen and in evaluation mode."""
        raise TypeError(f"{type(self).__name__} is not a reward")


def of_name(score: str, **settings: Any) -> RewardSettings:
    """Return the settings of a score by its name, such as "pickscore" or "hpsv2.1", with these changes."""
    from pydantic import ValidationError

    from distill.config.config_file import describe
    from distill.config.errors import UserError, did_you_mean

    known = {choice: {"name": choice} for choice in Choice("rewards").names} | VERSIONS
    if score not in known:
        raise UserError(f"'{score}' is no score{did_you_mean(score, known)}")
    content = {**known[score], **settings}
    try:
        return cast(RewardSettings, Choice("rewards").resolve(content))
    except ValidationError as error:
        raise UserError(f"{score}: {describe(error, content)}") from error


def prompts_of(cond: Condition, count: int, reward: str) -> Sequence[str]:
    """Return the prompts of `count` images. `reward` is the name in messages."""
    from distill.config.errors import UserError

    prompts = () if cond.text is None else cond.text.prompts
    if not prompts:
        raise UserError(
            f"{reward}: reads prompts, and the images come without; expected a model that takes prompts"
        )
    if len(prompts) != count:
        raise ValueError(f"{reward}: {len(prompts)} prompts for {count} images")
    return prompts


def labels_of(cond: Condition, count: int, reward: str, check_range: bool = True) -> Tensor:
    """Return the labels of images, (b,), each in [0, `count`). `reward` is the name in messages."""
    from distill.config.errors import UserError

    if cond.label is None:
        raise UserError(f"{reward}: reads labels, and the images come without; expected a model with classes")
    if not check_range:
        return cond.label
    outside = cond.label[(cond.label < 0) | (cond.label >= count)]
    if len(outside):
        raise UserError(
            f"{reward}: an image has label {int(outside[0])}; "
            f"expected 0 to {count - 1}, which are the classifier's"
        )
    return cond.label
