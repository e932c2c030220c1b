"""The settings that open a pipeline of diffusers as a denoiser."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from distill.config.settings import Settings


class PipelineSource(Settings):
    """A diffusers pipeline. Its scheduler's configuration decides noise schedule and prediction type."""

    path: str
    """Folder of the pipeline, or its name on the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null takes the newest."""
    variant: str | None = None
    """Variant of the weight files, such as fp16, which are half as large. They are read as `dtype` anyway."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights that are not trained: the pipeline's networks, and the base under adapters.
    `bfloat16` takes half the memory, and keeps three digits."""
    resolution: int | None = Field(None, ge=1)
    """Height and width of the images in pixels; null takes the pipeline's own."""
    null_label: int | None = Field(None, ge=0)
    """Class that means no label, if a class-conditional network was trained with one: its last class.
    Guidance needs it. null means that there is none, except in DiT, where it is known."""
    embedded_guidance: float | None = Field(None, ge=0)
    """Guidance scale for a guidance-distilled network such as FLUX.1-dev; null takes its pipeline's own."""

    def describe(self) -> dict[str, Any]:
        """Return these settings as plain data, without those that a teacher adds to them."""
        return self.model_dump(mode="json", include=set(PipelineSource.model_fields))
