"""A small residual network for vectors, trained from random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.networks.sizes import MLPSizes
from distill.students import FakeNetworkSettings, StudentSettings

if TYPE_CHECKING:
    from distill.networks.few_step_generator import FewStepGenerator
    from distill.networks.mlp import MLP
    from distill.types import Denoiser, Generator


class MLPSettings(MLPSizes):
    """A residual multilayer perceptron for the vectors and labels of a teacher."""

    def build_network(self, teacher: Denoiser, key: str) -> MLP:
        """Make a network with random weights for the teacher's vectors and labels.

        `key` is the setting that messages name.
        """
        from distill.networks.mlp import MLP, MLPConfig

        if len(teacher.image_shape) != 1:
            raise UserError(f"{key}: mlp is for vectors; expected copy for images of {teacher.image_shape}")
        dimension = teacher.image_shape[0]
        sizes = MLPSizes(**self.model_dump(include=set(MLPSizes.model_fields)))
        config = MLPConfig(dimension, teacher.label_count, sizes)
        return MLP(config, teacher.schedule)


class Student(MLPSettings, StudentSettings):
    """A residual network for vectors that begins with random weights."""

    name: Literal["mlp"] = "mlp"

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> FewStepGenerator:
        """Make the network, and evaluate it at these sigma/alpha, one for each step."""
        from distill.networks.few_step_generator import FewStepGenerator

        return FewStepGenerator(self.build_network(teacher, "generator.network"), *noise_to_signal)


class FakeScore(MLPSettings, FakeNetworkSettings):
    """A residual network for vectors that begins with random weights, and needs some `fake.warmup_steps`."""

    name: Literal["mlp"] = "mlp"

    def build(self, teacher: Denoiser, generator: Generator) -> MLP:
        """Make the network."""
        return self.build_network(teacher, "fake.network")
