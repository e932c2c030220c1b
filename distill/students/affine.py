"""A student that is Gaussian: the simplest whose divergence to the teacher is known in any dimension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.students import StudentSettings

if TYPE_CHECKING:
    from distill.networks.exact.affine import Affine
    from distill.types import Denoiser


class Student(StudentSettings):
    """mean + L z for each label, from the standard normal; it has no entry noise level."""

    name: Literal["affine"] = "affine"

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> Affine:
        """The map. Raises UserError where the teacher makes images, or it is to take several steps."""
        from distill.networks.exact.affine import Affine

        if len(noise_to_signal) > 1:
            raise UserError(f"generator.steps: is {len(noise_to_signal)}; expected 1 for affine")
        if len(teacher.image_shape) != 1:
            raise UserError(
                f"generator.network: affine is for vectors; expected copy for images of {teacher.image_shape}"
            )
        return Affine(teacher.image_shape[0], teacher.label_count)
