"""What decides the images of a network, hashed: its weights and settings, and those of everything that it works with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

PLACES = {
    *("path", "revision", "variant", "name_or_path", "_name_or_path", "_diffusers_version", "transformers_version", "_commit_hash"),
    *("vocab_file", "merges_file", "tokenizer_file", "special_tokens_map_file", "local_files_only", "is_local"),
}
"""Settings that say where a model is from, or by what it was written, and nothing of what it makes."""


def network_sha256(network: Any) -> str:
    """Hash of a network's own weights and settings, its noise schedule, and, of a network of latents or of text, of its autoencoder, its encoders
    and its scheduler."""
    facts: dict[str, Any] = {"settings": _plain(network.describe()) if hasattr(network, "describe") else None}
    facts |= {"schedule": _plain(getattr(network, "schedule", None)), "noise_to_signal": _plain(getattr(network, "noise_to_signal", None))}
    facts |= {name: module_facts(part) for name, part in {"network": network, **network.other_parts()}.items()}
    inner = getattr(network, "denoiser", network)
    pipeline = getattr(inner, "pipeline", None)
    if pipeline is not None:
        facts |= {"size": list(network.pixel_shape), "null_label": pipeline.null_label, "guidance": pipeline.embedded_guidance}
        facts["components"] = pipeline_facts(pipeline.pipe)
    return facts_sha256(facts)


def pipeline_facts(pipe: Any) -> dict[str, Any]:
    """Weights, settings and vocabularies of the components of a diffusers pipeline, and the settings of its own."""
    facts: dict[str, Any] = {"class": type(pipe).__name__, "settings": _plain(dict(pipe.config))}
    return facts | {name: component_facts(part) for name, part in sorted(pipe.components.items()) if part is not None}


def component_facts(part: Any) -> dict[str, Any]:
    """A module's, a scheduler's, a tokenizer's or an image processor's."""
    if isinstance(part, nn.Module):
        return module_facts(part)
    facts: dict[str, Any] = {"class": type(part).__name__}
    if hasattr(part, "get_vocab"):
        facts |= {"vocabulary": sorted(part.get_vocab().items()), "settings": _plain(getattr(part, "init_kwargs", None))}
    elif hasattr(part, "to_dict"):
        facts["settings"] = _plain(part.to_dict())
    else:
        facts["settings"] = _plain(dict(getattr(part, "config", {})))
    return facts


def module_facts(module: nn.Module) -> dict[str, Any]:
    """The class of a module, the hash of its weights and buffers, and the settings of all modules in it."""
    return {"class": type(module).__name__, "weights_sha256": tensors_sha256(module), "settings": sorted(set(_settings(module)))}


def tensors_sha256(module: nn.Module) -> str:
    """Hash of a module's weights and buffers, those that it does not save too, with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def facts_sha256(facts: Any) -> str:
    """Hash of plain data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _settings(module: nn.Module) -> Iterator[str]:
    for inner in module.modules():
        for name in ("config", "sizes", "precond", "settings"):
            value = getattr(inner, name, None)
            if value is not None and not isinstance(value, (nn.Module, torch.Tensor)):
                yield json.dumps([type(inner).__name__, name, _plain(value)], sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {"class": type(value).__name__, **dataclasses.asdict(value)}
    elif hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items() if key not in PLACES}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
