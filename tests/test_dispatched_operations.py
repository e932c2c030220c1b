"""benchmarks/dispatched_operations.py counts operations, reads and random numbers, by part of a step."""

from __future__ import annotations

import pytest
import torch

from benchmarks import dispatched_operations
from benchmarks.counting import Counter, count_batch
from distill.storage.files import read_json

RESULTS = read_json(dispatched_operations.RESULTS)
PARTS = ("data and noise", "fake update", "generator update", "optimiser", "average")


def test_operations_and_reads_count_for_the_part_that_runs() -> None:
    counter = Counter()
    x = torch.ones(2, 2, requires_grad=True)
    torch.ones(1).add(1)  # before the start
    counter.start()
    with counter.phase.entered("fake update"):
        (x.view(4) * 2).sum().backward()
    assert float(x.grad.sum()) == 8
    x.detach().tolist()
    counter.stop()
    counts = counter.counts()
    # forward: a view, a product and a sum; backward: a one, its expansion, a product, a view
    assert counts["fake update"]["reads"] == 0
    assert counts["fake update"]["computing"] == 4
    assert counts["fake update"]["dispatched"] > counts["fake update"]["computing"]
    assert counts["other"]["reads"] == 2
    assert counts["step"]["reads"] == 2


def test_random_bytes_of_a_process_fall_with_the_number_of_processes() -> None:
    alone, of_four = (count_batch((3, 8, 8), 16, processes) for processes in (1, 4))
    assert alone["random bytes"] == 4 * of_four["random bytes"]
    # four noises of 192 numbers, labels, levels, crops and indices of data
    assert 4 * 192 <= alone["random bytes"] / 4 / 16 < 4 * 192 + 20


def test_a_step_is_counted_by_its_parts() -> None:
    counts = dispatched_operations.count_run("digits, uni_instruct")
    assert all(counts[part]["dispatched"] > 0 for part in PARTS)
    assert sum(counts[part]["reads"] for part in PARTS) == 0
    others = [count for part, count in counts.items() if part != "step"]
    assert counts["step"]["dispatched"] == sum(count["dispatched"] for count in others)


@pytest.mark.parametrize("label", RESULTS)
def test_the_committed_results_say_where_they_come_from(label: str) -> None:
    result = RESULTS[label]
    assert set(result["conditions"]) == {"commit", "machine", "torch"}
    assert set(result["steps"]) == set(dispatched_operations.RUNS)
    assert set(result["batches of one process"]) == set(dispatched_operations.DRAWN)


def test_the_table_leaves_reads_a_step_late_out_and_says_what_was_not_run() -> None:
    parts = {
        "fake update": {"dispatched": 1000, "computing": 20, "reads": 3},
        "reads a step late": {"dispatched": 1, "computing": 0, "reads": 1},
        "step": {"dispatched": 1001, "computing": 20, "reads": 4},
    }
    before = {
        "conditions": {"commit": "c"},
        "steps": {"digits, uni_instruct": parts, "SDXL, dmd2_lora": {"refused": "precision"}},
        "batches of one process": {},
    }
    (text,) = dispatched_operations.render({"before": before}).values()
    assert "| digits, uni_instruct | 1,001, 20, 3 | not run |" in text
    assert "| SDXL, dmd2_lora | refused | not run |" in text
