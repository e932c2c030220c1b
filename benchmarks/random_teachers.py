"""Networks of published sizes with random weights, and data of random pixels: no files are needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.random_pipelines import TINY, TINY_CONFIGS, register_tiny_pipeline
from distill.networks.diffusers.opening.published import PUBLISHED as PIPELINES
from distill.networks.diffusers.opening.published.earlier import SDXL_UNET
from distill.networks.edm.arguments import PUBLISHED, describe_network
from distill.networks.folder import build_network
from distill.rewards import pickscore
from distill.rewards.pretrained.clip import Similarity
from distill.rewards.pretrained.preprocessing import Preprocessing
from distill.teachers import edm

if TYPE_CHECKING:
    from distill.types import Denoiser, Reward

CIFAR10 = "edm-cifar10-32x32-cond-vp.pkl"
IMAGENET64 = "edm-imagenet-64x64-cond-adm.pkl"
NARROW = {"model_channels": 8, "num_blocks": 1, "attn_resolutions": []}
"""Sizes of an EDM network that suits a CPU; it has all levels of resolution."""
CLIP_TOKENS = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
CLIP_H: tuple[dict[str, int], dict[str, int], int] = (
    {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
    },
    1024,
)
"""Sizes of PickScore's text and image networks, and of their embeddings."""
SMALL_CLIP: tuple[dict[str, int], dict[str, int], int] = (
    {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 32,
    },
    16,
)
"""Sizes that suit a CPU."""
DEEP = "deep"
"""Path under which `register_deep_pipeline` enters SDXL with all its layers, narrow."""


def device() -> str:
    """Return the device on which weights are drawn: a CUDA device if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class RandomEDM(edm.Settings):
    """A network of EDM of a published size, or a narrow one, with random weights."""

    narrow: bool = False

    def load(self) -> Denoiser:
        torch.manual_seed(0)
        with torch.device(device()):
            network = self._build()
            with torch.no_grad():
                for parameter in network.parameters():  # some layers start at zero
                    parameter.add_(0.01 * torch.randn_like(parameter))
        return network.eval()

    def meta(self) -> Denoiser:
        with torch.device("meta"):
            return self._build()

    def _build(self) -> Denoiser:
        sizes = dict(PUBLISHED[self.path.name]) | (NARROW if self.narrow else {})
        return build_network(describe_network("EDMPrecond", sizes), self.path)


class LetterTokens:
    """Turns prompts into the numbers of their letters, between a start and an end token."""

    START, END = 49406, 49407

    def __call__(self, prompts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        rows = []
        for prompt in prompts:
            letters = [ord(letter) % 256 for letter in prompt[: max_tokens - 2]]
            rows.append([self.START, *letters, *[self.END] * (max_tokens - 1 - len(letters))])
        tokens = torch.tensor(rows)
        return tokens, torch.ones_like(tokens)

    def sha256(self) -> str:
        return "letters"


class RandomPickScore(pickscore.Settings):
    """PickScore's network, a CLIP ViT-H/14, or a small one, with random weights; its words are letters."""

    small: bool = False

    def load(self) -> Reward:
        from transformers import CLIPConfig, CLIPModel

        torch.manual_seed(0)
        text, vision, embedding = SMALL_CLIP if self.small else CLIP_H
        with torch.device(device()):
            clip = CLIPModel(
                CLIPConfig(
                    text_config={**text, **CLIP_TOKENS, "projection_dim": embedding, "hidden_act": "gelu"},
                    vision_config={**vision, "projection_dim": embedding, "hidden_act": "gelu"},
                    projection_dim=embedding,
                )
            )
        size = vision["image_size"]
        reward = Similarity(self.name, clip, LetterTokens(), Preprocessing((size, size), size), scale=None)
        return reward.eval().requires_grad_(False)


def register_deep_pipeline() -> None:
    """Add SDXL's U-Net with all its layers and few channels to the published pipelines."""
    register_tiny_pipeline()
    kind, parts = PIPELINES[TINY]
    layers = SDXL_UNET["transformer_layers_per_block"]
    unet = {**TINY_CONFIGS["unet"], "transformer_layers_per_block": layers, "sample_size": 8}
    library, part, config = parts["unet"]
    PIPELINES[DEEP] = (kind, {**parts, "unet": (library, part, {**config, **unet})})


def write_random_images(file: Path, count: int, size: int, labels: int) -> Path:
    """Write an array of RGB images with labels, as `data: {name: array}` reads it."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    np.savez(file, images=pixels, labels=np.arange(count) % labels)
    return file


def write_captioned_images(folder: Path, count: int, size: int) -> Path:
    """Write smooth random images with captions, as `data: {name: captioned_folder}` reads them."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number} of a thing")
    return folder
