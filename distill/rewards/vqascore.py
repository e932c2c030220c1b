"""VQAScore (Lin et al. 2024): the probability that a vision-language model says "Yes, the image shows this".

Scores of different models and different questions cannot be compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward


class Settings(RewardSettings):
    """VQAScore: how surely a vision-language model says that an image shows its prompt; 0 to 1."""

    name: Literal["vqascore"] = "vqascore"
    path: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    """Folder of a chat model of transformers with its tokenizer and image processor, or its name on the
    Hugging Face hub: Qwen2-VL, Qwen2.5-VL, Qwen3-VL or LLaVA 1.5 (llava-hf)."""
    question: str = 'Does this figure show "{}"? Please answer yes or no.'
    """Question about the image, with {} in place of the prompt. The default is the paper's; the authors'
    later program asks Qwen2-VL and Qwen2.5-VL 'Does this image show "{}"?'."""
    answer: str = "Yes"
    """Answer whose probability is the score. It must be one token of the model."""
    scale: Literal["probability", "log"] = "probability"
    """`probability`, as in the paper, or `log` for its natural logarithm. As a reward, the logarithm also
    has a gradient where the probability is near 0."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Number format of the network. A model of 7 billion weights takes 17 GB in bfloat16, which these models
    are published in, and 33 GB in float32."""
    checkpoint: bool = True
    """Recompute the network's layers in the backward pass. Saves memory for each image, costs one more
    forward pass, and does not change results. It changes nothing where there is no gradient."""

    @field_validator("question")
    @classmethod
    def _has_a_place(cls, value: str) -> str:
        if value.count("{}") != 1:
            raise ValueError(f"'{value}': expected {{}} once, in place of the prompt")
        return value

    @property
    def memory(self) -> str:
        return "2 bytes a weight" if self.dtype == "bfloat16" else "4 bytes a weight"

    @property
    def trained_features(self) -> tuple[str, ...]:
        """LLaVA sees by the CLIP of these features; the other models have image encoders of their own."""
        from distill.storage.files import read_mapping

        config = Path(self.path) / "config.json"
        family = read_mapping(config).get("model_type") if config.is_file() else Path(self.path).name
        return ("clip",) if "llava" in str(family).lower() else ()

    def load(self) -> Reward:
        import torch

        from distill.rewards.pretrained.vision_language.vqascore import read_vqascore

        dtype = getattr(torch, self.dtype)
        reward = read_vqascore(self.path, self.question, self.answer, self.scale, dtype, self.checkpoint)
        return reward.eval().requires_grad_(False)
