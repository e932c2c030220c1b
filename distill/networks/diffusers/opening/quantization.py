"""Denoisers whose weights are quantised: by diffusers as it opens them, or in their files already.

A quantised denoiser is frozen: it serves as teacher, and as the base under the adapters of student and fake
score. bitsandbytes holds linear layers as LLM.int8 (Dettmers et al. 2022) or NF4 (QLoRA, Dettmers et al.
2023), torchao as int8 or float8 with a scale for each row, and GGUF files as GGML's blocks.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.config.errors import UserError
from distill.networks.diffusers.meta import DENOISERS
from distill.networks.diffusers.opening.folders import check_folder
from distill.networks.diffusers.source import BitsAndBytes, PipelineSource, Quantization, TorchAO

INSTALL = "pip install '.[quantization]'"


def quantization_settings(quantization: Quantization | None, dtype: torch.dtype) -> Any:
    """Return what diffusers takes as `quantization_config`.

    A package or a device that is missing is refused.
    """
    if quantization is None:
        return None
    _require(quantization.name, f"teacher.quantization: {quantization.name}")
    import diffusers

    if isinstance(quantization, TorchAO):
        return diffusers.TorchAoConfig(_torchao_settings(quantization))
    return _bitsandbytes_settings(quantization, dtype)


def gguf_settings(dtype: torch.dtype) -> Any:
    """Return what diffusers takes as `quantization_config` for a GGUF file, computing in `dtype`."""
    from diffusers import GGUFQuantizationConfig

    return GGUFQuantizationConfig(compute_dtype=dtype)


def open_quantized(source: PipelineSource, settings: Any) -> dict[str, nn.Module]:
    """Open the denoiser of a pipeline, and quantise it; return it by its name in the pipeline."""
    import diffusers

    if Path(source.path).is_dir():
        check_folder(Path(source.path), "teacher.path")
    files = {"revision": source.revision, "variant": source.variant, "dtype": getattr(torch, source.dtype)}
    try:
        index = diffusers.DiffusionPipeline.load_config(source.path, revision=source.revision)
        name = next(name for name in DENOISERS if name in index)
        kind = getattr(diffusers, index[name][1])
        network = kind.from_pretrained(
            source.path, subfolder=name, use_safetensors=True, quantization_config=settings, **files
        )
    except (OSError, ValueError, AttributeError, ImportError, RuntimeError, StopIteration) as error:
        raise UserError(
            f"teacher.quantization: the denoiser of {source.path} cannot be opened quantised ({error})"
        ) from error
    return {name: network}


def check_stored(source: PipelineSource) -> None:
    """Refuse to quantise weights that are quantised in their files, and methods that cannot run here."""
    method = source.stored_quantization
    if method is None:
        return
    if source.quantization is not None:
        raise UserError(
            f"teacher.quantization: {source.path} is quantised already, by {method}; expected null"
        )
    if method not in ("bitsandbytes", "torchao", "gguf"):
        raise UserError(
            f"teacher.path: {source.path} is quantised by {method}; expected bitsandbytes, torchao or none"
        )
    _require(method, f"teacher.path: {source.path}")


def is_quantized(network: nn.Module) -> bool:
    """Tell a network that diffusers opened quantised."""
    return getattr(network, "hf_quantizer", None) is not None


def _require(package: str, place: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{place} needs the package {package}; {INSTALL}")
    if package == "bitsandbytes" and not torch.cuda.is_available():
        raise UserError(f"{place} needs a CUDA device, and there is none; expected torchao, or null")


def _torchao_settings(quantization: TorchAO) -> Any:
    from torchao import quantization as torchao

    if quantization.weights == "float8":
        return torchao.Float8WeightOnlyConfig()
    return torchao.Int8WeightOnlyConfig(version=2)


def _bitsandbytes_settings(quantization: BitsAndBytes, dtype: torch.dtype) -> Any:
    from diffusers import BitsAndBytesConfig

    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
