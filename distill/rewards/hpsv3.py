"""HPSv3 (Ma et al. 2025): Qwen2-VL 7B tuned on people's preferences between generated and real images.

The score is the mean that the network predicts; the deviation beside it is not read. An image is resized to
about 448 x 448 pixels, with its proportions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward

FILE = "HPSv3.safetensors"


class Settings(RewardSettings):
    """Human Preference Score v3: an image's fit to its prompt and its appeal."""

    name: Literal["hpsv3"] = "hpsv3"
    path: str = "MizzenAI/HPSv3"
    """The published file HPSv3.safetensors, the folder that holds it, or its repository on the Hugging Face
    hub."""
    processor: str = "Qwen/Qwen2-VL-7B-Instruct"
    """Folder of Qwen2-VL's configuration, tokenizer, chat template and image processor, or its name on the
    hub. Its weights are not read."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of the network. bfloat16 is what the authors compute in and takes 17 GB; float32 takes
    33 GB and several times as long. The head computes in float32."""
    checkpoint: bool = True
    """Recompute the network's layers in the backward pass. Saves gigabytes for each image, costs about a
    third more time, and does not change results. It changes nothing where there is no gradient."""

    def load(self) -> Reward:
        import torch

        from distill.rewards.pretrained.vision_language.hpsv3 import read_hpsv3
        from distill.rewards.pretrained.weights import find_file

        path = find_file(self.path, FILE, "hpsv3.path")
        reward = read_hpsv3(path, self.processor, getattr(torch, self.dtype), self.checkpoint)
        return reward.eval().requires_grad_(False)
