"""The floor of a step: the bare networks, without any of the product's training around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_parts.part import TERA, Part, Record, forget, measure_time, median_time, memory
from benchmarks.random_pipelines import SDXL, TINY, draw_weights, register_tiny_pipeline
from benchmarks.random_teachers import CIFAR10, RandomEDM
from distill.networks.diffusers.meta import meta_pipeline

Call = Callable[[Tensor], Tensor]
"""The network as a function of its noisy input alone."""


@dataclasses.dataclass(frozen=True)
class Bare:
    """A network, and how it is called on an input of a shape."""

    network: nn.Module
    call: Callable[[int], Call]
    """Returns the call for so many images."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    trains_weights: bool
    """The backward pass is that of training all weights; else it is that of the input alone, as LoRA's
    nearly is."""


def measure_floor(part: Part) -> None:
    """Record the forward pass, and forward and backward pass, of each network at each batch and layout."""
    networks: dict[str, tuple[Callable[[Part], Bare], tuple[int, ...]]] = {
        "SDXL U-Net, 1024x1024, weights in bfloat16": (bare_sdxl, (1, 4)),
        "CIFAR-10 EDM network, autocast to bfloat16": (bare_edm, (256,)),
    }
    for name, (build, batches) in networks.items():
        forget()
        bare = build(part)
        for last in (False, True):
            layout = torch.channels_last if last else torch.contiguous_format
            bare.network.to(memory_format=layout)
            for batch in batches:
                head: Record = {"network": name, "batch": batch, "channels_last": last}
                part.write({**head, **_measure(part, bare, 1 if part.tiny else batch, layout)})
        del bare


def _measure(part: Part, bare: Bare, batch: int, layout: torch.memory_format) -> Record:
    """Return times in seconds, rates in TFLOP/s by torch's count on the pass itself, and the peak memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    call = bare.call(batch)
    x = torch.randn(batch, *bare.shape, device=part.device, dtype=bare.dtype).to(memory_format=layout)
    x.requires_grad_(not bare.trains_weights)
    bare.network.requires_grad_(bare.trains_weights)

    def forward() -> None:
        with torch.no_grad():
            call(x)

    def both() -> None:
        call(x).float().square().mean().backward()
        bare.network.zero_grad()
        x.grad = None

    found: Record = {}
    try:
        for name, do in (("forward", forward), ("forward and backward", both)):
            measure_time(do)
            with FlopCounterMode(display=False) as counter:
                do()
            seconds = median_time(do, seconds=0.1 if part.tiny else 1.0, most=10)
            found[f"{name}_s"] = seconds
            found[f"{name}_tflops"] = counter.get_total_flops() / seconds / TERA
    except torch.OutOfMemoryError as error:
        found["failed"] = f"out of memory: {error}"[:300]
    return found | memory()


def bare_sdxl(part: Part) -> Bare:
    """Build SDXL's U-Net with random weights; on a CPU one of its kind with small sizes."""
    if part.tiny:
        register_tiny_pipeline()
    unet: Any = meta_pipeline(TINY if part.tiny else SDXL).unet
    dtype = torch.float32 if part.tiny else torch.bfloat16
    unet = unet.to(dtype).to_empty(device=part.device).eval()
    draw_weights(unet)
    config = unet.config
    size = 8 if part.tiny else config.sample_size

    def call(batch: int) -> Call:
        settings = {"device": part.device, "dtype": dtype}
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        given = {
            "timestep": torch.full((batch,), 399, device=part.device),
            "encoder_hidden_states": torch.randn(batch, 77, config.cross_attention_dim, **settings),
            "added_cond_kwargs": {
                "text_embeds": torch.randn(batch, pooled, **settings),
                "time_ids": torch.ones(batch, 6, **settings),
            },
        }
        return lambda x: unet(x, **given).sample

    return Bare(unet, call, (4, size, size), dtype, trains_weights=False)


def bare_edm(part: Part) -> Bare:
    """Build EDM's network for CIFAR-10 with random weights, in float32; passes are in bfloat16 on a card."""
    from distill.types import Condition

    network = RandomEDM(path=Path(CIFAR10), narrow=part.tiny).load()
    precision = nullcontext() if part.tiny else torch.autocast(part.device.type, torch.bfloat16)

    def call(batch: int) -> Call:
        t = torch.full((batch,), 1.0, device=part.device)
        cond = Condition(torch.zeros(batch, dtype=torch.int64, device=part.device))

        def predict(x: Tensor) -> Tensor:
            with precision:
                return network(x, t, cond)

        return predict

    return Bare(network, call, network.image_shape, torch.float32, trains_weights=True)
