"""Images from seeds: students, and the teacher's many-step sampler. Image i depends on its own seed alone, not on the batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from distill.diffusion.guidance import guided
from distill.diffusion.random import seeded
from distill.diffusion.samplers import Heun
from distill.types import Condition, Denoiser, Generator, expand_like


def seeded_noise(seeds: Sequence[int], shape: tuple[int, ...], stream: int = 0) -> Float[Tensor, "n ..."]:
    """N(0, I) noise, (n, *shape) float32 on the CPU; row i depends on seeds[i] (and the stream) alone."""
    return torch.stack([torch.randn(shape, generator=seeded(seed, stream)) for seed in seeds])


def balanced_labels(count: int, label_count: int) -> Condition:
    """Label i % label_count for image i; no label for an unconditional model."""
    return Condition(torch.arange(count) % label_count if label_count else None)


def sample_generator(
    generator: Generator,
    seeds: Sequence[int],
    cond: Condition,
    batch_size: int | None = None,
    progress: bool = False,
) -> Float[Tensor, "n ..."]:
    """A student's images, (n, *pixel_shape) in [-1, 1] up to overshoot, on the CPU. The noise of its step k is that of stream k."""

    def make(rows: Sequence[int], z: Tensor, cond: Condition) -> Tensor:
        further = [
            seeded_noise(rows, generator.image_shape, stream).to(z)
            for stream in range(1, generator.evaluations)
        ]
        return generator.decode(generator(torch.cat([z, *further], 1), cond))

    return _in_batches(make, generator, seeds, cond, batch_size, progress)


def sample_teacher(
    teacher: Denoiser,
    seeds: Sequence[int],
    cond: Condition,
    sampler: Heun | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    decode: bool = True,
) -> Float[Tensor, "n ..."]:
    """Images of the teacher's many-step sampler, (n, *pixel_shape), on the CPU; or, without `decode`, as the teacher has them, (n, *image_shape)."""
    sampler = sampler or Heun()

    def solve(rows: Sequence[int], z: Tensor, cond: Condition) -> Tensor:
        def fresh_noise(step: int) -> Tensor:
            return seeded_noise(rows, teacher.image_shape, stream=step + 1).to(z)

        x0 = heun(teacher, z, cond, sampler, fresh_noise)
        return teacher.decode(x0) if decode else x0

    return _in_batches(solve, teacher, seeds, cond, batch_size, progress)


def heun(
    teacher: Denoiser, z: Tensor, cond: Condition, sampler: Heun, fresh_noise: Callable[[int], Tensor]
) -> Tensor:
    """Solve the probability-flow ODE from unit noise z (b, ...) in the coordinates x_t/alpha; `fresh_noise(step)` serves the churn.

    A network of discrete levels is evaluated at those nearest to the sampler's, as EDM's sampler does.
    """
    schedule = teacher.schedule

    def slope(x: Tensor, level: float) -> Tensor:
        t = schedule.t(x.new_full((len(x),), level))
        return (
            x - guided(teacher, x * expand_like(schedule.alpha(t), x), t, cond, sampler.guidance).x0
        ) / level

    quietest, max_noise_to_signal = teacher.level_range()
    grid = [teacher.nearest_level(level) for level in sampler.grid(max_noise_to_signal, quietest)[:-1]] + [
        0.0
    ]
    x = z * grid[0]
    for step, (level, following) in enumerate(itertools.pairwise(grid)):
        if sampler.churn > 0 and sampler.churn_min <= level <= sampler.churn_max:
            raised = teacher.nearest_level(level * (1 + min(sampler.churn / sampler.steps, 2**0.5 - 1)))
            x = x + (raised**2 - level**2) ** 0.5 * sampler.churn_noise * fresh_noise(step)
            level = raised
        first = slope(x, level)
        estimate = x + (following - level) * first
        x = x + (following - level) * (first + slope(estimate, following)) / 2 if following > 0 else estimate
    return x


@torch.inference_mode()
def _in_batches(
    sample: Callable[[Sequence[int], Tensor, Condition], Tensor],
    network: Generator | Denoiser,
    seeds: Sequence[int],
    cond: Condition,
    batch_size: int | None,
    progress: bool,
) -> Tensor:
    batch_size = min(batch_size or 256, max_batch_size(network.pixel_shape))
    held = next(itertools.chain(network.parameters(), network.buffers()))
    dtype = torch.promote_types(
        held.dtype, torch.float32
    )  # networks held in less than float32 take and give float32
    images = []
    for start in tqdm(range(0, len(seeds), batch_size), desc="sampling", disable=not progress, leave=False):
        rows = slice(start, start + batch_size)
        z = seeded_noise(seeds[rows], network.image_shape).to(held.device, dtype)
        images.append(sample(seeds[rows], z, cond[rows].to(held.device)).float().cpu())
    return torch.cat(images)


def max_batch_size(image_shape: tuple[int, ...]) -> int:
    """Images in a batch that leaves memory for other things: 256 small ones, 4 of 1024x1024."""
    return max(1, min(256, 2**22 // math.prod(image_shape[1:])))
