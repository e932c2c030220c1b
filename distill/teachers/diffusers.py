"""Pipelines of the diffusers library, around a network listed in `distill.networks.diffusers.families`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill.config.errors import UserError
from distill.config.installation import find_asset
from distill.networks.diffusers.source import PipelineSource
from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.networks.diffusers.denoiser import DiffusersNetwork


class Settings(PipelineSource, TeacherSettings):
    """A diffusers pipeline; its scheduler's configuration gives noise schedule and prediction type."""

    name: Literal["diffusers"] = "diffusers"
    attention: Literal["sdpa", "xformers", "flash"] = "sdpa"
    """Attention kernels of teacher, student and fake score. `sdpa` lets PyTorch choose a kernel for each
    call, `xformers` uses xformers' memory-efficient attention, and `flash` uses only PyTorch's FlashAttention
    for calls in half precision without a mask. They differ in speed and memory, and in results only by
    rounding."""

    @property
    def is_quantized(self) -> bool:
        return self.quantization is not None or self.stored_quantization is not None

    def load(self) -> DiffusersNetwork:
        """Open the pipeline in evaluation mode, on the CPU."""
        return self._open()

    def describe_encoder(self, teacher: Any) -> dict[str, Any]:
        """Return how the pipeline encodes prompts, with the hash of its text encoders' files."""
        from distill.networks.diffusers.opening.teacher import describe_encoder

        return describe_encoder(teacher.pipeline.pipe, self._found())

    def load_with_prompts(self, folder: Path) -> DiffusersNetwork:
        """Open the pipeline without its text encoders, whose work is in a folder of `precompute`."""
        return self._open(folder)

    def _open(self, prompts: Path | None = None) -> DiffusersNetwork:
        from distill.networks.diffusers.attention import open_backend, route_attention
        from distill.networks.diffusers.denoiser import DiffusersNetwork

        attend = open_backend(self.attention)
        network = DiffusersNetwork.open(self._found(), prompts)
        route_attention(network.network, attend)
        return network

    def load_without_weights(
        self, min_component_parameters: int, prompts: Path | None = None
    ) -> DiffusersNetwork:
        """Open the pipeline with its tokenizers and small networks; large ones are on the meta device."""
        from distill.networks.diffusers.attention import open_backend, route_attention
        from distill.networks.diffusers.denoiser import DiffusersNetwork

        attend = open_backend(self.attention)
        network = DiffusersNetwork.open_without_weights(self._found(), min_component_parameters, prompts)
        route_attention(network.network, attend)
        return network

    def known_before_loading(self) -> DiffusersNetwork | None:
        """Build the network of a folder here from its configuration files.

        None if the pipeline is on the hub, quantised, or of files that tell too little without their weights:
        it is then checked once it is opened.
        """
        if not (Path(self.path) / "model_index.json").is_file() or self.is_quantized:
            return None
        try:
            return self.meta()
        except UserError:
            return None

    def meta(self) -> DiffusersNetwork:
        """Build the network on the meta device from the pipeline's configuration files."""
        from distill.networks.diffusers.denoiser import DiffusersNetwork
        from distill.networks.diffusers.opening.teacher import meta_source

        source = self._found()
        return DiffusersNetwork.around(meta_source(source), source)

    def _found(self) -> Settings:
        """Return these settings with the package's own folder as path if the path is `assets/NAME`."""
        path = find_asset(Path(self.path))
        return self if str(path) == self.path else self.model_copy(update={"path": str(path)})
