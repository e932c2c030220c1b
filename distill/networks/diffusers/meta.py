"""Diffusers pipelines without weights: their networks on the meta device, built from their configurations."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.config.errors import UserError
from distill.networks.diffusers.published import PUBLISHED, Parts


def meta_pipeline(source: str, revision: str | None = None) -> Any:
    """The pipeline of a folder or of the hub, which may lack weights and tokenizers. Raises UserError where its configurations cannot be had."""
    import diffusers

    from distill.networks.diffusers.pipeline import check_folder

    if Path(source).is_dir():
        check_folder(Path(source), "teacher.path")
    try:
        kind, parts = (
            PUBLISHED[source]
            if source in PUBLISHED and not Path(source).is_dir()
            else _read_parts(source, revision)
        )
        pipeline = getattr(diffusers, kind)
        wanted = [
            name
            for name, parameter in inspect.signature(pipeline.__init__).parameters.items()
            if parameter.default is inspect.Parameter.empty
        ]
        built: dict[str, Any] = {
            name: _meta_part(*parts[name]) if name in parts else None for name in wanted if name != "self"
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"teacher.path: the configurations of {source} cannot be read as a diffusers pipeline's ({error})"
        ) from error
    if "safety_checker" in built:
        built["requires_safety_checker"] = False
    return pipeline(**built)


def _read_parts(source: str, revision: str | None) -> tuple[str, Parts]:
    """Class and parts of a pipeline, without what only turns text and images into numbers."""
    import diffusers
    import transformers

    index = diffusers.DiffusionPipeline.load_config(source, revision=revision)
    parts: Parts = {}
    for name, entry in index.items():
        if (
            not isinstance(entry, (list, tuple))
            or len(entry) != 2
            or entry[0] not in ("diffusers", "transformers")
        ):
            continue
        library, kind = entry
        place = {"subfolder": name, "revision": revision}
        if library == "diffusers":
            parts[name] = (library, kind, getattr(diffusers, kind).load_config(source, **place))
        elif isinstance(getattr(transformers, kind), type) and issubclass(
            getattr(transformers, kind), nn.Module
        ):
            parts[name] = (
                library,
                kind,
                getattr(transformers, kind).config_class.from_pretrained(source, **place).to_dict(),
            )
    return index["_class_name"], parts


def _meta_part(library: str, kind: str, config: dict[str, Any]) -> Any:
    import diffusers
    import transformers

    if library == "transformers":
        network = getattr(transformers, kind)
        with torch.device("meta"):
            return network(network.config_class(**config))
    part = getattr(diffusers, kind)
    if not issubclass(part, nn.Module):
        return part.from_config(config)
    with torch.device("meta"):
        return part.from_config(config)
