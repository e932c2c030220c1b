"""A student that shares the teacher's weights: only low-rank adapters learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.config.errors import UserError
from distill.config.settings import Settings
from distill.students import FakeNetworkSettings, StudentSettings

if TYPE_CHECKING:
    from distill.networks.diffusers.lora import LoRANetwork
    from distill.networks.few_step_generator import FewStepGenerator
    from distill.types import Denoiser, Generator


class LoRASizes(Settings):
    """Low-rank adapters of a teacher of diffusers, whose own weights all networks share."""

    rank: int = Field(64, ge=1)
    """Rank of the adapters."""
    alpha: float | None = Field(None, gt=0)
    """Rank times their scale; null takes the rank, a scale of 1."""
    targets: tuple[str, ...] | None = Field(None, min_length=1)
    """Layers to adapt, by the ends of their names, such as to_q; null takes all linear layers within blocks."""

    def adapt(self, teacher: Denoiser, key: str) -> LoRANetwork:
        """The teacher with adapters that change nothing yet. Raises UserError, naming the key, where it is no network of diffusers."""
        from distill.networks.diffusers.denoiser import DiffusersNetwork
        from distill.networks.diffusers.lora import LoRANetwork

        if not isinstance(teacher, DiffusersNetwork):
            raise UserError(f"{key}: lora is for teachers of diffusers; expected copy")
        return LoRANetwork(teacher, self.rank, self.alpha, self.targets)


class Student(LoRASizes, StudentSettings):
    """The teacher with low-rank adapters, which alone learn."""

    name: Literal["lora"] = "lora"

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> FewStepGenerator:
        """The network, entered at these noise levels. Raises UserError where the teacher is no network of diffusers."""
        from distill.networks.few_step_generator import FewStepGenerator

        return FewStepGenerator(self.adapt(teacher, "generator.network"), *noise_to_signal)


class FakeScore(LoRASizes, FakeNetworkSettings):
    """The teacher with low-rank adapters, which alone learn."""

    name: Literal["lora"] = "lora"

    def build(self, teacher: Denoiser, generator: Generator) -> LoRANetwork:
        """The network. Raises UserError where the teacher is no network of diffusers."""
        return self.adapt(teacher, "fake.network")


def alternatives(teacher: Denoiser) -> dict[str, tuple[StudentSettings, FakeNetworkSettings]]:
    """Return students and fake scores for this teacher that train all weights or adapters, by what they train.

    There is no choice, and the result is empty, where the teacher takes no adapters.
    """
    from distill.networks.diffusers.denoiser import DiffusersNetwork
    from distill.students import copy

    if not isinstance(teacher, DiffusersNetwork):
        return {}
    return {"all weights": (copy.Student(), copy.FakeScore()), "LoRA": (Student(), FakeScore())}
