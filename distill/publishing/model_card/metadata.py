"""The metadata of a model card, by which the hub sorts, filters and links models.

Source: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from distill.networks.folder import ADAPTERS
from distill.publishing.model_card.licence import Licence
from distill.publishing.model_card.names import hub_name, makes_images
from distill.publishing.run_record import Run
from distill.publishing.scene.description import SCENE


def render_metadata(folder: Path, run: Run, export: dict[str, Any], licence: Licence | None) -> str:
    """Write the metadata that the hub sorts models by."""
    is_adapter = (folder / ADAPTERS).is_file()
    is_scene = export["network"]["class"] == SCENE
    kind = "few-step" if export.get("further_noise_to_signal") else "one-step"
    tags = [
        "3d" if is_scene else kind,
        "diffusion-distillation",
        (run.config.get("objective") or {}).get("name"),
        export["network"]["class"],
        "lora" if is_adapter else None,
    ]
    entries: dict[str, Any] = {} if licence is None else dict(licence.entries())
    entries["library_name"] = "diffusers" if makes_images(folder) else "distill"
    entries["tags"] = [tag for tag in tags if tag]
    has_prompts = run.config.get("prompts") is not None
    if is_scene:
        return _yaml_front({**entries, "pipeline_tag": "text-to-3d"} if has_prompts else entries)
    if makes_images(folder):
        entries["pipeline_tag"] = "text-to-image" if has_prompts else "unconditional-image-generation"
    base = hub_name(run.config.get("teacher") or {})
    if base is not None:
        entries["base_model"] = base
        entries["base_model_relation"] = "adapter" if is_adapter else "finetune"
    return _yaml_front(entries)


def _yaml_front(entries: dict[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(entries, sort_keys=False)}---"


def link_teacher(teacher: dict[str, Any]) -> str:
    """Name the teacher in Markdown."""
    name = hub_name(teacher)
    if name is not None:
        return f"[{name}](https://huggingface.co/{name})"
    if teacher.get("path"):
        return f"`{teacher['path']}`"
    return f"a teacher of the kind `{teacher.get('name')}`"
