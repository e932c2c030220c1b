"""Entropy of a scene's opacity: -o log o - (1 - o) log(1 - o) of each ray, as in threestudio.

It pushes each ray to be clear or opaque, so that a scene has surfaces instead of fog.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from distill.objectives.scene_term import SceneTermSettings, render_views
from distill.objectives.term import Term, TermInputs

if TYPE_CHECKING:
    from distill.types import LossOutput

MARGIN = 1e-3
"""Distance from 0 and 1 to which opacities are clamped; beyond it they get no gradient, which would be
infinite."""


class Settings(SceneTermSettings):
    """Entropy of a scene's opacity, in nats, which pushes rays to be clear or opaque."""

    name: Literal["opacity_entropy"] = "opacity_entropy"

    def build(self) -> Term:
        """Return the term as a function of the scene and the noise."""
        return partial(opacity_entropy, size=self.size)


def opacity_entropy(inputs: TermInputs, size: int = 64) -> LossOutput:
    """Return the mean binary entropy of the opacities of each view's rays, (b,), at most log 2."""
    from distill.types import LossOutput

    opacity = render_views(inputs, size).opacity.flatten(1).clamp(MARGIN, 1 - MARGIN)
    entropy = -opacity * opacity.log() - (1 - opacity) * (-opacity).log1p()
    return LossOutput(entropy.mean(1))
