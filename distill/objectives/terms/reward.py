"""The explicit reward of Diff-Instruct++ and Diff-Instruct*: -alpha_rew R(decode(x_0), c), differentiated
through the decoder and the reward.

The papers add alpha_rew R to an objective that sums over the dimensions of a sample; this engine's objective
is their mean. So alpha_rew is this term's `weight` times the number of dimensions: 100 on SDXL's 4 x 128 x
128 latents is a weight of 1.5e-3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.config.errors import UserError
from distill.config.settings import choice_of
from distill.objectives.term import Term, TermSettings

if TYPE_CHECKING:
    from distill.types import ImageModel


class Settings(TermSettings):
    """Maximises rewards of the decoded sample; `weight` is alpha_rew over the number of its dimensions."""

    name: Literal["reward"] = "reward"
    rewards: tuple[choice_of("rewards"), ...] = Field(min_length=1)  # type: ignore[valid-type]
    """The rewards to add up. Each has a weight and bounds of its own."""
    downscale: int = Field(1, ge=1)
    """Whole factor by which to shrink a sample, in the model's own space, before it is decoded. 1 keeps its
    size; 2 takes a quarter of the decoder's memory, and the reward sees a smaller image."""
    crop: int | None = Field(None, ge=1)
    """Height and width in pixels of a random crop of each sample, after shrinking, that is decoded and
    scored. null takes the whole sample; a smaller crop needs less memory."""
    checkpoint_decoder: bool = True
    """Decode one sample at a time, and recompute it in the backward pass, so that the decoder's activations
    are held for one sample only. `false` is faster and needs more memory."""

    @property
    def trained_features(self) -> tuple[str, ...]:
        return tuple(sorted({name for reward in self.rewards for name in reward.trained_features}))

    def check_model(self, model: ImageModel) -> None:
        if len(model.image_shape) != 3:
            raise UserError("terms: reward judges images; expected a teacher of images")
        factor = model.pixel_shape[1] // model.image_shape[1]
        for side in model.image_shape[1:]:
            if side % self.downscale:
                raise UserError(
                    f"terms: reward's downscale is {self.downscale}; expected a divisor of {side}, "
                    "the samples' own size"
                )
            pixels = side // self.downscale * factor
            if self.crop is not None and (self.crop % factor or self.crop > pixels):
                raise UserError(
                    f"terms: reward's crop is {self.crop}; expected a multiple of {factor} up to {pixels}"
                )

    def build(self) -> Term:
        """Return the term with its rewards loaded."""
        from distill.objectives.reward_loss import RewardTerm, WeightedReward

        rewards = [
            WeightedReward(reward.name, reward.load(), reward.weight, reward.bounds)
            for reward in self.rewards
        ]
        return RewardTerm(rewards, self.downscale, self.crop, self.checkpoint_decoder)

    def meta(self) -> Term:
        """Return the term without the networks of its rewards, so that the decoder alone is counted."""
        from distill.objectives.reward_loss import Brightness, RewardTerm, WeightedReward

        return RewardTerm(
            [WeightedReward("brightness", Brightness())], self.downscale, self.crop, self.checkpoint_decoder
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        return tuple(
            f"{reward.name} ({reward.memory})" if reward.memory else reward.name for reward in self.rewards
        )
