"""Human Preference Score v2 and v2.1 (Wu et al. 2023): cos(image, prompt) under a CLIP ViT-H/14 that learned human preferences.

The plain cosine, about 0.2 to 0.4; the authors' benchmark prints a hundred times it. Images are not cropped: as tensors, neither rounded nor clipped,
their longer edge is resized to 224 pixels, and the rest is black. The two versions are different networks on different scales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward

FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}


class Settings(RewardSettings):
    """Human Preference Score v2: how well an image fits its prompt and pleases; about 0.2 to 0.4."""

    name: Literal["hpsv2"] = "hpsv2"
    version: Literal["v2.0", "v2.1"] = "v2.1"
    """Which of the two published networks; their scores cannot be compared."""
    path: str = "xswu/HPSv2"
    """The published file of that version, a folder that holds it, or its repository on the Hugging Face hub."""
    tokenizer: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    """Folder of CLIP's tokenizer, or its name on the hub. Its words and merges are used as open_clip uses them."""
    antialias: bool = True
    """Smooth an image before it is made smaller. True is what the authors' package computes with torchvision 0.17 (January 2024) or later, and
    gives every pixel a gradient; false what it computed with the torchvision of 2023, in which the paper and its benchmark appeared, and reads
    single pixels of large images."""

    def load(self) -> Reward:
        """Open it, on the CPU. Raises UserError where its files cannot be had or are another network's."""
        from transformers import AutoTokenizer

        from distill.rewards.pretrained.clip import Similarity
        from distill.rewards.pretrained.open_clip import read_open_clip
        from distill.rewards.pretrained.preprocessing import Preprocessing, Resampler
        from distill.rewards.pretrained.tokens import OpenClipTokens
        from distill.rewards.pretrained.weights import find_file, open_pretrained

        clip = read_open_clip(find_file(self.path, FILES[self.version], "hpsv2.path"))
        tokenizer = open_pretrained(AutoTokenizer, self.tokenizer, "hpsv2.tokenizer")
        size = clip.config.vision_config.image_size
        resampler: Resampler = "torch_antialiased" if self.antialias else "torch"
        preparation = Preprocessing((size, size), size, edge="longer", resampler=resampler)
        tokens = OpenClipTokens(tokenizer, "hpsv2.tokenizer", self.tokenizer)
        return Similarity(self.name, clip, tokens, preparation, scale=1.0).eval().requires_grad_(False)
