"""Runs that train tiny networks of diffusers from their configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.helpers import tiny_components

UNET: dict[str, Any] = {
    "class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
SCHEDULER: dict[str, Any] = {
    "class_name": "DDIMScheduler",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}
AUTOENCODER: dict[str, Any] = {"block_out_channels": [4, 8], "latent_channels": 4, "norm_num_groups": 4}
SHORT: dict[str, Any] = {
    "steps": 4,
    "batch_size": 4,
    "checkpoint_every": 2,
    "sample_every": 4,
    "ema": 0.5,
    "optimizer": {"lr": 1e-2},
}


def make_parts(root: Path) -> Path:
    """Make an autoencoder, a text encoder and its tokenizer, and captioned images of 16x16; return `root`."""
    torch.manual_seed(0)
    tiny_components.autoencoder().save_pretrained(root / "vae")
    tiny_components.text_encoder().save_pretrained(root / "clip")
    tiny_components.tokenizer().save_pretrained(root / "clip")
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (10, 16, 16, 3), dtype=np.uint8)
    np.savez(root / "images.npz", images=images)
    (root / "images").mkdir()
    lines = []
    for row, pixels in enumerate(images):
        Image.fromarray(pixels).save(root / "images" / f"{row}.png")
        lines.append({"file_name": f"{row}.png", "text": [f"{'abc'[row % 3]} cat", f"dog {'xyz'[row % 3]}"]})
    (root / "images" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


def text_to_image(root: Path, **changes: Any) -> dict[str, Any]:
    """Return the settings of a run that trains a text-to-image teacher with the parts in a folder."""
    settings = {
        "task": "train_teacher",
        "data": {"name": "captioned_folder", "path": str(root / "images"), "resolution": 16},
        "noise_levels": {"name": "uniform"},
        "label_dropout": 0.5,
        "pipeline": {
            "class_name": "StableDiffusionPipeline",
            "denoiser": UNET,
            "scheduler": SCHEDULER,
            "parts": {
                "vae": str(root / "vae"),
                "text_encoder": str(root / "clip"),
                "tokenizer": str(root / "clip"),
            },
        },
    }
    return {**settings, **SHORT, **changes}


def autoencoder(root: Path, **changes: Any) -> dict[str, Any]:
    """Return the settings of a run that trains an autoencoder on the images in a folder."""
    data = {"name": "array", "path": str(root / "images.npz")}
    return {"task": "train_autoencoder", "data": data, "network": AUTOENCODER, **SHORT, **changes}
