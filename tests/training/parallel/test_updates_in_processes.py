"""Updates by two processes over gloo, with whole and with sharded weights, are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.training.parallel.processes import Processes
from tests.helpers import eight_bit_kernels
from tests.helpers.updates_in_processes import RUNS, STEPS, run_in_processes, train

Found = list[dict[str, Any]]
TOLERANCES = {"bfloat16": 1e-3, "adamw8bit": 1e-6}
"""Largest difference where numbers have fewer than 64 bits."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Return what each of two processes found."""
    return run_in_processes(tmp_path_factory.mktemp("found"))


def assert_near(found: Any, expected: Any, tolerance: float) -> None:
    found, expected = (torch.tensor(numbers, dtype=torch.float64) for numbers in (found, expected))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_norms_weights_and_averages_are_those_of_one_process(
    found: Found, kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process sees half of the batch in three micro-batches; one weight has a single row."""
    eight_bit_kernels.install(monkeypatch)
    expected = train(Processes(torch.device("cpu")), **RUNS[name])
    tolerance = TOLERANCES.get(name, 1e-12)
    for process in found:
        run = process[f"{kind} {name}"]
        assert_near(run["norms"], expected["norms"], tolerance)
        for part in ("weights", "averages"):
            for parameter, values in expected[part].items():
                assert_near(run[part][parameter], values, tolerance)


@pytest.mark.slow
def test_four_processes_with_two_sharded_copies_learn_what_one_does(tmp_path: Path) -> None:
    expected = train(Processes(torch.device("cpu")), **RUNS["clipped"])
    for process in run_in_processes(tmp_path, count=4, copies=2):
        assert process["infinite inner.bias"] == {"is_finite": False, "is_unchanged": True}
        run = process["sharded clipped"]
        assert_near(run["norms"], expected["norms"], 1e-12)
        for name, values in expected["weights"].items():
            assert_near(run["weights"][name], values, 1e-12)


@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_processes_have_the_same_norm_to_the_bit(found: Found, kind: str) -> None:
    norms = [process[f"{kind} clipped"]["norms"] for process in found]
    assert len(norms[0]) == STEPS
    assert norms[0] == norms[1]


def test_gradients_that_nobody_expected_are_averaged_after_the_backward_pass(found: Found) -> None:
    for process in found:
        assert_near(process["late"], process["plain clipped"]["norms"], 1e-12)


@pytest.mark.parametrize("parameter", ["inner.bias", "adapter.weight"])
def test_a_gradient_that_is_not_finite_on_one_process_stops_the_update_of_all(
    found: Found, parameter: str
) -> None:
    """The first is sharded, and the second whole on both processes."""
    for process in found:
        assert process[f"infinite {parameter}"] == {"is_finite": False, "is_unchanged": True}


@pytest.mark.parametrize("name", ["bfloat16", "adamw8bit"])
def test_sharded_states_continue_to_the_bit(found: Found, name: str) -> None:
    for process in found:
        continued = process[f"continued {name}"]
        assert continued["same_norm"]
        assert continued["is_same"]
    assert "4.master" in found[1]["continued bfloat16"]["names"]


def test_states_say_whose_rows_they_have(found: Found) -> None:
    """Two processes hold three and two of five rows, or one and none."""
    for process, rows, of_one in zip(found, (3, 2), (1, 0), strict=True):
        kinds = process["kinds bfloat16"]
        assert kinds["1.exp_avg"] == kinds["1.master"] == [[rows, 3], "inner.weight", False]
        assert kinds["4.exp_avg_sq"] == kinds["4.master"] == [[of_one, 5], "outer.weight", False]
        assert kinds["3.exp_avg"] == kinds["3.master"] == [[5, 3], None, False]
        assert kinds["1.step"] == kinds["0.exp_avg"] == [[], None, False]


def test_means_of_8_bits_are_bound_to_their_shards(found: Found) -> None:
    for process, rows in zip(found, (3, 2), strict=True):
        kinds = process["kinds adamw8bit"]
        assert kinds["1.state1"] == [[3 * rows], None, True]
        assert kinds["1.step"] == [[], None, False]
        assert kinds["3.state2"] == [[15], None, False]


def test_sums_start_in_the_last_backward_pass_and_while_it_runs(found: Found) -> None:
    """The second of two layers is on its way before the first has its gradient."""
    earlier = ["first layer", "end of backward"]
    last = ["sum of 12", "first layer", "sum of 8", "end of backward"]
    for process in found:
        assert process["overlap"]["events"] == [*earlier, *earlier, *last]


def test_sums_start_in_one_order_if_a_process_lacks_a_gradient(found: Found) -> None:
    early, late = (process["uneven_order"] for process in found)
    assert early["events"] == [*3 * ["sum of 4"], "end of backward"]
    assert late["events"] == ["end of backward", *3 * ["sum of 4"]]
    assert early["averages"] == late["averages"] == [4 * [1.5], 4 * [15.0], 4 * [50.0]]


def test_sums_of_two_networks_start_in_one_order_if_a_process_lacks_a_gradient(found: Found) -> None:
    for process in found:
        assert process["two_networks"]["averages"] == [[1.0, 10.0], [100.0, 500.0]]


def test_gradients_in_bfloat16_are_averaged_in_float32_with_those_of_earlier_micro_batches(
    found: Found,
) -> None:
    for process in found:
        assert process["in_bfloat16"]["norm"] == 1 + 3 / 512
