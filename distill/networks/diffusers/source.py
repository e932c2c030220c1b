"""The settings that open a pipeline of diffusers as a denoiser, and those that build one to be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from distill.config.settings import Settings


class PipelineSource(Settings):
    """A diffusers pipeline. Its scheduler's configuration decides noise schedule and prediction type."""

    path: str
    """Folder of the pipeline, its name on the Hugging Face hub, or a single `.safetensors` file, as in which
    Stable Diffusion was published. Pickles, such as `.ckpt`, are refused."""
    config: str | None = None
    """For a single file: folder, or name on the hub, of a diffusers pipeline of the same kind. It gives the
    configurations of all parts, and the parts that the file does not hold. null takes the pipeline that
    diffusers recognises by the names of the weights, from the hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null takes the newest."""
    variant: str | None = None
    """Variant of the weight files, such as fp16 for `model.fp16.safetensors`, which are half as large. They
    are read as `dtype` anyway. Parts without such files are read from their plain ones."""
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


def _with_class_name(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("class_name"), str):
        raise ValueError("expected a mapping with the 'class_name' of a class of diffusers, and its settings")
    return value


Configuration = Annotated[dict[str, Any], AfterValidator(_with_class_name)]
"""The `class_name` of a class of diffusers, and the settings of its configuration that are no defaults."""


class PipelineSettings(Settings):
    """A diffusers pipeline whose denoiser is trained: it is built from its configuration."""

    class_name: str
    """Class of the pipeline in diffusers, such as StableDiffusionPipeline, PixArtAlphaPipeline, DiTPipeline
    or DDPMPipeline. It decides which parts the pipeline has."""
    denoiser: Configuration
    """The network that is trained: its `class_name`, such as UNet2DConditionModel, and the settings of its
    configuration (`config.json` of a pipeline) that are not that class's defaults. Its weights begin as
    random numbers of `seed`."""
    scheduler: Configuration
    """The scheduler: its `class_name`, such as DDIMScheduler, and its settings. They decide the noise
    schedule of training, and by `prediction_type` what the network predicts. The exported pipeline samples by
    it."""
    parts: dict[str, Path | None] = Field({})
    """Folders of the other parts by the names that the pipeline has for them, such as vae, text_encoder and
    tokenizer. They are not trained, and the export holds copies. A folder may hold one part or several, or be
    a pipeline, or a run that trained an autoencoder. null leaves out a part of which the pipeline can do
    without, such as text_encoder_3 of Stable Diffusion 3."""
    null_label: int | None = Field(None, ge=0)
    """Class that means no label, for UNet2DModel: its last class, one more than the data have. Guidance, and
    so `label_dropout`, needs it. null means that there is none, except in DiT, which always has one."""
    init_from: Path | None = None
    """Export of another run, or another pipeline, whose denoiser has the same shapes, to begin with its
    weights; null begins with random ones."""
