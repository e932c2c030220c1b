"""A residual network for vectors, from random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.fake_scores import FakeNetworkSettings
from distill.students.mlp import MLPSizes

if TYPE_CHECKING:
    from distill.models.mlp import MLP
    from distill.types import Denoiser, Generator


class Settings(MLPSizes, FakeNetworkSettings):
    """A residual network for vectors; give it some `fake.warmup_steps`, since it begins with random weights."""

    name: Literal["mlp"] = "mlp"

    def build(self, teacher: Denoiser, generator: Generator) -> MLP:
        """The network. Raises UserError where the teacher makes images."""
        return self.build_network(teacher, "fake.network")
