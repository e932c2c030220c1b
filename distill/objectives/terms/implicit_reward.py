"""Guidance outside the reference score: the implicit reward of Diff-Instruct++ (Luo 2024) and Diff-Instruct*.

    L = alpha_cfg sg[s_p(x_t) - s_p(x_t|c)] . x_t,     whose gradient with respect to x_t is that of -alpha_cfg log p_t(c|x_t)

It asks the sample to be recognised by the teacher as what the condition says. With the reverse KL of `distribution_matching`, a teacher guided by s
inside the objective, and this term with weight s - 1 beside an objective without guidance, have the same gradient (docs/mathematics.md).
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
    """Moves samples to where the teacher's conditional score is higher than its unconditional one; `weight` is alpha_cfg, as is."""

    needs_sides: ClassVar[bool] = True
    name: Literal["implicit_reward"] = "implicit_reward"
    weighting: Weighting = "dmd"

    def check(self, model: ImageModel) -> None:
        """Raise UserError for a model without a condition."""
        if not (model.label_count or model.takes_text):
            raise UserError("terms: implicit_reward needs a condition; expected a teacher of labels or text")

    def build(self) -> Term:
        """The term as a function of the teacher's two sides."""
        return partial(implicit_reward, weighting=self.weighting)


def implicit_reward(inputs: TermInputs, weighting: Weighting = "dmd") -> LossOutput:
    """-sg[s_p(x_t|c) - s_p(x_t)] . x_t per sample and per dimension, (b,), in the units of the objective's weighting.

    It is zero for samples without a condition. Raises ValueError where the teacher's sides are not there.
    """
    from distill.objectives.weighting import descent
    from distill.types import LossOutput

    if inputs.sides is None:
        raise ValueError(
            "terms: implicit_reward needs the teacher's predictions with a condition and without one"
        )
    difference = inputs.sides.conditional - inputs.sides.unconditional
    loss = descent(inputs.scores, difference, weighting) / difference[0].numel()
    return LossOutput(loss, {"side_gap": difference.square().flatten(1).mean(1)})
