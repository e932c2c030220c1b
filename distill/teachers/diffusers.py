"""Teachers of the diffusers library: pipelines around the networks of `distill.models.families`, from DDPM to FLUX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.models.diffusers_network import DiffusersNetwork


class Settings(TeacherSettings):
    """A diffusers pipeline; its scheduler's configuration says schedule and prediction type."""

    name: Literal["diffusers"] = "diffusers"
    path: str
    """Folder of the pipeline, or its name on the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null takes the newest."""
    variant: str | None = None
    """Variant of the weights' files, such as fp16; they are read as `dtype` all the same."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What weights are held in that do not learn, of the pipeline's networks and under adapters; `bfloat16` takes half the memory."""
    resolution: int | None = Field(None, ge=1)
    """Height and width of the images in pixels; null takes the pipeline's own."""
    null_label: int | None = Field(None, ge=0)
    """Class that means no label, the last, where a class-conditional network was trained with one."""
    embedded_guidance: float | None = Field(None, ge=0)
    """Scale of guidance that a guidance-distilled network such as FLUX.1-dev is told; null takes its pipeline's own."""
    attention: Literal["sdpa", "xformers", "flash"] = "sdpa"
    """What computes its attention, its student's and the fake score's: PyTorch's choice of kernels (sdpa), xformers, or FlashAttention alone."""

    def load(self) -> DiffusersNetwork:
        """Open the pipeline, in evaluation mode, on the CPU.

        Raises UserError where there is none, it is of an unknown kind, or its attention is not to be had here.
        """
        import torch

        from distill.models.attention import open_backend, route_attention
        from distill.models.pipeline import open_pipeline

        attend = open_backend(self.attention)
        settings: dict[str, Any] = {"revision": self.revision, "variant": self.variant}
        if self.dtype != "float32":  # which is the default
            settings["dtype"] = getattr(torch, self.dtype)
        network = self._around(open_pipeline(self.path, "teacher.path", **settings))
        route_attention(network.network, attend)
        return network

    def outline(self) -> DiffusersNetwork:
        """The network on the meta device. Raises UserError where the pipeline's configurations cannot be had."""
        from distill.models.pipeline_outline import outline_pipeline

        return self._around(outline_pipeline(self.path, self.revision))

    def _around(self, pipe: Any) -> DiffusersNetwork:
        import torch

        from distill.models.diffusers_network import DiffusersNetwork
        from distill.models.pipeline import Pipeline

        source = self.model_dump(mode="json", exclude={"name", "attention"})  # what computes it is not the export's
        pipeline = Pipeline(pipe, source, self.resolution, self.null_label, self.embedded_guidance, getattr(torch, self.dtype))
        return DiffusersNetwork(getattr(pipe, pipeline.family.part), pipeline).eval()
