"""A folder with a tiny random Mask2Former of COCO's classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from distill.eval.composition.geneval.requirements import CLASSES
from tests.helpers.tiny_reward_networks import disturbed

PUBLISHED_NAMES = {
    "motorcycle": "motorbike",
    "airplane": "aeroplane",
    "couch": "sofa",
    "potted plant": "pottedplant",
    "dining table": "diningtable",
    "tv": "tvmonitor",
    "computer mouse": "mouse",
    "tv remote": "remote",
    "computer keyboard": "keyboard",
}
"""Names in the configuration of the published weights, where they are not GenEval's."""


def mask2former(folder: Path, classes: Sequence[str] = CLASSES, sharpness: float = 12.0) -> Path:
    """Write a `Mask2FormerForUniversalSegmentation`; a larger `sharpness` makes it more confident."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    names = {number: PUBLISHED_NAMES.get(name, name) for number, name in enumerate(classes)}
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=12,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    network = disturbed(Mask2FormerForUniversalSegmentation(config))
    network.class_predictor.weight.data *= sharpness
    network.save_pretrained(folder)
    return folder
