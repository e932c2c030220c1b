"""A dry run counts weights, optimisers and averages of each precision and optimiser as by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distill.config.errors import UserError
from distill.training.dry_run.cost import OPTIMIZER_UPDATE, Cost, measure_own, optimizer_bytes
from distill.training.dry_run.distillation import simulate_distillation
from distill.training.dry_run.meta_kernels import MetaKernels
from distill.training.dry_run.step import META, meta_teacher_of
from distill.training.optimization.settings import OptimizerSettings
from tests.helpers.runs import read_run, write_run
from train import main

MIB = 1 << 20


def cost(folder: Path, **settings: Any) -> Cost:
    """Return the cost of a run of a small U-Net without discriminator."""
    config = read_run(write_run(folder, **settings))
    return measure_own(simulate_distillation(config, meta_teacher_of(config), META), config)


def parameters(folder: Path) -> list[nn.Parameter]:
    """Return the parameters of the teacher, as many as student and fake score have each."""
    return list(meta_teacher_of(read_run(write_run(folder))).parameters())


def parameter_count(folder: Path) -> int:
    return sum(parameter.numel() for parameter in parameters(folder))


@pytest.mark.parametrize(
    ("precision", "weights", "optimiser"),
    [("fp32", 4, 8), ("bf16", 4, 8), ("fp16", 4, 8), ("bf16-true", 2, 12)],
)
def test_bytes_of_a_parameter(precision: str, weights: int, optimiser: int, tmp_path: Path) -> None:
    """Three networks have weights, two are trained, one has an average, which is of float32 always."""
    count = parameter_count(tmp_path)
    held = cost(tmp_path, precision=precision).held
    assert held["weights"] == 3 * weights * count
    assert held["optimiser"] == 2 * optimiser * count
    assert held["average"] == 4 * count


def test_an_update_in_bfloat16_widens_the_gradients_of_one_network(tmp_path: Path) -> None:
    added = cost(tmp_path, precision="bf16-true").added
    assert added[OPTIMIZER_UPDATE] == (2 + 4) * parameter_count(tmp_path)
    assert OPTIMIZER_UPDATE not in cost(tmp_path, precision="bf16").added


@pytest.mark.parametrize("precision", ["bf16", "fp16", "bf16-true"])
def test_activations_of_half_the_bits_take_less_memory(precision: str, tmp_path: Path) -> None:
    update = "a generator update"
    reduced, whole = (cost(tmp_path, batch_size=64, precision=name) for name in (precision, "fp32"))
    assert reduced.added[update] < whole.added[update]


def test_float16_on_the_meta_device_has_the_types_of_cuda() -> None:
    layer, norm = nn.Linear(4, 4, device="meta"), nn.LayerNorm(4, device="meta")
    with MetaKernels(autocast=torch.float16):
        output = layer(torch.randn(2, 4, device="meta"))
        assert output.dtype == torch.float16
        assert norm(output).dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "settings", "expected"),
    [
        ((100, 100), {"name": "adam"}, 2 * 4 * 10_000),
        # One byte for each of 10 000 elements and a float32 for each of 40 blocks of 256, for both moments.
        ((100, 100), {"name": "adam8bit"}, 2 * (10_000 + 4 * 40)),
        ((100,), {"name": "adamw8bit"}, 2 * 4 * 100),  # too small to be quantised
        ((100, 100), {"name": "adamw", "offload": True}, 0),
    ],
)
def test_bytes_of_an_optimiser_on_the_device(
    shape: tuple[int, ...], settings: dict[str, Any], expected: int
) -> None:
    weight = nn.Parameter(torch.empty(shape, device="meta"))
    assert optimizer_bytes(weight, OptimizerSettings(**settings)) == expected


def test_each_network_has_the_optimiser_of_its_own_settings(tmp_path: Path) -> None:
    one = sum(optimizer_bytes(weight, OptimizerSettings()) for weight in parameters(tmp_path))
    held = cost(tmp_path, fake={"optimizer": {"offload": True}}).held
    assert held["optimiser"] == one


@pytest.mark.parametrize(
    "settings", [{"compile": "blocks"}, {"channels_last": True}, {"deterministic": True}, {"tf32": False}]
)
def test_settings_that_change_kernels_alone_change_no_prediction(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    assert cost(tmp_path, **settings) == cost(tmp_path)


def test_a_dry_run_names_its_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(write_run(tmp_path, precision="bf16-true")), "--dry-run"])
    said = capsys.readouterr().out
    assert "computing in bfloat16, with float32 copies of what is trained" in said
    assert f"{12 * 2 * parameter_count(tmp_path) / MIB:>12,.1f} MiB  optimiser" in said


def test_a_network_that_cannot_hold_bfloat16_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^precision: bf16-true holds weights in bfloat16, in which .* cannot"
    ):
        main(["configs/lab/exact_ring.yaml", "--dry-run", "--precision", "bf16-true"])
