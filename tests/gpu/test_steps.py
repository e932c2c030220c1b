"""Steps on a GPU: against the CPU, compiled against eager, and in reduced precision against float32."""

from pathlib import Path

import pytest
import torch

from tests.helpers.one_step import METHODS, Step, relative_error, take_steps, take_steps_apart

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
ROUNDING = 1e-4
"""Bound of relative errors by another order of sums in float32."""
LOGARITHMS = ("ratio/log_ratio_mean", "discriminator/logit_real", "discriminator/logit_fake")
"""Metrics that pass through zero, so that their errors are absolute."""
COUNTS = ("discriminator/accuracy", "ratio/calibration_error")
"""Metrics that jump where a logit changes its sign."""
ROUNDOFF = {"bf16": 2**-8, "bf16-true": 2**-8, "fp16": 2**-11}
"""Relative error of one number by rounding."""
DIFFERENCES = ("loss/objective", "loss/r1")
"""Losses of differences of nearly equal numbers, which magnify rounding: the predictions of a teacher and of
a fake score that has made one step, and the logits of an approximate R1."""


def assert_close(found: Step, expected: Step, bound: float) -> None:
    """Check metrics, and the change of each network's weights, up to a relative error."""
    assert found.metrics.keys() == expected.metrics.keys()
    for name, value in expected.metrics.items():
        if name in COUNTS:
            continue
        scale = max(abs(value), 1.0) if name in LOGARITHMS else abs(value)
        assert abs(found.metrics[name] - value) <= bound * scale + 1e-7, name
    for name, change in expected.changes.items():
        assert change.norm() > 0, name
        assert relative_error(found.changes[name], change) <= bound, name


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_the_cpus(method: str, device: torch.device, tmp_path: Path) -> None:
    expected = take_steps(tmp_path / "cpu", method, CPU)
    assert_close(take_steps(tmp_path / "device", method, device), expected, ROUNDING)


@pytest.mark.parametrize("method", METHODS)
def test_channels_last_change_a_step_by_rounding_only(
    method: str, device: torch.device, tmp_path: Path
) -> None:
    expected = take_steps(tmp_path / "first", method, device)
    found = take_steps(tmp_path / "last", method, device, "--channels_last", "true")
    assert_close(found, expected, ROUNDING)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["blocks", "step"])
@pytest.mark.parametrize("method", METHODS)
def test_compilation_changes_steps_by_rounding_only(
    method: str, compiled: str, device: torch.device, tmp_path: Path
) -> None:
    expected = take_steps_apart(tmp_path / "eager", method, device, steps=3)
    found = take_steps_apart(tmp_path / "compiled", method, device, "--compile", compiled, steps=3)
    assert_close(found, expected, 10 * ROUNDING)


@pytest.mark.parametrize("precision", ["bf16", "bf16-true", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_in_reduced_precision_is_near_that_in_float32(
    method: str, precision: str, device: torch.device, tmp_path: Path
) -> None:
    """Errors are some roundoffs, so that they are an eighth in float16 of what they are in bfloat16."""
    expected = take_steps(tmp_path / "full", method, device)
    found = take_steps(tmp_path / "reduced", method, device, "--precision", precision)
    roundoff = ROUNDOFF[precision]
    for name, value in expected.metrics.items():
        if name.startswith("loss/") and name not in DIFFERENCES:
            assert found.metrics[name] == pytest.approx(value, rel=2 * roundoff), name
    objective, r1 = (expected.metrics.get(name, 0.0) for name in DIFFERENCES)
    assert found.metrics["loss/objective"] == pytest.approx(objective, rel=64 * roundoff)
    assert found.metrics.get("loss/r1", 0.0) == pytest.approx(r1, rel=0.05, abs=1e-3)
    for name, change in expected.changes.items():
        assert 0 < relative_error(found.changes[name], change) < 38 * roundoff, name
