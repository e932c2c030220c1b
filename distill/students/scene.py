"""A scene in three dimensions, or several: text to 3D (Poole et al. 2022; Wang et al. 2023; Uni-Instruct)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.networks.scene.sizes import SceneSizes
from distill.students import RunOfStudent, StudentSettings

if TYPE_CHECKING:
    from distill.networks.scene.scene import SceneGenerator
    from distill.types import Denoiser


class Student(SceneSizes, StudentSettings):
    """Scenes whose images the teacher judges from all sides: the noise chooses the camera."""

    name: Literal["scene"] = "scene"

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> SceneGenerator:
        """Make the scenes before training, each a soft ball with random features."""
        from distill.networks.exact.scene_mixture import SceneMixture
        from distill.networks.scene.scene import SceneGenerator

        shape, views = teacher.pixel_shape, self.cameras.view_count
        if len(shape) != 3:
            raise UserError(f"generator.network: scene needs a teacher of images; expected mlp for {shape}")
        if teacher.label_count not in (0, views):
            raise UserError(
                f"generator.network.cameras: have {views} views; "
                f"expected {teacher.label_count}, one for each label of the teacher"
            )
        if isinstance(teacher, SceneMixture) and self.cameras != teacher.cameras:
            raise UserError(
                "generator.network.cameras: differ from teacher.cameras, which its labels number; "
                "expected the same"
            )
        sizes = SceneSizes(**self.model_dump(include=set(SceneSizes.model_fields)))
        return SceneGenerator(sizes, shape, teacher.image_shape, teacher.codec)

    def check(self, run: RunOfStudent) -> None:
        """Refuse runs that need an image for each noise, or real images without the views of the student."""
        if run.student_steps > 1:
            raise ValueError(f"generator.steps: is {run.student_steps}; expected 1 for a scene")
        if run.needs_pairs:
            raise ValueError("terms: regression needs the teacher's image of each noise; a scene has none")
        if run.is_sharded:
            raise ValueError("sharding: does not go with generator.network scene; expected strategy: none")
        if run.shows_data:
            raise ValueError(
                "discriminator.real: data have no views; "
                "expected teacher, whose samples have them, for a scene"
            )
        views = self.cameras.view_count
        if run.sample_count is not None and run.sample_count < views:
            raise ValueError(
                f"teacher_samples.count: is {run.sample_count}; expected at least {views}, one for each view"
            )
        if run.prompt_source not in (None, "views"):
            raise ValueError(f"prompts: {run.prompt_source} do not say the view; expected views for a scene")
        if run.prompt_source == "views" and self.cameras.name != "orbit":
            raise ValueError(
                f"generator.network.cameras: {self.cameras.name} has no words; expected orbit with prompts"
            )
