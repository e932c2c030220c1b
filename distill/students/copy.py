"""A trainable copy of the teacher: the usual student, and the usual fake score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.students import FakeNetworkSettings, StudentSettings

if TYPE_CHECKING:
    from torch import nn

    from distill.networks.few_step_generator import FewStepGenerator
    from distill.types import Denoiser, Generator


class Student(StudentSettings):
    """A copy of the teacher, all of whose weights are trainable."""

    name: Literal["copy"] = "copy"

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> FewStepGenerator:
        """Copy the teacher, and evaluate the copy at these sigma/alpha, one for each step."""
        from distill.networks.few_step_generator import FewStepGenerator

        if not has_parameters(teacher):
            raise UserError(
                "generator.network: a copy of this teacher has no weights to train; expected mlp or affine"
            )
        return FewStepGenerator(trainable_copy(teacher, "generator.network"), *noise_to_signal)


class FakeScore(FakeNetworkSettings):
    """A copy of the teacher, all of whose weights are trainable."""

    name: Literal["copy"] = "copy"

    def build(self, teacher: Denoiser, generator: Generator) -> Denoiser:
        """Copy the teacher."""
        if not has_parameters(teacher):
            raise UserError(
                "fake.network: a copy of this teacher has no weights to train; expected mlp or exact"
            )
        return trainable_copy(teacher, "fake.network")


def has_parameters(network: nn.Module) -> bool:
    """Tell a network with weights from one that is known in closed form."""
    return len(list(network.parameters())) > 0


def trainable_copy(teacher: Denoiser, key: str) -> Denoiser:
    """Copy a network with all weights trainable, in at least float32: a teacher may be loaded in bfloat16.

    `key` is the setting that messages name.
    """
    if teacher.is_quantized:
        raise UserError(f"{key}: is a copy of a quantised teacher, whose weights are frozen; expected lora")
    import copy

    import torch

    copied = copy.deepcopy(teacher).requires_grad_(True)
    for parameter in copied.parameters():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return copied
