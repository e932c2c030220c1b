"""A residual network for vectors, entered at noise levels like a copy of the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.config.errors import UserError
from distill.config.settings import Settings
from distill.students import FakeNetworkSettings, StudentSettings

if TYPE_CHECKING:
    from distill.networks.few_step_generator import FewStepGenerator
    from distill.networks.mlp import MLP
    from distill.types import Denoiser, Generator


class MLPSizes(Settings):
    """Sizes of a residual network for vectors."""

    width: int = Field(64, ge=4)
    """Hidden units."""
    blocks: int = Field(3, ge=1)
    """Residual blocks."""
    sigma_data: float = Field(1.0, gt=0)
    """Standard deviation of the data, for EDM's preconditioning."""

    def build_network(self, teacher: Denoiser, key: str) -> MLP:
        """An untrained network for the teacher's vectors and labels. Raises UserError, naming the key, where the teacher makes images."""
        from distill.networks.mlp import MLP, MLPConfig

        if len(teacher.image_shape) != 1:
            raise UserError(f"{key}: mlp is for vectors; expected copy for images of {teacher.image_shape}")
        return MLP(
            MLPConfig(teacher.image_shape[0], teacher.label_count, self.width, self.blocks, self.sigma_data),
            teacher.schedule,
        )


class Student(MLPSizes, StudentSettings):
    """A residual network for vectors, from random weights."""

    name: Literal["mlp"] = "mlp"

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> FewStepGenerator:
        """The network, entered at these noise levels. Raises UserError where the teacher makes images."""
        from distill.networks.few_step_generator import FewStepGenerator

        return FewStepGenerator(self.build_network(teacher, "generator.network"), *noise_to_signal)


class FakeScore(MLPSizes, FakeNetworkSettings):
    """A residual network for vectors; give it some `fake.warmup_steps`, since it begins with random weights."""

    name: Literal["mlp"] = "mlp"

    def build(self, teacher: Denoiser, generator: Generator) -> MLP:
        """The network. Raises UserError where the teacher makes images."""
        return self.build_network(teacher, "fake.network")
