"""The lines that a run logs, and losses that stop it."""

import io
import json
from pathlib import Path

import pytest
import torch

from distill.training.logging import Averages, append_line, as_mean_and_std, as_root, cut_lines


def test_a_metric_is_averaged_over_the_steps_that_have_it() -> None:
    averages = Averages()
    averages.add({"a": torch.tensor(1.0)})
    averages.add({"a": torch.tensor(3.0), "b": torch.tensor(5.0)})
    averages.add({})
    assert averages.take(lambda means: means) == {"a": 2.0, "b": 5.0}
    assert averages.take(lambda means: means) == {}


def test_a_standard_deviation_is_that_of_the_samples_of_all_steps() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    averages = Averages()
    for part in values.split(2):
        averages.add(as_mean_and_std("ratio/log_ratio", part))
    std = pytest.approx(values.std(correction=0).item())
    assert averages.take(lambda means: means) == {"ratio/log_ratio_mean": 4.0, "ratio/log_ratio_std": std}


def test_a_standard_deviation_of_equal_values_is_zero_but_for_rounding() -> None:
    averages = Averages()
    averages.add(as_mean_and_std("a", torch.full((3,), 0.1)))
    assert averages.take(lambda means: means)["a_std"] == pytest.approx(0, abs=1e-8)


def test_a_root_is_that_of_the_mean_over_steps_and_processes() -> None:
    averages = Averages()
    for square in (9.0, 25.0):
        averages.add(as_root("size", torch.tensor(square)))
    assert averages.take(lambda means: means - 1) == {"size": 4.0}


def test_a_line_begins_anew_after_half_a_line_and_is_json_whatever_its_values(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_text('{"step": 1}\n{"st')
    append_line(path, {"step": 2, "loss": float("nan")})
    assert path.read_text().splitlines()[1] == '{"st'
    assert json.loads(path.read_text().splitlines()[2]) == {"step": 2, "loss": None}


def test_a_line_is_appended_without_reading_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_bytes(b"\n" * 50_000_000)
    read = []
    file_read = io.BufferedRandom.read

    class Counted(io.BufferedRandom):
        def read(self, size: int | None = -1) -> bytes:
            found = file_read(self, size)
            read.append(len(found))
            return found

    monkeypatch.setattr(
        Path, "open", lambda self, mode: Counted(io.FileIO(self, "ab+" if "+" in mode else mode))
    )
    append_line(path, {"step": 3})
    assert sum(read) <= 1
    assert path.stat().st_size == 50_000_000 + len('{"step": 3}\n')


def test_lines_after_a_checkpoint_and_broken_lines_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_text('{"step": 1, "a": null}\n[]\n{"step": 2}\n{"step": 3}\n{"ste')
    cut_lines(path, 2)
    assert path.read_text() == '{"step": 1, "a": null}\n{"step": 2}\n'
    cut_lines(path, 0)
    assert path.read_text() == ""
    cut_lines(tmp_path / "absent", 2)
    assert not (tmp_path / "absent").exists()
