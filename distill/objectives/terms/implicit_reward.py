"""The implicit reward of Diff-Instruct++ (Luo 2024) and Diff-Instruct*: guidance as a term of its own.

    L = alpha_cfg sg[s_p(x_t) - s_p(x_t|c)] . x_t

Its gradient with respect to x_t is that of -alpha_cfg log p_t(c|x_t).
The term rewards samples in which the teacher recognises the condition. With the reverse KL of
`distribution_matching`, a teacher guided by s inside the objective has the same gradient as an objective
without guidance and this term with weight s - 1 (docs/mathematics.md).

Decoupled DMD (Liu et al. 2025, arXiv:2511.22677, eq. 8) splits DMD's gradient in this way into augmentation
by guidance, which turns the teacher into a student of few steps, and distribution matching, which keeps that
stable. The levels of the matching cover the whole range; those of this term are its own, and below the one at
which the student's step entered: what lies above is decided already (section 4.1 and algorithm 1 there).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import model_validator

from distill.config.errors import UserError
from distill.diffusion.noise_levels import NoiseLevels
from distill.objectives.settings import Weighting
from distill.objectives.term import Term, TermInputs, TermSettings

if TYPE_CHECKING:
    from distill.types import ImageModel, LossOutput


class Settings(TermSettings):
    """Moves samples to where the teacher recognises the condition; `weight` is alpha_cfg."""

    needs_both_sides: ClassVar[bool] = True
    name: Literal["implicit_reward"] = "implicit_reward"
    weighting: Weighting = "dmd"
    noise_levels: NoiseLevels | None = None
    """Noise levels of its own, drawn apart from the objective's, as in Decoupled DMD. They cost another pass
    of the teacher, on twice the batch. null, the default, takes the noise of the objective."""
    below_step: bool = False
    """Keep these levels below the one at which the student's last step entered, as Decoupled DMD does for a
    student of several steps: the layout that the earlier steps have decided is not guided again. The first
    step, which enters pure noise, has all of them. Needs `noise_levels`."""

    @model_validator(mode="after")
    def _limits_its_own_levels(self) -> Settings:
        if self.below_step and self.noise_levels is None:
            raise ValueError("below_step: goes with noise_levels; expected a distribution")
        return self

    @property
    def adds_own_noise(self) -> bool:
        return self.noise_levels is not None

    @property
    def own_noise_levels(self) -> NoiseLevels | None:
        return self.noise_levels

    @property
    def stays_below_step(self) -> bool:
        return self.below_step

    def check_model(self, model: ImageModel) -> None:
        if not (model.label_count or model.takes_text):
            raise UserError("terms: implicit_reward needs a condition; expected a teacher of labels or text")

    def build(self) -> Term:
        """Return the term as a function of the teacher's two predictions."""
        return partial(implicit_reward, weighting=self.weighting)


def implicit_reward(inputs: TermInputs, weighting: Weighting = "dmd") -> LossOutput:
    """Return -sg[s_p(x_t|c) - s_p(x_t)] . x_t per sample and per dimension, (b,).

    It is in the units of the objective's weighting, and zero for samples without a condition.
    """
    from distill.objectives.gradients.weighting import descent
    from distill.types import LossOutput

    conditional, unconditional = inputs.teacher.conditional, inputs.teacher.unconditional
    if conditional is None or unconditional is None:
        raise ValueError(
            "terms: implicit_reward needs the teacher's predictions with a condition and without one"
        )
    difference = conditional - unconditional
    loss = descent(inputs.scores, difference, weighting) / difference[0].numel()
    return LossOutput(loss, {"side_gap": difference.square().flatten(1).mean(1)})
