"""Open the pipeline that a teacher's settings name: a folder, a name on the hub, or a single file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from distill.config.errors import UserError
from distill.networks.diffusers.meta import DENOISERS, large_parts, meta_pipeline
from distill.networks.diffusers.opening.folders import open_pipeline
from distill.networks.diffusers.opening.quantization import (
    check_stored,
    gguf_settings,
    open_quantized,
    quantization_settings,
)
from distill.networks.diffusers.opening.single_file import (
    configuration_of,
    is_gguf,
    is_single_file,
    open_single_file,
)
from distill.networks.diffusers.prompt_encoder import describe_encoding
from distill.networks.diffusers.source import PipelineSource
from distill.storage.tensors import file_sha256

TEXT_PARTS = ("text_encoder", "tokenizer")
"""Beginnings of the names of the parts that encode prompts."""


def open_source(source: PipelineSource, **parts: Any) -> Any:
    """Open a pipeline with its weights in the type that `source` asks for; `parts` are used as they are."""
    dtype: torch.dtype = getattr(torch, source.dtype)
    config = configuration_of(source.path, source.config)
    check_stored(source)
    if is_gguf(source.path):
        settings = gguf_settings(dtype)
    else:
        settings = quantization_settings(source.quantization, dtype)
    if is_single_file(source.path):
        return open_single_file(Path(source.path), config, dtype, settings, **parts)
    if settings is not None and not any(name in parts for name in DENOISERS):
        parts |= open_quantized(source, settings)
    files = {"revision": source.revision, "variant": source.variant, "dtype": dtype}
    return open_pipeline(source.path, "teacher.path", **files, **parts)


def open_source_without_weights(source: PipelineSource, min_component_parameters: int, **parts: Any) -> Any:
    """Open a pipeline; its denoiser and parts of at least so many parameters are on the meta device."""
    config = configuration_of(source.path, source.config)
    return open_source(source, **{**large_parts(config, source.revision, min_component_parameters), **parts})


def without_text(source: PipelineSource) -> dict[str, None]:
    """Return a pipeline's text encoders and tokenizers as parts to leave out."""
    from diffusers import DiffusionPipeline

    config = configuration_of(source.path, source.config)
    try:
        index = DiffusionPipeline.load_config(config, revision=source.revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"teacher.path: {config} cannot be opened as a diffusers pipeline ({error})"
        ) from error
    return {name: None for name in index if name.startswith(TEXT_PARTS)}


def describe_encoder(pipe: Any, source: PipelineSource) -> dict[str, Any]:
    """Return all that encoded prompts depend on, without opening a text encoder: the hash of their files.

    It takes the time of reading these files once: seconds for CLIP, a minute for the largest T5.
    """
    return {
        **describe_encoding(pipe),
        "dtype": source.dtype,
        "variant": source.variant,
        "files_sha256": _files_sha256(source),
    }


def _files_sha256(source: PipelineSource) -> str:
    """Hash the files of the text encoders and tokenizers, with their names."""
    from diffusers import DiffusionPipeline

    config = configuration_of(source.path, source.config)
    folder = Path(config)
    if not folder.is_dir():
        files = {"revision": source.revision, "variant": source.variant}
        folder = Path(DiffusionPipeline.download(config, use_safetensors=True, **files))
    parts = sorted(path for path in folder.iterdir() if path.name.startswith(TEXT_PARTS))
    found = [path for part in parts for path in sorted(part.rglob("*")) if path.is_file()]
    names = [f"{path.relative_to(folder).as_posix()} {file_sha256(path)}" for path in found]
    if is_single_file(source.path):
        names.append(file_sha256(Path(source.path)))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def meta_source(source: PipelineSource) -> Any:
    """Build a pipeline on the meta device from its configuration files."""
    return meta_pipeline(configuration_of(source.path, source.config), source.revision)
