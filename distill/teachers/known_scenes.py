"""A mixture of known scenes, seen from a ring of cameras: an exact teacher of text to 3D, for experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from distill.config.errors import did_you_mean
from distill.networks.scene.cameras import Ring
from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.networks.exact.scene_mixture import SceneMixture

SCENES = ("snowman", "house", "tree", "boat")


class Settings(TeacherSettings):
    """Images of known scenes plus Gaussian noise, whose score is exact: the label says from which camera."""

    name: Literal["known_scenes"] = "known_scenes"
    scenes: tuple[str, ...] = Field(("snowman", "house", "tree"), min_length=1)
    """Scenes of the mixture, equally likely: `snowman`, `house`, `tree`, `boat`."""
    cameras: Ring = Ring()
    """Cameras, one for each label. The student needs the same."""
    size: int = Field(24, ge=2)
    """Height and width of the images in pixels."""
    std: float = Field(0.05, gt=0)
    """Standard deviation of the images' noise, for values in [-1, 1]. A smaller one is a sharper teacher."""
    samples: int = Field(64, ge=2)
    """Points along each ray of the true images."""

    @field_validator("scenes")
    @classmethod
    def _are_known(cls, scenes: tuple[str, ...]) -> tuple[str, ...]:
        for scene in scenes:
            if scene not in SCENES:
                raise ValueError(f"'{scene}' is no scene{did_you_mean(scene, SCENES)}")
        return scenes

    def load(self) -> SceneMixture:
        """Render the scenes, and build their mixture, in float32 on the CPU."""
        from distill.diffusion.schedules import EDM
        from distill.networks.exact.scene_mixture import SceneMixture

        return SceneMixture(self.scenes, self.cameras, self.size, self.std, self.samples, EDM())

    def load_without_weights(
        self, min_component_parameters: int, prompts: Path | None = None
    ) -> SceneMixture:
        """Build the mixture as it is: it has no weights."""
        return self.load()
