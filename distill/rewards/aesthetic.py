"""LAION's aesthetic predictor, version 2 (Schuhmann 2022).

A linear head reads the unit embedding of an image by CLIP ViT-L/14, and no prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward

FILE = "sac+logos+ava1-l14-linearMSE.pth"


class Settings(RewardSettings):
    """LAION's aesthetic predictor: how good an image looks, about 1 to 10, without regard to its prompt."""

    name: Literal["aesthetic"] = "aesthetic"
    path: str = "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main"
    """The published file sac+logos+ava1-l14-linearMSE.pth; or the folder, https address or repository on the
    Hugging Face hub that holds it."""
    clip: str = "openai/clip-vit-large-patch14"
    """Folder of CLIP ViT-L/14, or its name on the Hugging Face hub."""

    @property
    def trained_features(self) -> tuple[str, ...]:
        return ("clip",)

    def load(self) -> Reward:
        from transformers import CLIPModel

        from distill.rewards.pretrained.aesthetic import Aesthetic, read_head
        from distill.rewards.pretrained.clip import ImageEmbedding
        from distill.rewards.pretrained.preprocessing import Preprocessing
        from distill.rewards.pretrained.weights import find_file, read_pretrained

        clip = read_pretrained(CLIPModel, self.clip, "aesthetic.clip")
        head = read_head(find_file(self.path, FILE, "aesthetic.path"), clip.config.projection_dim)
        size = clip.config.vision_config.image_size
        preprocessing = Preprocessing((size, size), size, rounds_middle=True)
        return Aesthetic(ImageEmbedding(clip, preprocessing), head).eval().requires_grad_(False)
