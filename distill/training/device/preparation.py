"""Bring networks into the form in which a run computes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from distill.networks.computation.memory_format import take_channels_last, use_channels_last
from distill.training.device.precision import hold_weights
from distill.training.settings import RunSettings


def prepare_networks(config: RunSettings, networks: Sequence[nn.Module]) -> None:
    """Give networks the weights' type and the memory format that a run asks for.

    Optimisers and averages are built afterwards, and hold what they need in float32.
    """
    hold_weights(config.precision, networks)
    if config.channels_last:
        for network in networks:
            if config.sharding.is_on:
                take_channels_last(network)
            else:
                use_channels_last(network)
