"""Teachers of the diffusers library: pipelines around the networks of `distill.networks.diffusers.families`, from DDPM to FLUX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.networks.diffusers.source import PipelineSource
from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.networks.diffusers.denoiser import DiffusersNetwork


class Settings(PipelineSource, TeacherSettings):
    """A diffusers pipeline; its scheduler's configuration says schedule and prediction type."""

    name: Literal["diffusers"] = "diffusers"
    attention: Literal["sdpa", "xformers", "flash"] = "sdpa"
    """What computes its attention, its student's and the fake score's: PyTorch's choice of kernels (sdpa), xformers, or FlashAttention alone."""

    def load(self) -> DiffusersNetwork:
        """Open the pipeline, in evaluation mode, on the CPU.

        Raises UserError where there is none, it is of an unknown kind, or its attention is not to be had here.
        """
        from distill.networks.diffusers.attention import open_backend, route_attention
        from distill.networks.diffusers.denoiser import DiffusersNetwork

        attend = open_backend(self.attention)
        network = DiffusersNetwork.open(self)
        route_attention(network.network, attend)
        return network

    def meta(self) -> DiffusersNetwork:
        """The network on the meta device. Raises UserError where the pipeline's configurations cannot be had."""
        from distill.networks.diffusers.denoiser import DiffusersNetwork
        from distill.networks.diffusers.meta import meta_pipeline

        return DiffusersNetwork.around(meta_pipeline(self.path, self.revision), self)
