"""ImageReward v1 (Xu et al. 2023): BLIP-large, whose text half attends to the image, and a linear head."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distill.rewards import prompts_of
from distill.rewards.pretrained.preprocessing import Preprocessing
from distill.rewards.pretrained.score_head import ScoreHead
from distill.rewards.pretrained.tokens import PublishedTokens
from distill.rewards.pretrained.weights import (
    PublishedWeight,
    describe_config,
    load_renamed,
    meta,
)
from distill.storage.tensors import read_state
from distill.types import Condition, Reward, to_device

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Mean and standard deviation of the head's output over the authors' data."""
MAX_TOKENS = 35
SPECIAL_TOKENS = ["[DEC]", "[ENC]"]
"""Tokens that BLIP adds to BERT's, in this order. ImageReward's prompts begin with [CLS] all the same."""
VISION = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding": "pos_embed",
    "embeddings.patch_embedding": "patch_embed.proj",
    "post_layernorm": "norm",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.qkv": "attn.qkv",
    "self_attn.projection": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
LAYER = re.compile(r"(?:encoder\.layers\.(?P<number>\d+)\.)?(?P<layer>.+?)(?P<kind>\.weight|\.bias)?")
UNUSED = (
    "blip.text_encoder.embeddings.position_ids",
    *(f"blip.{half}_proj.{kind}" for half in ("vision", "text") for kind in ("weight", "bias")),
)
"""Tensors of the published file that the network does not have: position ids, and the projections of BLIP's
contrastive loss."""


def blip_large() -> tuple[Any, Any]:
    """Return the sizes of BLIP-large, the vision half's with timm's epsilon, and the text half's."""
    from transformers import BlipTextConfig, BlipVisionConfig

    width = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    vision = BlipVisionConfig(**width, image_size=224, patch_size=16, layer_norm_eps=1e-6)
    text = BlipTextConfig(encoder_hidden_size=1024, num_attention_heads=12, vocab_size=30524)
    return vision, text


class ImageReward(Reward):
    """Score an image's fit to its prompt and its appeal, about -2 to 2.

    The unit is the standard deviation of the head's output over the authors' data. `sizes` are the
    configurations of the vision and the text half, as `blip_large` gives them.
    """

    def __init__(self, sizes: tuple[Any, Any], tokenizer: Any) -> None:
        super().__init__()
        from transformers import BlipTextModel, BlipVisionModel

        vision, text = sizes
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.head = ScoreHead(text.hidden_size)
        tokenizer.add_tokens(SPECIAL_TOKENS, special_tokens=True)
        self.prompt_tokens = PublishedTokens(tokenizer, "max_length")
        size = vision.image_size
        self.preprocessing = Preprocessing((size, size), size, rounds_middle=True)

    def forward(self, images: Float[Tensor, "b c h w"], cond: Condition) -> Float[Tensor, " b"]:
        tokens, mask = self.tokens(prompts_of(cond, len(images), "imagereward"))
        patches = self.vision(pixel_values=self.preprocessing(images)).last_hidden_state
        output = self.text(
            input_ids=to_device(tokens, images.device),
            attention_mask=to_device(mask, images.device),
            encoder_hidden_states=patches,
            encoder_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long, device=patches.device),
        )
        return (self.head(output.last_hidden_state[:, 0]) - MEAN) / DEVIATION

    def tokens(self, prompts: Sequence[str]) -> tuple[Int64[Tensor, "b n"], Int64[Tensor, "b n"]]:
        """Return the prompts' tokens, [CLS] first, padded and truncated to 35, and their attention mask."""
        return self.prompt_tokens(prompts, MAX_TOKENS)

    def describe(self) -> dict[str, Any]:
        return {
            "vision": describe_config(self.vision.config),
            "text": describe_config(self.text.config),
            "preparation": dataclasses.asdict(self.preprocessing),
            "tokenizer_sha256": self.prompt_tokens.sha256(),
        }


def read_image_reward(path: Path, tokenizer: Any) -> ImageReward:
    """Read ImageReward from the authors' file."""
    network = meta(lambda: ImageReward(blip_large(), tokenizer))
    return load_renamed(network, read_state(path), published_weight, path, UNUSED)


def published_weight(name: str) -> PublishedWeight:
    """Return the place of a weight in the authors' file.

    It has BLIP's names, which in the text half are transformers' too.
    """
    half, _, rest = name.partition(".")
    if half == "head":
        return PublishedWeight(f"mlp.{rest}")
    if half == "text":
        return PublishedWeight(f"blip.text_encoder.{rest}")
    found = LAYER.fullmatch(rest)
    if found is None:
        raise ValueError(f"{name} is no weight of ImageReward")
    block = "" if found["number"] is None else f"blocks.{found['number']}."
    return PublishedWeight(f"blip.visual_encoder.{block}{VISION[found['layer']]}{found['kind'] or ''}")
