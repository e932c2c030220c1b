"""What the images of a model depend on besides seed and condition, as plain data: under its hash they are stored."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn

from distill.export import describe_model
from distill.files import weights_sha256
from distill.types import ImageModel

PLACES = ("_name_or_path", "_diffusers_version", "transformers_version", "architectures")
"""Settings of diffusers' and transformers' parts that say where they came from, and decide nothing."""


def describe_images_of(network: ImageModel) -> dict[str, Any]:
    """What decides a generator's or a denoiser's images besides its weights: its sizes and schedule, and the hash of each part that it works with."""
    parts = {name: part_sha256(part) for name, part in sorted(network.components().items()) if part is not None}
    return {"model": describe_model(network), "parts_sha256": parts}


def part_sha256(part: Any) -> str:
    """The hash of what `describe_part` says."""
    return hashlib.sha256(json.dumps(describe_part(part), sort_keys=True).encode()).hexdigest()


def describe_part(part: Any) -> dict[str, Any]:
    """The class of a part of a pipeline, and what there is of weights, settings and words in it."""
    found: dict[str, Any] = {"class": type(part).__name__}
    if isinstance(part, nn.Module):
        found["weights_sha256"] = weights_sha256(part)
    config = getattr(part, "config", None)
    if config is not None:
        settings = config if isinstance(config, dict) else config.to_dict()
        found["config"] = {name: value for name, value in settings.items() if name not in PLACES}
    if hasattr(part, "get_vocab"):
        found["words_sha256"] = _words_sha256(part)
    return json.loads(json.dumps(found, default=str))


def _words_sha256(tokenizer: Any) -> str:
    """Hash of a tokenizer's words and of the rules by which it splits a text into them."""
    described: Any = sorted(tokenizer.get_vocab().items())
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        described = {name: value for name, value in rules.items() if name not in ("truncation", "padding")}  # calls change these
    return hashlib.sha256(json.dumps([described, tokenizer.model_max_length], sort_keys=True).encode()).hexdigest()
