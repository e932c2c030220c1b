"""Orientation of a scene's surfaces: sum_i w_i max(0, n_i . d)^2 of each ray (Verbin et al. 2022, Ref-NeRF).

w_i are the weights of the points along a ray of direction d, without a gradient as in DreamFusion (Poole et
al. 2022), so that the scene does not vanish; n_i are the normals. A normal that faces away from the camera
belongs to the back of something, which should be hidden, so it pushes fog to become a surface.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from distill.objectives.scene_term import SceneTermSettings, render_views
from distill.objectives.term import Term, TermInputs

if TYPE_CHECKING:
    from distill.types import LossOutput


class Settings(SceneTermSettings):
    """Visible normals of a scene that face away from the camera, which pushes fog to become surfaces.

    The normals take three more evaluations of the density at each point.
    """

    name: Literal["orientation"] = "orientation"

    def build(self) -> Term:
        """Return the term as a function of the scene and the noise."""
        return partial(orientation, size=self.size)


def orientation(inputs: TermInputs, size: int = 64) -> LossOutput:
    """Return the mean of sum_i w_i max(0, n_i . d)^2 over the rays of each view, (b,)."""
    from distill.types import LossOutput

    return LossOutput(render_views(inputs, size, with_normals=True).facing_away.flatten(1).mean(1))
