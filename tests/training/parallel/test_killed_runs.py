"""Runs that are killed at random moments end as runs that were never killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import kills
from distill.storage.files import read_mapping

KILLS = 12


@pytest.mark.slow
def test_killed_runs_end_to_the_bit_as_others(tmp_path: Path) -> None:
    """Run the study that `benchmarks/results/kills.json` has at length."""
    out = tmp_path / "kills.json"
    kills.main([f"--kills={KILLS}", f"--out={out}"])
    outcomes = [read_mapping(out)[kind] for kind in kills.KINDS if kind in read_mapping(out)]
    assert sum(outcome["kills"] for outcome in outcomes) >= KILLS
    assert all(outcome["different"] == [] for outcome in outcomes)
