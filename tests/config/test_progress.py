"""Progress of long work: the plain lines of a log file, by a fake clock, and the bar of a terminal."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

from distill.config.progress import ProgressBar, describe_seconds, track
from distill.diffusion.sampling import balanced_labels, sample_teacher
from tests.helpers.random_teacher import save_random_teacher


class FakeClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_says_what_is_done_and_how_long_the_rest_takes() -> None:
    clock = FakeClock()
    with ProgressBar("sampling", 5000, "images", clock=clock, hidden=True) as bar:
        clock.now += 30
        assert bar.line() == "sampling: 0 of 5,000 images after 30 s"
        bar.update(500)
        clock.now += 30
        assert bar.line() == "sampling: 500 of 5,000 images after 60 s, about 9 min left"
        bar.update(4500)
        bar.note("writing")
        assert bar.line() == "sampling: 5,000 of 5,000 images after 60 s, about 0 s left; writing"


def test_work_that_was_done_before_does_not_count_for_the_speed() -> None:
    clock = FakeClock()
    with ProgressBar("training", 1000, initial=900, clock=clock, hidden=True) as bar:
        assert bar.line() == "training: 900 of 1,000 steps after 0 s"
        bar.update(10)
        clock.now += 20
        assert bar.line() == "training: 910 of 1,000 steps after 20 s, about 3 min left"


def test_a_line_says_what_is_done_between_two_steps_in_place_of_the_rest() -> None:
    clock = FakeClock()
    with ProgressBar("training", 4, clock=clock, hidden=True) as bar:
        bar.update(2)
        clock.now += 30
        bar.show_activity("measuring")
        assert bar.line() == "training: 2 of 4 steps after 30 s, now measuring"
        bar.show_activity("")
        assert bar.line() == "training: 2 of 4 steps after 30 s, about 30 s left"


def test_a_total_may_be_unknown_or_come_later() -> None:
    clock = FakeClock()
    with ProgressBar("dry run", None, "measurements", clock=clock, hidden=True) as bar:
        bar.update()
        clock.now += 4
        assert bar.line() == "dry run: 1 measurements after 4 s"
        bar.expect(3)
        assert bar.line() == "dry run: 1 of 3 measurements after 4 s, about 8 s left"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (3540, "59 min"),
        (3600, "1 h"),
        (12_000, "3 h 20 min"),
        (86_399, "24 h"),
        (187_200, "2 d 4 h"),
    ],
)
def test_a_duration_has_its_largest_units(seconds: float, said: str) -> None:
    assert describe_seconds(seconds) == said


def test_a_log_file_has_lines_during_one_long_piece_of_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distill.config.progress.INTERVAL", 0.02)
    with ProgressBar("features", 10, "images"):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert set(lines) == {"features: 0 of 10 images after 0 s"}
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_short_and_hidden_work_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(track([3, 1, 2], "short")) == [3, 1, 2]
    monkeypatch.setattr("distill.config.progress.INTERVAL", 0.001)
    for _ in track([1], "hidden", hidden=True):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("distill.config.progress.is_terminal", lambda: True)
    assert list(track([3, 1, 2], "sampling", "images", leave=True)) == [3, 1, 2]
    assert re.search(r"sampling: 100%\|.*\| 3/3 \[.* images/s\]", capsys.readouterr().err)


def test_a_bar_says_what_is_done_between_two_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distill.config.progress.is_terminal", lambda: True)
    with ProgressBar("training", 4, leave=True) as bar:
        bar.show_activity("measuring")
        assert "training, measuring:   0%" in capsys.readouterr().err
        bar.show_activity("")
        assert "training:   0%" in capsys.readouterr().err


def test_sampling_counts_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distill.config.progress.INTERVAL", 0.001)
    teacher = save_random_teacher(tmp_path / "teacher")
    with torch.no_grad():
        sample_teacher(teacher, range(6), balanced_labels(6, 10), batch_size=2, progress=True)
    said = capsys.readouterr().err.splitlines()
    counts = [
        int(found[1]) for line in said if (found := re.match(r"sampling: (\d) of 6 images after", line))
    ]
    assert len(counts) == len(said)
    assert counts == sorted(counts)
    assert {0, 2, 4} <= set(counts)


def test_no_other_file_calls_tqdm() -> None:
    root = Path(__file__).parents[2]
    sources = [*root.glob("distill/**/*.py"), root / "sample.py", root / "train.py"]
    found = [path.name for path in sources if "import tqdm" in path.read_text(encoding="utf-8")]
    assert found == ["progress.py"]
