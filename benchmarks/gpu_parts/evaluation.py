"""Evaluation: features of images in a second, by Inception with random weights."""

from __future__ import annotations

import torch

from benchmarks.gpu_parts.part import Part, compare_calls, memory
from distill.eval.features import AT_ONCE, features_of
from distill.eval.features.inception import Inception

IMAGES = 512
LARGE = 128
"""Images at once for the floor."""


def measure_evaluation(part: Part) -> None:
    """Record the images in a second: as the evaluation computes features, and of the bare network."""
    torch.manual_seed(0)
    count = AT_ONCE if part.tiny else IMAGES
    extractor = Inception().eval().requires_grad_(False).to(part.device)
    images = torch.randint(0, 256, (count, 3, 299, 299)).float()
    there = images[: AT_ONCE if part.tiny else LARGE].to(part.device)

    @torch.inference_mode()
    def bare() -> object:
        return extractor(there)

    calls = {
        "features_of": lambda: features_of(extractor, images),
        "bare network": bare,
        "features_of, again": lambda: features_of(extractor, images),
    }
    done = {"features_of": count, "bare network": len(there), "features_of, again": count}
    times = compare_calls(part, calls, seconds=0.1 if part.tiny else 3.0)
    rates = {f"{name}_per_s": done[name] / seconds for name, seconds in times.items()}
    part.write({"features": "Inception", "images": count, "at_once": AT_ONCE, **rates, **memory()})
