"""A run computes in the precision that its configuration names, and agrees with `accelerate launch`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.training.device.precision import autocast
from distill.training.distillation import task
from tests.helpers.runs import read_lines, refusal, train_run, write_run

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("fp16", torch.float16),
        ("bf16-true", torch.float32),  # no autocast: the weights themselves are of bfloat16
    ],
)
def test_a_product_within_autocast_has_the_type_of_the_precision(precision: str, dtype: torch.dtype) -> None:
    x = torch.ones(2, 2)
    with autocast(precision, CPU):
        assert (x @ x).dtype == dtype


@pytest.mark.parametrize(
    ("precision", "autocasts"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_run_computes_its_losses_in_its_precision(
    precision: str, autocasts: torch.dtype | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    whole = task.generator_loss

    def look(*arguments: object) -> object:
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return whole(*arguments)

    monkeypatch.setattr(task, "generator_loss", look)
    run = train_run(write_run(tmp_path, steps=1, precision=precision))
    assert seen == [autocasts]
    assert read_lines(run)[0]["loss/objective"] > 0


@pytest.mark.parametrize(
    ("precision", "launcher", "message"),
    [
        (
            "fp32",
            "bf16",
            "is fp32, but accelerate launch says --mixed_precision bf16; expected the same, or no",
        ),
        ("bf16-true", "bf16", "is bf16-true, but accelerate launch says --mixed_precision bf16"),
        ("bf16", "fp8", "accelerate launch says --mixed_precision fp8, which is not offered; expected bf16"),
    ],
)
def test_another_precision_of_accelerate_launch_is_refused(
    precision: str, launcher: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert f"precision: {message}" in refusal(write_run(tmp_path, precision=precision))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("launcher", ["no", "bf16"])
def test_the_same_precision_or_none_of_accelerate_launch_is_accepted(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launcher)
    assert train_run(write_run(tmp_path, steps=1, precision="bf16"))
