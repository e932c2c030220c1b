"""The settings that open a pipeline of diffusers as a denoiser, and those that build one to be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from distill.config.settings import Settings
from distill.storage.files import read_mapping


class BitsAndBytes(Settings):
    """Weights of linear layers in 8 or 4 bits, by bitsandbytes; needs a CUDA device."""

    name: Literal["bitsandbytes"]
    bits: Literal[4, 8] = 4
    """Bits of a weight: 8 (LLM.int8) or 4 (NF4, as in QLoRA), which takes half the memory and is coarser."""


class TorchAO(Settings):
    """Weights of linear layers in 8 bits, by torchao, on any device."""

    name: Literal["torchao"]
    weights: Literal["int8", "float8"] = "int8"
    """Type of a weight: int8, the finer one, with one scale for each row, or float8 (e4m3)."""


Quantization = Annotated[BitsAndBytes | TorchAO, Field(discriminator="name")]


class PipelineSource(Settings):
    """A diffusers pipeline. Its scheduler's configuration decides noise schedule and prediction type."""

    path: str
    """Folder of the pipeline, its name on the Hugging Face hub, or a single `.safetensors` file, as in which
    Stable Diffusion was published, or `.gguf` file of a quantised denoiser. Pickles, such as `.ckpt`, are
    refused."""
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
    quantization: Quantization | None = None
    """Hold the denoiser's linear layers in few bits, such as {name: torchao} or {name: bitsandbytes, bits:
    4}, for a frozen base under adapters (`lora`) that takes a quarter to an eighth of float32's memory. Other
    weights, and all computation, are in `dtype`. null takes the weights as they are stored."""
    resolution: int | None = Field(None, ge=1)
    """Height and width of the images in pixels; null takes the pipeline's own."""
    null_label: int | None = Field(None, ge=0)
    """Class that means no label, if a class-conditional network was trained with one: its last class.
    Guidance needs it. null means that there is none, except in DiT, where it is known."""
    embedded_guidance: float | None = Field(None, ge=0)
    """Guidance scale for a guidance-distilled network such as FLUX.1-dev; null takes its pipeline's own."""

    @property
    def stored_quantization(self) -> str | None:
        """Method by which the denoiser is quantised in its files, as far as they lie in a folder here."""
        if self.path.lower().endswith(".gguf"):
            return "gguf"
        for name in ("unet", "transformer"):
            file = Path(self.path) / name / "config.json"
            if file.is_file():
                stored = read_mapping(file).get("quantization_config")
                return str(stored.get("quant_method")) if isinstance(stored, dict) else None
        return None

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
