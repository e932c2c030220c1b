"""Choose the kernels of a run on a GPU: TF32, a fixed order of sums, or the fastest of several."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import deterministic as determinism

from distill.training.settings import RunSettings

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Variable that gives cuBLAS its memory. With one buffer for each stream its sums have a fixed order."""


@contextmanager
def chosen_kernels(config: RunSettings, device: torch.device) -> Iterator[None]:
    """Use the kernels that a run's settings ask for within the block; a CPU has no choice of them."""
    if device.type != "cuda":
        yield
        return
    # cuBLAS reads the variable once in a process, so that a later deterministic run needs it now.
    os.environ.setdefault(WORKSPACE, ":4096:8")
    before = _modes()
    _set_modes(
        matmul_tf32=config.tf32,
        cudnn_tf32=config.tf32,
        deterministic=config.deterministic,
        warn_only=False,
        cudnn_deterministic=config.deterministic,
        cudnn_benchmark=not config.deterministic,
        fill=before["fill"] and not config.deterministic,
    )
    try:
        yield
    finally:
        _set_modes(**before)


def describe_kernels(config: RunSettings, device: torch.device) -> str:
    """Say in one line on which GPU a run computes, in which precision, and by which kernels."""
    parts = [f"precision {config.precision}", f"TF32 {'on' if config.tf32 else 'off'}"]
    parts.append(f"compile {config.compile}")
    if config.channels_last:
        parts.append("channels last")
    if config.deterministic:
        parts.append("deterministic: kernels that add in a fixed order, of which some are slower")
    else:
        parts.append("not deterministic: the fastest kernels, whose sums differ by rounding from run to run")
    return f"{device_name(device)}: {', '.join(parts)}"


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the type of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def nondeterministic_operation(error: Exception) -> str | None:
    """Return torch's name for an operation that has no deterministic kernel, None for another error."""
    name, found, _ = str(error).partition(" does not have a deterministic implementation")
    if found:
        return name.split()[-1]
    return "a cuBLAS product" if WORKSPACE in str(error) else None


def _modes() -> dict[str, Any]:
    with _quiet():
        return {
            "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
            "cudnn_deterministic": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "fill": determinism.fill_uninitialized_memory,  # type: ignore[attr-defined]
        }


def _set_modes(
    *,
    matmul_tf32: bool,
    cudnn_tf32: bool,
    deterministic: bool,
    warn_only: bool,
    cudnn_deterministic: bool,
    cudnn_benchmark: bool,
    fill: bool,
) -> None:
    with _quiet():
        torch.backends.cuda.matmul.allow_tf32 = matmul_tf32
        torch.backends.cudnn.allow_tf32 = cudnn_tf32
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
    torch.backends.cudnn.deterministic = cudnn_deterministic
    torch.backends.cudnn.benchmark = cudnn_benchmark
    determinism.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore torch's advice (2.9 and 2.10) to set TF32 by `fp32_precision`.

    torch.compile reads the older names and fails if the newer ones were set (pytorch/pytorch#166387).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32")
        yield
