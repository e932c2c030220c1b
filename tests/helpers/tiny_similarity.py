"""Tiny networks for the scores that compare an image with its prompt: PickScore, HPSv2 and CLIPScore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from distill.rewards import of_name
from distill.types import Reward
from tests.helpers import published_rewards as published
from tests.helpers import tiny_reward_networks as tiny_networks
from tests.helpers.tiny_reward_networks import LENGTH, SIZE, WORDS

HPS = {
    "vision": (2, 32, 2),
    "text": (2, 24, 2),
    "size": SIZE,
    "patch": 8,
    "words": WORDS,
    "length": LENGTH,
    "embedding": 12,
}


def write_networks(root: Path) -> Path:
    """Write folders like the published ones, and return `root`.

    `clip` is complete, `processor` has no network, and `hps` has open_clip's files.
    """
    tiny_networks.clip(root / "clip")
    tiny_networks.clip_processor(root / "processor")
    (root / "hps").mkdir()
    for seed, name in enumerate(("HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt")):
        state = {f"module.{key}": value.half() for key, value in hps(seed).state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, root / "hps" / name)
    return root


def hps(seed: int) -> published.OpenCLIP:
    """Make open_clip's network, with weights in half precision like the published ones."""
    torch.manual_seed(seed)
    network = tiny_networks.disturbed(published.OpenCLIP(**HPS))  # type: ignore[arg-type]
    return network.half().float()


def tiny_vit_h_14() -> Any:
    """Return the sizes of a tiny ViT-H/14, as transformers describes them."""
    from transformers import CLIPConfig

    shared = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
    text = {
        **shared,
        "hidden_size": 24,
        "intermediate_size": 96,
        "vocab_size": WORDS,
        "max_position_embeddings": LENGTH,
        "eos_token_id": 59,
    }
    vision = {**shared, "hidden_size": 32, "intermediate_size": 128, "image_size": SIZE, "patch_size": 8}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)


def opened(score: str, root: Path, **settings: Any) -> Reward:
    """Open a score from the folders of `write_networks`."""
    places = {
        "pickscore": {"path": root / "clip", "processor": root / "processor"},
        "hpsv2": {"path": root / "hps", "tokenizer": root / "processor"},
        "clipscore": {"path": root / "clip"},
    }[score.split(".")[0]]
    return of_name(score, **{name: str(place) for name, place in places.items()}, **settings).load()
