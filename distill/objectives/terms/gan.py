"""The generator's adversarial loss: softplus(-logit), the non-saturating loss (Goodfellow et al. 2014)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from distill.objectives.term import Term, TermContext, TermInputs, TermSettings

if TYPE_CHECKING:
    from distill.types import LossOutput


class Settings(TermSettings):
    """Adversarial loss on the noised student sample."""

    needs_discriminator: ClassVar[bool] = True
    name: Literal["gan"] = "gan"
    weighting: Literal["none", "dmd"] = "none"
    """Weighting of each sample's loss. `none` leaves it as it is; `dmd` divides it by the sample's mean
    |x_0 - teacher|, as SiDA and Uni-Instruct do, and logs the mean factor as gan/factor."""
    own_noise: bool = False
    """Add fresh noise to the sample for the discriminator, at levels of `fake.noise_levels`, as DMD2 does.
    `false` shows the discriminator the same x_t as the scores; `true` costs another forward and backward pass
    of the network that it reads."""

    @property
    def adds_own_noise(self) -> bool:
        return self.own_noise

    def check(self, run: TermContext) -> None:
        if not run.has_discriminator:
            raise ValueError("terms: gan needs a discriminator; expected settings under 'discriminator'")

    def build(self) -> Term:
        """Return the term as a function of the discriminator's logits."""
        return Gan(self.weighting)


@dataclasses.dataclass(frozen=True)
class Gan:
    """The adversarial loss with its weighting."""

    weighting: Literal["none", "dmd"] = "none"

    def __call__(self, inputs: TermInputs) -> LossOutput:
        """Return softplus(-logit) per sample, (b,): the mean over positions if there is a logit for each."""
        from torch.nn.functional import softplus

        from distill.objectives.gradients.weighting import sample_weight
        from distill.types import LossOutput, per_sample

        if inputs.logits is None:
            raise ValueError("terms: gan needs a discriminator")
        loss = per_sample(softplus(-inputs.logits))
        if self.weighting == "none":
            return LossOutput(loss)
        factor = sample_weight(inputs.scores, "dmd")
        return LossOutput(factor * loss, {"factor": factor})
