"""The settings that open a pipeline of diffusers as a denoiser."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from distill.config.settings import Settings


class PipelineSource(Settings):
    """A diffusers pipeline; its scheduler's configuration says schedule and prediction type."""

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

    def describe(self) -> dict[str, Any]:
        """Return these settings alone as plain data, without those that a teacher adds to them."""
        return self.model_dump(mode="json", include=set(PipelineSource.model_fields))
