"""The usual student: the teacher itself, evaluated at the entry noise level of each of its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.students import FakeNetworkSettings, StudentSettings

if TYPE_CHECKING:
    from distill.networks.few_step_generator import FewStepGenerator
    from distill.types import Denoiser, Generator


class Student(StudentSettings):
    """A copy of the teacher, all of whose weights learn."""

    name: Literal["copy"] = "copy"

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> FewStepGenerator:
        """The copy. Raises UserError where the teacher has no weights."""
        from distill.networks.few_step_generator import FewStepGenerator

        if not any(True for _ in teacher.parameters()):
            raise UserError(
                "generator.network: a copy of this teacher has no weights to train; expected mlp or affine"
            )
        return FewStepGenerator(learning_copy(teacher), *noise_to_signal)


class FakeScore(FakeNetworkSettings):
    """A copy of the teacher, all of whose weights learn."""

    name: Literal["copy"] = "copy"

    def build(self, teacher: Denoiser, generator: Generator) -> Denoiser:
        """The copy. Raises UserError where the teacher has no weights."""
        if not any(True for _ in teacher.parameters()):
            raise UserError(
                "fake.network: a copy of this teacher has no weights to train; expected mlp or exact"
            )
        return learning_copy(teacher)


def learning_copy(teacher: Denoiser) -> Denoiser:
    """A copy all of whose weights learn, in float32 where the teacher's are held in less."""
    import copy

    import torch

    copied = copy.deepcopy(teacher).requires_grad_(True)
    for parameter in copied.parameters():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return copied
