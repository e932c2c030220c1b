"""The generator's side of the adversarial game: softplus(-logit), the non-saturating loss (Goodfellow et al. 2014)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from distill.objectives.term import Term, TermInputs, TermSettings

if TYPE_CHECKING:
    from distill.types import LossOutput


class Settings(TermSettings):
    """Adversarial loss on the noised student sample."""

    needs_discriminator: ClassVar[bool] = True
    name: Literal["gan"] = "gan"
    weighting: Literal["none", "dmd"] = "none"
    """`dmd` divides each sample's loss by its mean |x - teacher|, as SiDA and Uni-Instruct do; the run logs the mean factor as gan/factor."""
    own_noise: bool = False
    """Show the discriminator the sample under noise of its own, at levels of `fake.noise_levels`, as DMD2 does; false shows it what the
    scores see. Costs another pass of the network that the discriminator reads, forward and back."""

    @property
    def noises_anew(self) -> bool:
        """The discriminator sees the sample under noise of its own."""
        return self.own_noise

    def build(self) -> Term:
        """The term as a function of the discriminator's logits."""
        return Gan(self.weighting)


@dataclasses.dataclass(frozen=True)
class Gan:
    """The loss under its weighting."""

    weighting: Literal["none", "dmd"] = "none"

    def __call__(self, inputs: TermInputs) -> LossOutput:
        """softplus(-logit) per sample, the mean over positions where there is a logit for each. Raises ValueError without a discriminator."""
        from torch.nn.functional import softplus

        from distill.objectives.weighting import sample_weight
        from distill.types import LossOutput, per_sample

        if inputs.logits is None:
            raise ValueError("terms: gan needs a discriminator")
        loss = per_sample(softplus(-inputs.logits))
        if self.weighting == "none":
            return LossOutput(loss)
        factor = sample_weight(inputs.scores, "dmd")
        return LossOutput(factor * loss, {"factor": factor})
