"""Flags that several commands share: the device, the precision and the resolution of networks.

Nothing here imports torch, so that a wrong flag is reported at once.
"""

from __future__ import annotations

from distill.config.command_line import ArgumentParser

DTYPES = ("float32", "bfloat16", "float16")


def add_device(parser: ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="device of the networks; auto takes a GPU if there is one (default: auto)",
    )


def add_computation(parser: ArgumentParser) -> None:
    """Add `--resolution`, `--device` and `--dtype`."""
    parser.add_argument(
        "--resolution",
        type=int,
        help="height and width in pixels, for models of diffusers (default: the model's own)",
    )
    add_device(parser)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="floating-point type that the networks compute in (default: float32)",
    )
