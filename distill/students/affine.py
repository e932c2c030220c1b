"""An affine map of Gaussian noise: a student whose divergence from the teacher is known exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.students import StudentSettings

if TYPE_CHECKING:
    from distill.networks.exact.affine import Affine
    from distill.types import Denoiser


class Student(StudentSettings):
    """An affine map for vectors: mean + L z for each label, with z from the standard normal."""

    name: Literal["affine"] = "affine"

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> Affine:
        """Make the map. It takes one step and has no entry noise level: the value given is not used."""
        from distill.networks.exact.affine import Affine

        if len(noise_to_signal) > 1:
            raise UserError(f"generator.steps: is {len(noise_to_signal)}; expected 1 for affine")
        if len(teacher.image_shape) != 1:
            raise UserError(
                f"generator.network: affine is for vectors; expected copy for images of {teacher.image_shape}"
            )
        return Affine(teacher.image_shape[0], teacher.label_count)
