"""Open the pipeline that a teacher's settings name: a folder, a name on the hub, or a single file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
from distill.networks.diffusers.source import PipelineSource


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


def open_source_without_weights(source: PipelineSource, min_component_parameters: int) -> Any:
    """Open a pipeline; its denoiser and parts of at least so many parameters are on the meta device."""
    config = configuration_of(source.path, source.config)
    return open_source(source, **large_parts(config, source.revision, min_component_parameters))


def meta_source(source: PipelineSource) -> Any:
    """Build a pipeline on the meta device from its configuration files."""
    return meta_pipeline(configuration_of(source.path, source.config), source.revision)
