"""Checks of the networks that GenEval is given, by their configurations, before anything is computed."""

from __future__ import annotations

from typing import Any

from distill.config.errors import UserError
from distill.eval.composition.geneval.detector import check_classes
from distill.rewards.pretrained.weights import open_pretrained


def check_networks(detector: str, clip: str) -> None:
    """Refuse a detector that is no Mask2Former of COCO's classes, and colours that are not by CLIP."""
    names = _read_config(detector, "mask2former", "--detector").id2label
    check_classes([str(names[number]) for number in sorted(names)], detector)
    _read_config(clip, "clip", "--clip")


def _read_config(source: str, family: str, flag: str) -> Any:
    """Read a configuration of transformers, and refuse one of another family. `flag` names it in messages."""
    from transformers import AutoConfig

    config = open_pretrained(AutoConfig, source, flag)
    if config.model_type != family:
        raise UserError(f"{flag}: {source} holds a {config.model_type}; expected a {family}")
    return config
