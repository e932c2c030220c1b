"""Networks of diffusers that are built from a configuration and trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.config.errors import UserError, reading
from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.networks.diffusers.parts import build_pipeline
from distill.networks.diffusers.pipeline import Pipeline
from distill.networks.diffusers.source import PipelineSettings, PipelineSource
from distill.types import Condition, Text


class ConfiguredNetwork(DiffusersNetwork):
    """The denoiser of a pipeline that `PipelineSettings` describe.

    A checkpoint of it holds its own weights and names the folders of the other parts; its export is a whole
    pipeline, which opens as a `DiffusersNetwork`.
    """

    def __init__(self, network: nn.Module, pipeline: Pipeline, settings: PipelineSettings) -> None:
        super().__init__(network, pipeline)
        self.settings = settings

    @classmethod
    def build(cls, settings: PipelineSettings, seed: int = 0, on_meta: bool = False) -> ConfiguredNetwork:
        """Build a network with weights drawn by `seed`, in evaluation mode; with `on_meta` without weights.

        What cannot be trained or sampled is refused here.
        """
        pipe = build_pipeline(settings, seed, on_meta)
        source = PipelineSource(path=settings.class_name, null_label=settings.null_label)
        with _errors_of_the_settings():
            pipeline = Pipeline(pipe, source)
            network = cls(getattr(pipe, pipeline.family.part), pipeline, settings)
            network._check_prompts()
        if on_meta:
            network.to("meta")
        return network.eval()

    def describe(self) -> dict[str, Any]:
        """Return the settings of its pipeline."""
        return self.settings.model_dump(mode="json", exclude={"init_from"})

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> ConfiguredNetwork:
        """Build the network that these settings describe, whose weights are to be loaded."""
        return cls.build(PipelineSettings.model_validate(description))

    def save_denoiser(self, folder: Path) -> None:
        """Write its pipeline with its weights."""
        self.pipeline.save_denoiser(self.network, folder)

    def require_unconditional(self) -> None:
        with _errors_of_the_settings():
            super().require_unconditional()

    def check_pass(self) -> None:
        """Refuse a network whose settings do not go together, by a pass of one image on the meta device."""
        is_on_meta = next(self.network.parameters()).is_meta
        other = self if is_on_meta else self.build(self.settings, on_meta=True)
        image = torch.zeros(1, *other.image_shape, device="meta")
        with reading("pipeline.denoiser"), torch.no_grad():
            other(image, torch.ones(1, device="meta"), other._example_condition())

    def _example_condition(self) -> Condition:
        """Return a condition of one image on the meta device."""
        if self.prompt_encoder is not None:
            shapes = self.prompt_encoder.shapes()
            given = {name: torch.zeros(1, *shape, device="meta") for name, shape in shapes.items()}
            return Condition(text=Text(given, given))
        if self.label_count:
            return Condition(torch.zeros(1, dtype=torch.int64, device="meta"))
        return Condition()

    def _check_prompts(self) -> None:
        """Refuse text encoders that take shorter prompts, or give other widths than the network takes."""
        if self.prompt_encoder is None:
            return
        encoders = self.prompt_encoder.components()
        if not encoders:
            raise UserError("pipeline.parts: has no text encoder; expected at least one")
        for name, part in encoders.items():
            tokenizer_name = name.replace("text_encoder", "tokenizer")
            tokenizer = self.pipeline.pipe.components[tokenizer_name]
            if tokenizer is None:
                raise UserError(f"pipeline.parts.{tokenizer_name}: is null; expected that of the {name}")
            most = getattr(part.config, "max_position_embeddings", None)
            if type(tokenizer).__name__ == "CLIPTokenizer" and tokenizer.model_max_length > most:
                raise UserError(
                    f"pipeline.parts.{tokenizer_name}: model_max_length is {tokenizer.model_max_length}; "
                    f"expected at most {most}, the positions of the {name}"
                )
        with reading("pipeline.parts"):
            self.prompt_encoder.encode([""])


@contextmanager
def _errors_of_the_settings() -> Iterator[None]:
    """Name the settings of a pipeline in messages that name those of a teacher."""
    try:
        yield
    except UserError as error:
        message = str(error).replace("teacher.path:", "pipeline:").replace("teacher.", "pipeline.")
        raise UserError(message) from error
