"""A fake score that shares the teacher's weights: only low-rank adapters learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.fake_scores import FakeNetworkSettings
from distill.students.lora import LoRASizes

if TYPE_CHECKING:
    from distill.models.lora import LoRANetwork
    from distill.types import Denoiser, Generator


class Settings(LoRASizes, FakeNetworkSettings):
    """The teacher with low-rank adapters, which alone learn."""

    name: Literal["lora"] = "lora"

    def build(self, teacher: Denoiser, generator: Generator) -> LoRANetwork:
        """The network. Raises UserError where the teacher is no network of diffusers."""
        return self.adapt(teacher, "fake.network")
