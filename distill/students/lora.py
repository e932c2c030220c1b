"""The teacher's frozen weights with trainable low-rank adapters (LoRA, Hu et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.config.errors import UserError
from distill.config.settings import Settings
from distill.students import FakeNetworkSettings, StudentSettings

if TYPE_CHECKING:
    from distill.networks.diffusers.adapters.lora import LoRANetwork
    from distill.networks.few_step_generator import FewStepGenerator
    from distill.types import Denoiser, Generator


class LoRASizes(Settings):
    """Sizes of low-rank adapters: a layer W becomes W + (alpha / rank) B A, with only A and B trainable."""

    rank: int = Field(64, ge=1)
    """Rank of the adapters. A larger rank can change the network more, and takes proportionally more memory
    for gradients and optimizer."""
    alpha: float | None = Field(None, gt=0)
    """Scale of the adapters times their rank; a larger one makes each update of an adapter change the network
    more. null takes the rank, for a scale of 1."""
    targets: tuple[str, ...] | None = Field(None, min_length=1)
    """Layers to adapt, by the ends of their names, such as `to_q`. Fewer layers take less memory. null adapts
    every linear layer within blocks."""

    def adapt(self, teacher: Denoiser, key: str) -> LoRANetwork:
        """Add adapters to a diffusers teacher; before training they change nothing.

        `key` is the setting that messages name.
        """
        from distill.networks.diffusers.adapters.lora import LoRANetwork
        from distill.networks.diffusers.denoiser import DiffusersNetwork

        if not isinstance(teacher, DiffusersNetwork):
            raise UserError(f"{key}: lora is for teachers of diffusers; expected copy")
        return LoRANetwork(teacher, self.rank, self.alpha, self.targets)


class Student(LoRASizes, StudentSettings):
    """The frozen diffusers teacher with trainable low-rank adapters."""

    name: Literal["lora"] = "lora"

    def build(self, teacher: Denoiser, *noise_to_signal: float) -> FewStepGenerator:
        """Adapt the teacher, and evaluate it at these sigma/alpha, one for each step."""
        from distill.networks.few_step_generator import FewStepGenerator

        return FewStepGenerator(self.adapt(teacher, "generator.network"), *noise_to_signal)


class FakeScore(LoRASizes, FakeNetworkSettings):
    """The frozen diffusers teacher with trainable low-rank adapters."""

    name: Literal["lora"] = "lora"
    reads_camera: bool = False
    """Let the fake score of a scene read the camera of each image, through a linear map to the embedding of
    the time, as in variational score distillation (VSD). Needs a U-Net of Stable Diffusion."""

    def build(self, teacher: Denoiser, generator: Generator) -> LoRANetwork:
        """Adapt the teacher."""
        if not self.reads_camera:
            return self.adapt(teacher, "fake.network")
        from distill.networks.diffusers.adapters.camera_lora import CameraLoRANetwork
        from distill.networks.diffusers.denoiser import DiffusersNetwork
        from distill.networks.scene.scene import SceneGenerator

        if not isinstance(teacher, DiffusersNetwork):
            raise UserError("fake.network: lora is for teachers of diffusers; expected copy")
        if not isinstance(generator, SceneGenerator):
            raise UserError("fake.network.reads_camera: needs a scene as the student; expected false")
        return CameraLoRANetwork(teacher, self.rank, self.alpha, self.targets)


def alternatives(teacher: Denoiser) -> dict[str, tuple[StudentSettings, FakeNetworkSettings]]:
    """Return students and fake scores for this teacher by what they train: all weights, or adapters.

    The result is empty if the teacher takes no adapters.
    """
    from distill.networks.diffusers.denoiser import DiffusersNetwork
    from distill.students import copy

    if not isinstance(teacher, DiffusersNetwork):
        return {}
    return {"all weights": (copy.Student(), copy.FakeScore()), "LoRA": (Student(), FakeScore())}
