"""Terms that judge a scene by renders of its own: their settings, and the renders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from distill.objectives.term import TermContext, TermInputs, TermSettings

if TYPE_CHECKING:
    from distill.networks.scene.renderer import Render


class SceneTermSettings(TermSettings):
    """Settings of terms that render the batch's views of a scene once more. Each such term renders them."""

    size: int = Field(64, ge=2)
    """Height and width, in pixels, of the renders that the term reads. The default shows the shapes of usual
    scenes; time and memory grow with its square, and a smaller one misses thin parts."""

    def check(self, run: TermContext) -> None:
        if run.student_network != "scene":
            raise ValueError(
                f"terms: {self.name} needs a scene as the student; expected generator.network scene, "
                f"found {run.student_network}"
            )


def render_views(inputs: TermInputs, size: int, with_normals: bool = False) -> Render:
    """Render the views of a batch, of the same scenes from the same cameras, at size x size pixels."""
    from distill.networks.scene.scene import SceneGenerator

    if not isinstance(inputs.generator, SceneGenerator) or inputs.z is None:
        raise ValueError("terms: a term that renders needs a scene as the student, and its noise")
    return inputs.generator.rendered(inputs.z, size, size, with_normals)
