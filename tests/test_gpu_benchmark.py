"""benchmarks/gpu.py: its parts, what a part that fails costs, and the tables of its results."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_parts import runs, training
from benchmarks.gpu_parts.part import Part, Record
from benchmarks.gpu_parts.table import NOT_RUN, render_results
from distill.config.errors import UserError
from distill.storage.files import read_json

TINY = {"tiny": True}


def make_part(folder: Path, seconds: float = 100.0) -> tuple[Part, list[Record]]:
    """Return a part of small sizes, and the list of its records."""
    records: list[Record] = []
    return Part(True, folder, time.monotonic() + seconds, records.append), records


def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str]) -> Record:
    """Measure parts whose processes run these scripts, with six seconds for all; return the file of results.

    A script knows `keep(record)`.
    """

    def start(name: str, options: Any, folder: Path, *ignored: Any) -> subprocess.Popen[bytes]:
        begin = "import json, sys, time\ndef keep(record):\n"
        begin += "    with open(sys.argv[1], 'a') as file: file.write(json.dumps(record) + chr(10))\n"
        file = folder / f"{name}.jsonl"
        with (folder / f"{name}.log").open("wb") as log:
            words = [sys.executable, "-c", begin + scripts[name], str(file)]
            return subprocess.Popen(words, stderr=log, start_new_session=True)

    monkeypatch.setattr(gpu, "start_part", start)
    out = tmp_path / "gpu.json"
    gpu.main(["--tiny", "--out", str(out), "--minutes", "0.1", "--only", *scripts])
    return read_json(out)


def test_a_part_that_fails_costs_only_its_own_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = {
        "card": "keep({'a': 1}); raise MemoryError('no memory left')",
        "floor": "keep({'b': 2})",
        "evaluation": "keep({'c': 3}); time.sleep(60)",
    }
    parts = measure(tmp_path, monkeypatch, scripts)["parts"]
    assert [part["records"] for part in parts.values()] == [[{"a": 1}], [{"b": 2}], [{"c": 3}]]
    assert [part["exit code"] for part in parts.values()] == [1, 0, None]
    assert parts["card"]["failed"].endswith("MemoryError: no memory left\n")
    assert "failed" not in parts["floor"]
    assert parts["evaluation"]["failed"] == "its time was over"


def test_half_a_record_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "keep({'a': 1}); open(sys.argv[1], 'a').write('{\"b\": ')"
    assert measure(tmp_path, monkeypatch, {"card": script})["parts"]["card"]["records"] == [{"a": 1}]


def test_turns_rotate_and_leave_out_what_would_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    part = Part(False, tmp_path, 60.0, lambda record: None)
    lasting = {"a": 1.0, "b": 2.0, "c": 25.0}
    taken = []
    for turn, name in part.turns(list(lasting)):
        taken.append((turn, name))
        now[0] += lasting[name]
    assert taken == [(0, "a"), (0, "b"), (0, "c"), (1, "b"), (1, "c"), (1, "a"), (2, "a"), (2, "b")]


def test_a_training_part_times_a_presets_steps(tmp_path: Path) -> None:
    part, records = make_part(tmp_path)
    training.compare_runs(part, "digits")
    assert [record["variant"] for record in records] == ["compile none", "compile none, again"]
    for record in records:
        assert record["step_s"] > 0
        assert record["steps"] == 1
    assert not (tmp_path / "run" / "export").exists()


def test_the_dry_run_predicts_each_variant(tmp_path: Path) -> None:
    part, records = make_part(tmp_path)
    training.predict_runs(part, ("digits",))
    first, second = records
    assert first["run"] == "digits"
    assert first["operations"] == second["operations"] > 1e8
    assert 0.001 < first["predicted_peak_gib"] < 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("precision: not here"), {"refused": "precision: not here"}),
        (torch.OutOfMemoryError("CUDA out of memory"), {"failed": "out of memory: CUDA out of memory"}),
        (KeyError("name"), {"failed": "KeyError: 'name'"}),
    ],
)
def test_a_run_that_cannot_be_measured_says_why(
    error: Exception, expected: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(training, "make_steps", fail)
    part, _ = make_part(tmp_path)
    assert training.time_run(part, "digits", ()) == expected


@pytest.mark.parametrize("name", runs.SETUPS)
def test_every_variant_is_a_valid_run(name: str, tmp_path: Path) -> None:
    for variant, overrides in runs.SETUPS[name].variants.items():
        config = runs.configure(name, overrides, tmp_path, tiny=True)
        assert config.fake.warmup_steps == 0
        # A preset's own choice would be in every variant.
        assert (config.compile == "blocks") == ("blocks" in variant)
        assert config.channels_last == ("channels last" in variant)


def test_settings_that_leave_memory_as_it_is_share_a_prediction() -> None:
    assert runs.memory_key(("--precision", "bf16", "--compile", "blocks")) == ("--precision", "bf16")


def test_a_device_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^gpu.py: no CUDA device; expected one, or --tiny$"):
        gpu.main(["--out", str(tmp_path / "gpu.json")])


def card_results(card: str | None, steps: Sequence[Record]) -> Record:
    """Return results of a card with these records of the digits' run."""
    environment = {"card": card, "driver": "1", "torch": "2", "commit": "c"}
    rates = [{"matrix rate": "bf16", "tflops": 800.0}, {"matrix rate": "fp32", "tflops": 50.0}]
    prediction = {
        "run": "digits",
        "variant": "compile none",
        "operations": 2e14,
        "predicted_peak_gib": 1.25,
    }
    return {
        "parts": {
            "card": {"records": [{"environment": environment}, *rates]},
            "digits": {"records": list(steps)},
            "predictions": {"records": [prediction]},
        }
    }


def test_the_table_has_medians_over_turns_beside_predictions() -> None:
    steps = [{"variant": "compile none", "step_s": time, "peak_gib": 1.0} for time in (0.4, 0.5, 0.9)]
    text = render_results(card_results("H", steps))
    assert text.splitlines()[0] == (
        "H, driver 1, torch 2, commit c. Products of large matrices, TFLOP/s: bf16 800, fp32 50."
    )
    assert text.splitlines()[-1] == "| digits | compile none | 0.5 | 400 | 50% | 1.0 | 1.2 |"


def test_the_table_says_why_a_variant_has_no_time() -> None:
    text = render_results(card_results("H", [{"variant": "compile step", "refused": "compile: not here"}]))
    assert text.splitlines()[-1] == "| digits | compile step | compile: not here | | | | |"


@pytest.mark.parametrize("results", [{}, card_results(None, [])], ids=["nothing", "a CPU"])
def test_without_a_cards_results_the_table_says_not_run(results: Record) -> None:
    assert render_results(results) == NOT_RUN


@pytest.mark.slow
def test_all_parts_work_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    words = [sys.executable, str(gpu.ROOT / "benchmarks" / "gpu.py"), "--tiny", "--out", str(out)]
    done = subprocess.run(
        [*words, "--minutes", "30"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    parts = read_json(out)["parts"]
    assert set(parts) == {*gpu.SHARES, gpu.PREDICTIONS}
    for name, part in parts.items():
        assert part["exit code"] == 0, (name, part)
        assert part["records"], name
        text = json.dumps(part["records"])
        assert "failed" not in text, text
        assert "refused" not in text, text
    resumed = parts["resume"]["records"][0]
    assert resumed["killed"]
    assert resumed["equal to the bit"]
