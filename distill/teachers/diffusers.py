"""Teachers of the diffusers library: pipelines around a `UNet2DModel` or a `UNet2DConditionModel`, such as DDPM, Stable Diffusion and SDXL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distill.errors import UserError
from distill.teachers import TeacherSettings

if TYPE_CHECKING:
    from distill.models.diffusers_unet import DiffusersUNet


class Settings(TeacherSettings):
    """A diffusers pipeline; its scheduler's configuration says schedule and prediction type."""

    name: Literal["diffusers"] = "diffusers"
    path: str
    """Folder of the pipeline, or its name on the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null takes the newest."""
    variant: str | None = None
    """Variant of the weights' files, such as fp16; they are read as float32 all the same."""
    resolution: int | None = Field(None, ge=1)
    """Height and width of the images in pixels; null takes the pipeline's own."""
    null_label: int | None = Field(None, ge=0)
    """Class that means no label, the last, where a class-conditional network was trained with one."""

    def load(self) -> DiffusersUNet:
        """Open the pipeline, in evaluation mode, on the CPU. Raises UserError where there is none, or it is of an unknown kind."""
        from diffusers import DiffusionPipeline

        from distill.models.diffusers_unet import DiffusersUNet
        from distill.models.pipeline import Pipeline

        if Path(self.path).is_dir() and not (Path(self.path) / "model_index.json").is_file():
            raise UserError(f"teacher.path: {self.path} holds no model_index.json; expected the folder of a diffusers pipeline")
        try:
            # Weights in pickles are refused: opening them could run code.
            pipe = DiffusionPipeline.from_pretrained(self.path, revision=self.revision, variant=self.variant, use_safetensors=True)
        except (OSError, ValueError, AttributeError, ImportError) as error:
            raise UserError(f"teacher.path: {self.path} cannot be opened as a diffusers pipeline ({error})") from error
        source = self.model_dump(mode="json", exclude={"name"})
        return DiffusersUNet(pipe.unet, Pipeline(pipe, source, self.resolution, self.null_label)).eval()

    def outline(self) -> DiffusersUNet:
        """Raises UserError: these networks cannot be built without their weights yet."""
        raise UserError("--dry-run: a teacher of diffusers is not known without its weights yet; expected another backend")
