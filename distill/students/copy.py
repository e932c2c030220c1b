"""The usual student: the teacher itself, evaluated once at its entry noise level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.errors import UserError
from distill.students import StudentSettings

if TYPE_CHECKING:
    from distill.models.one_step import OneStepGenerator
    from distill.types import Denoiser


class Settings(StudentSettings):
    """A copy of the teacher, all of whose weights learn."""

    name: Literal["copy"] = "copy"

    def build(self, teacher: Denoiser, init_noise_to_signal: float) -> OneStepGenerator:
        """The copy. Raises UserError where the teacher has no weights."""
        from distill.models.one_step import OneStepGenerator

        if not any(True for _ in teacher.parameters()):
            raise UserError("generator.network: a copy of this teacher has no weights to train; expected mlp or affine")
        return OneStepGenerator(learning_copy(teacher), init_noise_to_signal)


def learning_copy(teacher: Denoiser) -> Denoiser:
    """A copy all of whose weights learn, in float32 where the teacher's are held in less."""
    import copy

    import torch

    copied = copy.deepcopy(teacher).requires_grad_(True)
    for parameter in copied.parameters():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return copied
