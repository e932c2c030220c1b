"""The identity of a model: plain data on all that decides its images apart from seed and condition.

Stored images and encoded prompts carry it, so that they are used for the same model only.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn

from distill.networks.folder import describe_model
from distill.storage.tensors import weights_sha256
from distill.types import ImageModel

PLACES = ("_name_or_path", "_diffusers_version", "transformers_version", "architectures")
"""Settings of diffusers' and transformers' parts that say where they came from, and change no image."""


def describe_images_of(network: ImageModel) -> dict[str, Any]:
    """Return what decides a generator's or a denoiser's images apart from its weights.

    These are its sizes and its schedule, and the hash of each part that it works with.
    """
    parts = sorted((name, part) for name, part in network.components().items() if part is not None)
    return {
        "model": describe_model(network),
        "parts_sha256": {name: part_sha256(part) for name, part in parts},
    }


def part_sha256(part: Any) -> str:
    """Hash what `describe_part` returns."""
    return hashlib.sha256(json.dumps(describe_part(part), sort_keys=True).encode()).hexdigest()


def describe_part(part: Any) -> dict[str, Any]:
    """Return the class of a pipeline's part, and its weights, settings and vocabulary if it has any."""
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
    """Hash a tokenizer's vocabulary and the rules by which it splits a text."""
    described: Any = sorted(tokenizer.get_vocab().items())
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        changed_by_calls = ("truncation", "padding")
        described = {name: value for name, value in rules.items() if name not in changed_by_calls}
    content = json.dumps([described, tokenizer.model_max_length], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
