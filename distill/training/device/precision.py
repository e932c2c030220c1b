"""The precision of a run's passes, and its agreement with `accelerate launch`."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from distill.config.errors import UserError

if TYPE_CHECKING:
    import torch

LAUNCHER = "ACCELERATE_MIXED_PRECISION"
"""Variable by which `accelerate launch --mixed_precision` tells its processes."""


def autocast_type(precision: str) -> torch.dtype | None:
    """Return the type in which autocast computes matrix products; None computes in the weights' own."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Compute the passes and losses within the block in a run's precision.

    The context is torch's own. accelerate's would bring a gradient scaler of its own for fp16.
    """
    import torch

    dtype = autocast_type(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def check_launcher(precision: str) -> None:
    """Refuse a precision of `accelerate launch` that is not the configuration's."""
    given = os.environ.get(LAUNCHER, "no").lower()
    if given == "fp8":
        raise UserError(
            "precision: accelerate launch says --mixed_precision fp8, which is not offered; "
            f"expected {precision}, or no"
        )
    if given not in ("no", precision):
        raise UserError(
            f"precision: is {precision}, but accelerate launch says --mixed_precision {given}; "
            "expected the same, or no"
        )
