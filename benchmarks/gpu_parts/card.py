"""The card: its name and software, and the rate of its matrix products, to compare all other rates with."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu_parts.part import GIB, TERA, Part, Record, median_time
from distill.storage.provenance import commit

SIZES = (4096, 8192, 16384)
"""Numbers of rows and columns of the matrices; the best rate counts."""
TINY_SIZES = (64,)
KINDS: dict[str, tuple[torch.dtype, bool]] = {
    "bf16": (torch.bfloat16, False),
    "fp16": (torch.float16, False),
    "tf32": (torch.float32, True),
    "fp32": (torch.float32, False),
}
"""Types of the factors, and whether TF32 rounds them, by the names of the rates."""


def measure_card(part: Part) -> None:
    """Record the environment and the rate of each kind of matrix product."""
    part.write({"environment": environment()})
    for name, (dtype, tf32) in KINDS.items():
        with _tf32(tf32):
            rates = {size: matrix_rate(part, size, dtype) for size in (TINY_SIZES if part.tiny else SIZES)}
        part.write({"matrix rate": name, "tflops": max(rates.values()), "by size": rates})


def environment() -> Record:
    """Describe the machine, its software and the source tree."""
    import diffusers
    import transformers

    found: Record = {
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "driver": _driver(),
        "card": None,
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {
            "card": card.name,
            "memory_gib": card.total_memory / GIB,
            "multiprocessors": card.multi_processor_count,
            "capability": f"{card.major}.{card.minor}",
        }
    return found


def _driver() -> str | None:
    """Return the version of NVIDIA's driver, None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else None


def matrix_rate(part: Part, size: int, dtype: torch.dtype) -> float:
    """Return the TFLOP/s of products of two square matrices of random numbers."""
    factors: list[Any] = [torch.randn(size, size, device=part.device, dtype=dtype) for _ in range(2)]
    product = torch.empty(size, size, device=part.device, dtype=dtype)
    torch.mm(*factors, out=product)
    seconds = median_time(lambda: torch.mm(*factors, out=product), seconds=0.01 if part.tiny else 0.4)
    return 2 * size**3 / seconds / TERA


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Let products in float32 round their factors to TF32, or not, inside the block."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
