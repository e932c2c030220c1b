"""Diffusers pipelines with random weights and random text embeddings, for benchmarks that need no files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.networks.diffusers.meta import DENOISERS, meta_pipeline
from distill.networks.diffusers.opening.published import PUBLISHED
from distill.networks.diffusers.opening.published.earlier import CLIP_G, CLIP_L, SDXL_UNET, VAE
from distill.networks.diffusers.pipeline import cast_weights
from distill.teachers import diffusers
from distill.types import Condition, PromptEncoder, Text

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
TINY = "tiny"
"""Path under which `register_tiny_pipeline` enters the small pipeline."""
TINY_CONFIGS: dict[str, dict[str, Any]] = {
    "unet": {
        **SDXL_UNET,
        "sample_size": 32,
        "block_out_channels": (64, 128, 256),
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (2, 4, 8),
        "cross_attention_dim": 64 + 128,
        "addition_time_embed_dim": 32,
        "projection_class_embeddings_input_dim": 6 * 32 + 128,
    },
    "vae": {**VAE, "block_out_channels": (32,) * 4},
    "text_encoder": {
        **CLIP_L,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 2,
        "projection_dim": 64,
        "num_hidden_layers": 2,
    },
    "text_encoder_2": {
        **CLIP_G,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 2,
        "projection_dim": 128,
        "num_hidden_layers": 2,
    },
}
"""Configurations of SDXL's networks with sizes that suit a CPU."""


def register_tiny_pipeline() -> None:
    """Add the small pipeline to the published ones: SDXL with the sizes of `TINY_CONFIGS`."""
    kind, parts = PUBLISHED[SDXL]
    tiny_parts = {}
    for name, (library, part, config) in parts.items():
        tiny_parts[name] = (library, part, {**config, **TINY_CONFIGS.get(name, {})})
    PUBLISHED[TINY] = (kind, tiny_parts)


class RandomTeacher(diffusers.Settings):
    """A published pipeline with random weights. It has no tokenizer, so text embeddings are random too."""

    def load(self) -> DiffusersNetwork:
        return self._open(largest=None)

    def load_without_weights(self, min_component_parameters: int) -> DiffusersNetwork:
        return self._open(largest=min_component_parameters - 1)

    def _open(self, largest: int | None) -> DiffusersNetwork:
        """Build the pipeline. Networks of more parameters, and the denoiser, have no weights then."""
        pipe = meta_pipeline(self.path)
        torch.manual_seed(0)
        device = "cuda" if torch.cuda.is_available() else "cpu"  # billions of weights take long to draw
        for name, part in pipe.components.items():
            if not isinstance(part, nn.Module):
                continue
            cast_weights(part, getattr(torch, self.dtype))
            size = sum(parameter.numel() for parameter in part.parameters())
            if largest is None or (size <= largest and name not in DENOISERS):
                draw_weights(part.to_empty(device=device))
        network = DiffusersNetwork.around(pipe, self)
        if network.prompt_encoder is not None:
            network.prompt_encoder = RandomPromptEncoder(network.prompt_encoder)
        return network


class RandomPromptEncoder:
    """Encodes prompts as random numbers of another encoder's shapes."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder = encoder

    def __deepcopy__(self, memo: dict[int, Any]) -> RandomPromptEncoder:
        return self

    def encode(self, prompts: Sequence[str]) -> Condition:
        return Condition(text=Text(self._draw(len(prompts)), self._draw(1)))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.encoder.shapes()

    def sha256(self) -> str:
        return "random"

    def components(self) -> dict[str, nn.Module]:
        return self.encoder.components()

    def _draw(self, count: int) -> dict[str, torch.Tensor]:
        return {name: torch.randn(count, *shape) for name, shape in self.shapes().items()}


def draw_weights(network: nn.Module) -> None:
    """Draw weights under which each layer keeps the size of its input: matrices are scaled by their width."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            nn.init.constant_(parameter, float(name.endswith("weight")))
