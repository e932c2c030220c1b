"""Human Preference Score v2 and v2.1 (Wu et al. 2023): a CLIP ViT-H/14 tuned on people's preferences.

The score is the plain cosine of image and prompt, about 0.2 to 0.4; the authors' benchmark prints a hundred
times it. Images are not cropped: their longer edge is resized to 224 pixels, as tensors that are neither
rounded nor clipped, and the rest is black. The two versions are different networks on different scales.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward

FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}


class Settings(RewardSettings):
    """Human Preference Score v2: an image's fit to its prompt and its appeal; about 0.2 to 0.4."""

    name: Literal["hpsv2"] = "hpsv2"
    version: Literal["v2.0", "v2.1"] = "v2.1"
    """Version of the published network. Scores of the two versions cannot be compared."""
    path: str = "xswu/HPSv2"
    """The published file of that version, the folder that holds it, or its repository on the Hugging Face
    hub."""
    tokenizer: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    """Folder of CLIP's tokenizer, or its name on the hub. Prompts are read as open_clip reads them, from this
    tokenizer's words and merges."""
    antialias: bool = True
    """Smooth an image before it is made smaller, which gives every pixel a gradient. true is what the
    authors' package computes with torchvision 0.17 (January 2024) or later; false is what it computed with
    the torchvision of 2023, when the paper and its benchmark appeared, and reads single pixels of large
    images."""

    @property
    def trained_features(self) -> tuple[str, ...]:
        return ("clip",)

    def load(self) -> Reward:
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
        preprocessing = Preprocessing((size, size), size, edge="longer", resampler=resampler)
        tokens = OpenClipTokens(tokenizer, "hpsv2.tokenizer", self.tokenizer)
        return Similarity(self.name, clip, tokens, preprocessing, scale=1.0).eval().requires_grad_(False)
