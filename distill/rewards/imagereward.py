"""ImageReward v1 (Xu et al. 2023): a linear head on the first token of a prompt that BLIP-large reads while it looks at the image, normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.rewards import RewardSettings

if TYPE_CHECKING:
    from distill.types import Reward

FILE = "ImageReward.pt"


class Settings(RewardSettings):
    """ImageReward v1: how well an image fits its prompt and pleases; about -2 to 2."""

    name: Literal["imagereward"] = "imagereward"
    path: str = "THUDM/ImageReward"
    """The published ImageReward.pt, a folder that holds it, or its repository on the Hugging Face hub."""
    tokenizer: str = "bert-base-uncased"
    """Folder of BERT's tokenizer, or its name on the hub."""

    def load(self) -> Reward:
        """Open it, on the CPU. Raises UserError where its files cannot be had or are another network's."""
        from transformers import AutoTokenizer

        from distill.rewards.pretrained.image_reward import read_image_reward
        from distill.rewards.pretrained.weights import find_file, open_pretrained

        tokenizer = open_pretrained(AutoTokenizer, self.tokenizer, "imagereward.tokenizer")
        return (
            read_image_reward(find_file(self.path, FILE, "imagereward.path"), tokenizer)
            .eval()
            .requires_grad_(False)
        )
