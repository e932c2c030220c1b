"""A small residual network for vectors, trained from random weights."""

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
    """Sizes of a residual multilayer perceptron for vectors."""

    width: int = Field(64, ge=4)
    """Hidden units of each layer. More fit finer detail, and cost more: time grows with width^2."""
    blocks: int = Field(3, ge=1)
    """Residual blocks. Time grows in proportion."""
    sigma_data: float = Field(1.0, gt=0)
    """Standard deviation of the data, which EDM's preconditioning scales inputs and outputs by (Karras et al.
    2022, table 1). The default fits vectors of unit scale."""

    def build_network(self, teacher: Denoiser, key: str) -> MLP:
        """Make a network with random weights for the teacher's vectors and labels.

        `key` is the setting that messages name.
        """
        from distill.networks.mlp import MLP, MLPConfig

        if len(teacher.image_shape) != 1:
            raise UserError(f"{key}: mlp is for vectors; expected copy for images of {teacher.image_shape}")
        dimension = teacher.image_shape[0]
        config = MLPConfig(dimension, teacher.label_count, self.width, self.blocks, self.sigma_data)
        return MLP(config, teacher.schedule)


class Student(MLPSizes, StudentSettings):
    """A residual network for vectors that begins with random weights."""

    name: Literal["mlp"] = "mlp"

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> FewStepGenerator:
        """Make the network, and evaluate it at these sigma/alpha, one for each step."""
        from distill.networks.few_step_generator import FewStepGenerator

        return FewStepGenerator(self.build_network(teacher, "generator.network"), *noise_to_signal)


class FakeScore(MLPSizes, FakeNetworkSettings):
    """A residual network for vectors that begins with random weights, and needs some `fake.warmup_steps`."""

    name: Literal["mlp"] = "mlp"

    def build(self, teacher: Denoiser, generator: Generator) -> MLP:
        """Make the network."""
        return self.build_network(teacher, "fake.network")
