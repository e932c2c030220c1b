"""A sharded network takes a share of the memory of a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.diffusion.schedules import EDM
from distill.networks.folder import save_model
from distill.networks.mlp import MLP, MLPConfig
from distill.networks.sizes import MLPSizes
from tests.helpers.peak_memory import peak_memory
from tests.helpers.runs import write_run

GIB = 1 << 30
SIZES = MLPSizes(width=1920, blocks=12)
SHARE = 0.45
"""Largest share of the unsharded run's memory that each of four processes may take."""


def save_large_teacher(folder: Path) -> int:
    """Write a network of about a gibibyte of weights, and return their bytes."""
    torch.manual_seed(0)
    network = MLP(MLPConfig(2, 0, SIZES), EDM())
    folder.mkdir()
    save_model(network, folder)
    return sum(parameter.nbytes for parameter in network.parameters())


@pytest.mark.slow
def test_four_processes_share_the_memory_of_a_network(tmp_path: Path) -> None:
    """The run has a teacher, a fake score, a student and its average, gradients and optimisers' states."""
    assert save_large_teacher(tmp_path / "teacher") > GIB
    file = write_run(tmp_path, batch_size=4, generator={"init_noise_to_signal": 2.0})
    (whole,) = peak_memory(tmp_path / "whole", file)
    parts = peak_memory(tmp_path / "parts", file, "--sharding.strategy=full", processes=4)
    assert max(parts) <= SHARE * whole, [round(part / whole, 3) for part in parts]
