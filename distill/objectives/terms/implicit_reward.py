"""The implicit reward of Diff-Instruct++ (Luo 2024) and Diff-Instruct*: guidance as a term of its own.

    L = alpha_cfg sg[s_p(x_t) - s_p(x_t|c)] . x_t

Its gradient with respect to x_t is that of -alpha_cfg log p_t(c|x_t).
The term rewards samples in which the teacher recognises the condition. With the reverse KL of
`distribution_matching`, a teacher guided by s inside the objective has the same gradient as an objective
without guidance and this term with weight s - 1 (docs/mathematics.md).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from distill.config.errors import UserError
from distill.objectives.settings import Weighting
from distill.objectives.term import Term, TermInputs, TermSettings

if TYPE_CHECKING:
    from distill.types import ImageModel, LossOutput


class Settings(TermSettings):
    """Moves samples to where the teacher recognises the condition; `weight` is alpha_cfg."""

    needs_both_sides: ClassVar[bool] = True
    name: Literal["implicit_reward"] = "implicit_reward"
    weighting: Weighting = "dmd"

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
