"""Sparsity of a scene: the mean of sqrt(opacity^2 + 0.01) over rays, as in threestudio (Guo et al. 2023).

It pushes space to be empty that the images do not need, such as fog between the camera and the object.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from distill.objectives.scene_term import SceneTermSettings, render_views
from distill.objectives.term import Term, TermInputs

if TYPE_CHECKING:
    from distill.types import LossOutput

SOFTENING = 0.01
"""Square of the opacity below which the loss is nearly flat, so that clear rays are not pushed."""


class Settings(SceneTermSettings):
    """Opacity of a scene, averaged over its images, which pushes fog to be empty space."""

    name: Literal["sparsity"] = "sparsity"

    def build(self) -> Term:
        """Return the term as a function of the scene and the noise."""
        return partial(sparsity, size=self.size)


def sparsity(inputs: TermInputs, size: int = 64) -> LossOutput:
    """Return the mean of sqrt(opacity^2 + 0.01) over the rays of each view, (b,)."""
    from distill.types import LossOutput

    opacity = render_views(inputs, size).opacity.flatten(1)
    loss = (opacity.square() + SOFTENING).sqrt().mean(1)
    return LossOutput(loss, {"opacity": opacity.detach().mean(1)})
