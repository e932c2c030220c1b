"""PickScore v1 (Kirstain et al. 2023): a CLIP ViT-H/14 tuned on people's choices between images.

The score is exp(s) cos(image, prompt) with the network's own `logit_scale` s, about 20 to 23; papers also
print a hundredth of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward


class Settings(RewardSettings):
    """PickScore v1: higher for the image that people would pick for a prompt; about 20 to 23."""

    name: Literal["pickscore"] = "pickscore"
    path: str = "yuvalkirstain/PickScore_v1"
    """Folder of the network, or its name on the Hugging Face hub."""
    processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    """Folder of the tokenizer and of the image processor, or its name on the hub."""

    @property
    def trained_features(self) -> tuple[str, ...]:
        return ("clip",)

    def load(self) -> Reward:
        from transformers import AutoTokenizer, CLIPModel

        from distill.rewards.pretrained.clip import Similarity
        from distill.rewards.pretrained.preprocessing import read_preprocessing
        from distill.rewards.pretrained.tokens import PublishedTokens
        from distill.rewards.pretrained.weights import open_pretrained, read_pretrained

        clip = read_pretrained(CLIPModel, self.path, "pickscore.path")
        tokenizer = open_pretrained(AutoTokenizer, self.processor, "pickscore.processor")
        preprocessing = read_preprocessing(self.processor, "pickscore.processor")
        reward = Similarity(self.name, clip, PublishedTokens(tokenizer), preprocessing, scale=None)
        return reward.eval().requires_grad_(False)
