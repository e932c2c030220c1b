"""CLIP (Radford et al. 2021), from transformers: embeddings of images and prompts, and their cosine."""

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
from distill.types import Condition, Reward, to_device


class ImageEmbedding(nn.Module):
    """Map images (b, c, h, w) in [-1, 1] to unit vectors (b, d) by the vision half of a `CLIPModel`."""

    def __init__(self, clip: Any, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = clip.vision_model
        self.projection = clip.visual_projection
        self.preprocessing = preprocessing

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        features = self.network(pixel_values=self.preprocessing(images)).pooler_output
        return F.normalize(self.projection(features), dim=1)

    def describe(self) -> dict[str, Any]:
        """Return the network's sizes and the preprocessing as plain data."""
        return {
            "vision": describe_config(self.network.config),
            "preparation": dataclasses.asdict(self.preprocessing),
        }


class PromptEmbedding(nn.Module):
    """Map prompts to unit vectors (b, d) by the text half of a `CLIPModel`, without a gradient."""

    def __init__(self, clip: Any, tokens: PromptTokens) -> None:
        super().__init__()
        self.network = clip.text_model
        self.projection = clip.text_projection
        self.tokens = tokens
        self.max_tokens = clip.config.text_config.max_position_embeddings

    @torch.no_grad()
    def forward(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        device = self.projection.weight.device
        tokens, mask = self.tokens(prompts, self.max_tokens)
        features = self.network(
            input_ids=to_device(tokens, device), attention_mask=to_device(mask, device)
        ).pooler_output
        return F.normalize(self.projection(features), dim=1)

    def describe(self) -> dict[str, Any]:
        """Return the network's sizes and the hash of the tokenizer as plain data."""
        return {"text": describe_config(self.network.config), "tokenizer_sha256": self.tokens.sha256()}


class Similarity(Reward):
    """Score an image by `scale` times the cosine of its and its prompt's embeddings, at least `minimum`.

    `scale` None takes the network's own, the inverse temperature that it was trained with. `prefix` is put
    before each prompt. `name` is the reward's name in messages.
    """

    def __init__(
        self,
        name: str,
        clip: Any,
        tokens: PromptTokens,
        preprocessing: Preprocessing,
        scale: float | None,
        minimum: float | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__()
        self.name = name
        self.minimum = minimum
        self.prefix = prefix
        self.image = ImageEmbedding(clip, preprocessing)
        self.text = PromptEmbedding(clip, tokens)
        self.scale = clip.logit_scale.exp().item() if scale is None else scale

    def forward(self, images: Float[Tensor, "b c h w"], cond: Condition) -> Float[Tensor, " b"]:
        prompts = [self.prefix + prompt for prompt in prompts_of(cond, len(images), self.name)]
        cosine = (self.image(images) * self.text(prompts)).sum(1)
        return self.scale * (cosine if self.minimum is None else cosine.clamp(min=self.minimum))

    def describe(self) -> dict[str, Any]:
        # The scale is here because it may be a weight of the network, though of neither half.
        return {
            **self.image.describe(),
            **self.text.describe(),
            "scale": self.scale,
            "least": self.minimum,
            "prefix": self.prefix,
        }
