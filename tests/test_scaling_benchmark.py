"""benchmarks/scaling.py: its points, their ratios, what it says of too few GPUs, and a run of it on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import scaling
from benchmarks.scaling import BLOCK, NOT_RUN, Point, Row
from distill.storage.files import read_json


def test_too_few_gpus_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SystemExit) as error:
        scaling.main(["--out", str(tmp_path / "scaling.json")])
    assert error.value.code == "scaling.py: not run: found 1 GPUs; expected at least 2, or --cpu to test it"
    assert not (tmp_path / "scaling.json").exists()


def test_results_of_a_cpu_are_not_those_that_are_committed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.main(["--cpu"])
    assert "--cpu: expected --out FILE, since such results are not to be committed" in capsys.readouterr().err


def test_points_begin_with_one_process_and_share_copies_from_four_on() -> None:
    found = [
        (point.kind, point.strategy, point.processes)
        for point in scaling.points(["cifar10_sid"], scaling.KINDS, ["none", "full", "hybrid"], 6)
    ]
    assert found[: len(found) // 2] == [
        ("weak", "none", 1),
        ("weak", "none", 2),
        ("weak", "full", 2),
        ("weak", "none", 4),
        ("weak", "full", 4),
        ("weak", "hybrid", 4),
    ]
    assert {kind for kind, _, _ in found[len(found) // 2 :]} == {"strong"}


@pytest.mark.parametrize(("kind", "batch"), [("weak", 4 * 128), ("strong", 1024)])
def test_a_batch_grows_in_weak_scaling_alone(kind: scaling.Kind, batch: int, tmp_path: Path) -> None:
    config = Point("cifar10_sid", kind, "hybrid", 4).config(tmp_path, cpu=False)
    assert (config.batch_size, config.micro_batch_size) == (batch, 128)
    assert (config.sharding.strategy, config.sharding.group_size) == ("hybrid", 2)


def test_a_point_that_fails_keeps_its_message_and_others_their_reference(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One process takes 2 s for 2 images, and two take 1 s for 4."""

    def launch(point: Point, *ignored: object) -> Row:
        if point.strategy == "full":
            raise RuntimeError("no memory left")
        return Row(step_s=2.0 / point.processes, peak_gib=1.0)

    monkeypatch.setattr(scaling, "launch", launch)
    monkeypatch.setattr(scaling, "predict", lambda *ignored: Row(predicted_peak_gib=2.0, sent_mib={}))
    out = tmp_path / "scaling.json"
    scaling.main(["--cpu", "--out", str(out), "--runs", "cifar10_sid", "--strategies", "none", "full"])
    rows = read_json(out)["rows"][:3]
    assert [row.get("ratio") for row in rows] == [1.0, 4.0, None]
    assert [row.get("failed") for row in rows] == [None, None, "no memory left"]


def test_the_table_has_every_point() -> None:
    assert scaling.render({}) == {BLOCK: NOT_RUN}
    whole = Row(
        run="cifar10_sid",
        kind="weak",
        strategy="full",
        processes=2,
        batch_size=256,
        step_s=0.5,
        images_per_s=512.0,
        ratio=1.9,
        peak_gib=12.34,
        predicted_peak_gib=13.0,
        sent_mib={"gathered": 1024.0, "scattered": 512.0, "averaged": 0.0},
    )
    failed = Row(run="sdxl_dmd2", kind="weak", strategy="none", processes=1, batch_size=4, failed="memory")
    conditions = {"gpus": 2, "machine": "a machine", "commit": "abc"}
    (text,) = scaling.render({"conditions": conditions, "rows": [whole, failed]}).values()
    assert text.splitlines()[0] == "2 GPUs: a machine, commit abc."
    assert "| cifar10_sid | weak | full | 2 | 256 | 512.0 | 1.90 | 12.3 (13.0) | 1.50 |" in text
    assert "| sdxl_dmd2 | weak | none | 1 | 4 | failed | | | |" in text


@pytest.mark.slow
def test_two_processes_of_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    words = ["--cpu", "--out", str(out), "--steps", "1", "--runs", "cifar10_sid", "--kinds", "weak"]
    scaling.main([*words, "--strategies", "none", "full"])
    results = read_json(out)
    assert results["conditions"]["cpu"] is True
    rows = results["rows"]
    assert [row.get("failed") for row in rows] == [None] * 3
    assert [row["batch_size"] for row in rows] == [2, 4, 4]
    assert [row["ratio"] for row in rows if row["processes"] == 1] == [1.0]
    for row in rows:
        assert row["images_per_s"] == pytest.approx(row["batch_size"] / row["step_s"])
        kinds = {kind for kind, size in row["sent_mib"].items() if size}
        expected = {"gathered", "scattered"} if row["strategy"] == "full" else {"averaged"}
        assert kinds == (expected if row["processes"] > 1 else set())
