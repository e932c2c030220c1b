"""The identity of a model: plain data of all that decides its images besides seed and condition. They are stored by it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn

from distill.networks.folder import describe_model
from distill.storage.tensors import weights_sha256
from distill.types import ImageModel

PLACES = ("_name_or_path", "_diffusers_version", "transformers_version", "architectures")
"""Settings of diffusers' and transformers' parts that say where they came from, and decide nothing."""


def describe_images_of(network: ImageModel) -> dict[str, Any]:
    """Return what decides a generator's or a denoiser's images besides its weights.

    These are its sizes and its schedule, and the hash of each part that it works with.
    """
    parts = sorted((name, part) for name, part in network.components().items() if part is not None)
    return {
        "model": describe_model(network),
        "parts_sha256": {name: part_sha256(part) for name, part in parts},
    }


def part_sha256(part: Any) -> str:
    """Return the hash of what `describe_part` says."""
    return hashlib.sha256(json.dumps(describe_part(part), sort_keys=True).encode()).hexdigest()


def describe_part(part: Any) -> dict[str, Any]:
    """Return the class of a part of a pipeline, and what there is of weights, settings and words in it."""
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
        calls_change = ("truncation", "padding")
        described = {name: value for name, value in rules.items() if name not in calls_change}
    content = json.dumps([described, tokenizer.model_max_length], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
