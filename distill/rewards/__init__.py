"""Rewards, one file each; the file's name is its name in a config. The same object is a term of training and a score of `eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from distill.config.settings import Choice, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from distill.types import Condition, Reward

VERSIONS = {"hpsv2": {"name": "hpsv2", "version": "v2.0"}, "hpsv2.1": {"name": "hpsv2", "version": "v2.1"}}
"""Scores whose name says more than the file: papers mean v2.0 by HPSv2."""


class RewardSettings(Settings):
    """Settings of a reward. `load` opens it, frozen and in evaluation mode."""

    name: str
    weight: float = 1.0
    """Its weight among several rewards."""
    bounds: tuple[float | None, float | None] | None = None
    """Lowest and highest value that count in training, null for no bound: beyond them it gives no gradient."""

    def load(self) -> Reward:
        """The reward. Raises UserError where its weights cannot be had."""
        raise TypeError(f"{type(self).__name__} is not a reward")


def of_name(score: str, **settings: Any) -> RewardSettings:
    """The settings of the score of this name, such as "pickscore" or "hpsv2.1", with these changes. Raises UserError where there is none such."""
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
    """The prompts of `count` images. Raises UserError, naming the reward, where the condition has none."""
    from distill.config.errors import UserError

    prompts = () if cond.text is None else cond.text.prompts
    if not prompts:
        raise UserError(
            f"{reward}: reads prompts, and the images come without; expected a model that takes prompts"
        )
    if len(prompts) != count:
        raise ValueError(f"{reward}: {len(prompts)} prompts for {count} images")
    return prompts


def labels_of(cond: Condition, count: int, reward: str) -> Tensor:
    """The labels of images, (b,), each below `count`. Raises UserError, naming the reward, where one has none, or another."""
    from distill.config.errors import UserError

    if cond.label is None:
        raise UserError(f"{reward}: reads labels, and the images come without; expected a model with classes")
    outside = cond.label[(cond.label < 0) | (cond.label >= count)]
    if len(outside):
        raise UserError(
            f"{reward}: an image has label {int(outside[0])}; expected 0 to {count - 1}, which are the classifier's"
        )
    return cond.label
