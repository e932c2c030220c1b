"""Networks of transformers for rewards: their configuration, and activation checkpointing of their layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from distill.config.errors import UserError
from distill.networks.computation.activation_checkpointing import recompute
from distill.rewards.pretrained.weights import open_pretrained


def read_config(source: str, flag: str, families: Collection[str]) -> Any:
    """Read the configuration of a published network, which is of one of the `families` of transformers."""
    import transformers

    if int(transformers.__version__.partition(".")[0]) < 5:
        raise UserError(f"{flag}: needs transformers 5 or later; found {transformers.__version__}")
    config = open_pretrained(transformers.AutoConfig, source, flag)
    if config.model_type not in families:
        raise UserError(
            f"{flag}: {source} holds a {config.model_type}; expected one of {', '.join(sorted(families))}"
        )
    return config


def checkpoint_layers(network: nn.Module) -> None:
    """Recompute the layers of a network of transformers in the backward pass instead of storing them.

    Its own checkpointing works in training mode only, in which a reward never is.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    for layer in network.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.forward = functools.partial(_recomputed, layer.forward)


def _recomputed(run: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    """Run a layer, which is recomputed in the backward pass if there will be one."""
    if not torch.is_grad_enabled():
        return run(*inputs, **settings)
    return recompute(functools.partial(run, **settings), *inputs)
