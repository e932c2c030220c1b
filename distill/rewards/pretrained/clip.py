"""CLIP (Radford et al. 2021), of transformers, as rewards use it: unit embeddings of images and prompts, and what is made of their cosine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from distill.rewards import prompts_of
from distill.rewards.pretrained.preprocessing import Preprocessing
from distill.rewards.pretrained.tokens import PromptTokens
from distill.rewards.pretrained.weights import describe_config
from distill.types import Condition, Reward


class ImageEmbedding(nn.Module):
    """Images (b, c, h, w) in [-1, 1] -> unit vectors (b, d), by the vision half of a `CLIPModel`."""

    def __init__(self, clip: Any, preparation: Preprocessing) -> None:
        super().__init__()
        self.network, self.projection, self.preparation = (
            clip.vision_model,
            clip.visual_projection,
            preparation,
        )

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        return F.normalize(
            self.projection(self.network(pixel_values=self.preparation(images)).pooler_output), dim=1
        )

    def describe(self) -> dict[str, Any]:
        """Return the network's sizes and the preparation, as plain data."""
        return {
            "vision": describe_config(self.network.config),
            "preparation": dataclasses.asdict(self.preparation),
        }


class PromptEmbedding(nn.Module):
    """Prompts -> unit vectors (b, d), by the text half of a `CLIPModel`. It has no gradient."""

    def __init__(self, clip: Any, tokens: PromptTokens) -> None:
        super().__init__()
        self.network, self.projection, self.tokens = clip.text_model, clip.text_projection, tokens
        self.most_tokens = clip.config.text_config.max_position_embeddings

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        tokens, counts = (
            part.to(self.projection.weight.device) for part in self.tokens(prompts, self.most_tokens)
        )
        return F.normalize(
            self.projection(self.network(input_ids=tokens, attention_mask=counts).pooler_output), dim=1
        )

    def describe(self) -> dict[str, Any]:
        """Return the network's sizes and the hash of the tokenizer, as plain data."""
        return {"text": describe_config(self.network.config), "tokenizer_sha256": self.tokens.sha256()}


class Similarity(Reward):
    """`scale` times the cosine of an image's and its prompt's embeddings, of which only what is above `least` counts.

    `scale` None takes the model's own, the inverse temperature that it was trained with. `prefix` is put before each prompt. `name` is that of the
    reward, for messages.
    """

    def __init__(
        self,
        name: str,
        clip: Any,
        tokens: PromptTokens,
        preparation: Preprocessing,
        scale: float | None,
        least: float | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__()
        self.name, self.least, self.prefix = name, least, prefix
        self.image, self.text = ImageEmbedding(clip, preparation), PromptEmbedding(clip, tokens)
        self.scale = clip.logit_scale.exp().item() if scale is None else scale

    def forward(self, images: Float[Tensor, "b c h w"], cond: Condition) -> Float[Tensor, " b"]:
        """The reward. Raises UserError where the condition has no prompts."""
        prompts = [self.prefix + prompt for prompt in prompts_of(cond, len(images), self.name)]
        cosine = (self.image(images) * self.text(prompts)).sum(1)
        return self.scale * (cosine if self.least is None else cosine.clamp(min=self.least))

    def describe(self) -> dict[str, Any]:
        """Return what decides the reward besides the weights of the two halves; the scale may be a weight that belongs to neither."""
        return {
            **self.image.describe(),
            **self.text.describe(),
            "scale": self.scale,
            "least": self.least,
            "prefix": self.prefix,
        }
