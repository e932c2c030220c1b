"""Images of students and of teachers from seeds. Image i depends on its own seed alone, not on the batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distill.config.progress import ProgressBar
from distill.diffusion.guidance import check_guidance
from distill.diffusion.random import seeded
from distill.diffusion.samplers import Heun
from distill.types import Condition, Denoiser, Generator


def seeded_noise(seeds: Sequence[int], shape: tuple[int, ...], stream: int = 0) -> Float[Tensor, "n ..."]:
    """Draw N(0, I) noise, (n, *shape) float32 on the CPU; row i depends on seeds[i] and the stream alone."""
    return torch.stack([torch.randn(shape, generator=seeded(seed, stream)) for seed in seeds])


def balanced_labels(count: int, label_count: int) -> Condition:
    """Give image i the label i % label_count, or none for an unconditional model."""
    return labels_of(range(count), label_count)


def labels_of(rows: Sequence[int], label_count: int) -> Condition:
    """Return the balanced labels of the images of these numbers."""
    return Condition(torch.tensor(rows) % label_count if label_count else None)


def spread(rows: Sequence[int], count: int) -> Int64[Tensor, " n"]:
    """Spread the images of these numbers evenly over `count` data or prompts, one to one below `count`.

    Data and captions are often sorted, so that the first ones are alike. The step is near the golden section
    of `count`.
    """
    step = max(1, round(0.618 * count))
    while math.gcd(step, count) > 1:
        step += 1
    return torch.tensor(rows) * step % count


def sample_generator(
    generator: Generator,
    seeds: Sequence[int],
    cond: Condition,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Tensor, "n ..."]:
    """Sample a student's images, (n, *pixel_shape) in [-1, 1] up to overshoot, on the CPU.

    Step k of the student takes the noise of stream k.
    """

    def make(rows: Sequence[int], z: Tensor, cond: Condition) -> Tensor:
        further = [
            seeded_noise(rows, generator.step_noise_shape, stream).to(z)
            for stream in range(1, generator.evaluations)
        ]
        return generator.images(torch.cat([z, *further], 1), cond)

    return _in_batches(make, generator, generator.step_noise_shape, seeds, cond, batch_size, progress)


def sample_teacher(
    teacher: Denoiser,
    seeds: Sequence[int],
    cond: Condition,
    sampler: Heun | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    decode: bool = True,
    anchor: int | None = None,
) -> Float[Tensor, "n ..."]:
    """Sample images with the teacher's many-step sampler, (n, *pixel_shape), on the CPU.

    Without `decode` they stay in the teacher's own space, (n, *image_shape). `Heun.solve` explains `anchor`.
    """
    sampler = sampler or Heun()
    check_guidance(teacher, sampler.guidance)

    def make(rows: Sequence[int], z: Tensor, cond: Condition) -> Tensor:
        def fresh_noise(step: int) -> Tensor:
            return seeded_noise(rows, teacher.image_shape, stream=step + 1).to(z)

        x0 = sampler.solve(teacher, z, cond, fresh_noise, anchor)
        return teacher.decode(x0) if decode else x0

    return _in_batches(make, teacher, teacher.image_shape, seeds, cond, batch_size, progress)


@torch.no_grad()
def _in_batches(
    make: Callable[[Sequence[int], Tensor, Condition], Tensor],
    network: Generator | Denoiser,
    noise_shape: tuple[int, ...],
    seeds: Sequence[int],
    cond: Condition,
    batch_size: int | None,
    progress: bool,
) -> Tensor:
    batch_size = min(batch_size or 256, max_batch_size(network.pixel_shape))
    weight = next(itertools.chain(network.parameters(), network.buffers()))
    # Networks with weights of less than float32 take and return float32.
    dtype = torch.promote_types(weight.dtype, torch.float32)
    images = []
    with ProgressBar("sampling", len(seeds), "images", hidden=not progress) as bar:
        for start in range(0, len(seeds), batch_size):
            rows = slice(start, start + batch_size)
            z = seeded_noise(seeds[rows], noise_shape).to(weight.device, dtype)
            images.append(make(seeds[rows], z, cond[rows].to(weight.device)).float().cpu())
            bar.update(len(z))
    return torch.cat(images)


def max_batch_size(image_shape: tuple[int, ...]) -> int:
    """Return how many images a batch may hold beside other tensors: 256 small ones, 4 of 1024x1024."""
    return max(1, min(256, 2**22 // math.prod(image_shape[1:])))
