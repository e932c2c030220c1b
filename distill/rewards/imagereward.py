"""ImageReward v1 (Xu et al. 2023): BLIP-large reads prompt and image, and a linear head scores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward

FILE = "ImageReward.pt"


class Settings(RewardSettings):
    """ImageReward v1: an image's fit to its prompt and its appeal; about -2 to 2."""

    name: Literal["imagereward"] = "imagereward"
    path: str = "THUDM/ImageReward"
    """The published file ImageReward.pt, the folder that holds it, or its repository on the Hugging Face
    hub."""
    tokenizer: str = "bert-base-uncased"
    """Folder of BERT's tokenizer, or its name on the hub."""

    def load(self) -> Reward:
        from transformers import AutoTokenizer

        from distill.rewards.pretrained.image_reward import read_image_reward
        from distill.rewards.pretrained.weights import find_file, open_pretrained

        tokenizer = open_pretrained(AutoTokenizer, self.tokenizer, "imagereward.tokenizer")
        reward = read_image_reward(find_file(self.path, FILE, "imagereward.path"), tokenizer)
        return reward.eval().requires_grad_(False)
