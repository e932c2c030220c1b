"""A run's report: the numbers of its files, nothing from outside, and the commands for missing parts."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.config.errors import UserError
from distill.publishing import run_record
from distill.publishing.report import charts
from distill.publishing.report.numbers import duration, short
from distill.publishing.report.page import main, write_report
from distill.publishing.report.results import render_table
from distill.publishing.report.story import tell_story
from distill.publishing.run_record import read_run, read_stats, summarise
from tests.helpers.finished_run import CONFIG, EVALUATION, STUDENT, TEACHER, finished_run, stats_line


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return finished_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the report of a finished run once, for tests that only read it: charts take half a second."""
    return report(finished_run(tmp_path_factory.mktemp("runs")))


def report(run_dir: Path) -> str:
    return write_report(run_dir).read_text(encoding="utf-8")


def test_report_needs_nothing_outside_itself(page: str, run_dir: Path) -> None:
    sources = re.findall(r'\bsrc="([^"]*)"', page)
    # Grids, samples, the monitor, a curve each of loss, ratio, grad_norm and lr, the time and the speed.
    assert len(sources) == 3 + 6 + 1 + 4 + 1 + 1
    narrow = re.findall(r'\bsrcset="([^"]*)"', page)
    assert [source.split(",")[0] for source in narrow] == ["data:image/svg+xml;base64"] * 2
    assert {source.split(",")[0] for source in sources} == {
        "data:image/png;base64",
        "data:image/svg+xml;base64",
    }
    assert re.findall('href="[^#]', page) == []
    assert not re.search(r"https?://|@import|url\(|<script|<link", page)
    assert (
        "Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\""
        in page
    )
    assert page.count('class="grid pixelated"') == 9
    assert base64.b64encode((run_dir / "eval" / "student.png").read_bytes()).decode() in page


def test_sections_come_in_the_order_of_the_story(page: str) -> None:
    titles = re.findall(r"<h2>([^<]*)</h2>", page)
    assert titles[:5] == [
        "How to read the numbers",
        "Images",
        "Results",
        "Distance during training",
        "Losses",
    ]
    assert titles[5:] == [
        "Density ratio",
        "Gradient norms",
        "Learning rates",
        "Where the time went",
        "Samples over training",
        "How to repeat it",
    ]


def test_table_holds_the_numbers_of_the_evaluation(page: str) -> None:
    table = re.findall(r'<tr><th scope="row">([^<]*) <span>(\w+) is better</span></th>(.*?)</tr>', page)
    values = [
        [float(value) for value in re.findall(r'<data value="([^"]*)">', cells)] for _, _, cells in table
    ]
    roles = (EVALUATION["student"], EVALUATION["teacher"])
    expected = [[role[key] for role in roles] for key in ("fd_pixel", "precision", "recall")]
    expected += [[role["held_out"][key] for role in roles] for key in ("fd_pixel", "precision", "recall")]
    expected += [[role[key] for role in roles] for key in ("label_agreement", "memorised")] + [
        [1, 35],
        [0.0512, 1.62],
    ]
    assert values == expected
    assert [better for _, better, _ in table] == ["lower", "higher", "higher"] * 2 + [
        "higher",
        "lower",
        "lower",
        "lower",
    ]
    assert re.findall(r"<b><data[^>]*>([^<]*)", table[0][2]) == ["0.412"]  # lower is better: the student
    assert re.findall(r"<b><data[^>]*>([^<]*)", table[2][2]) == ["0.701"]  # higher is better: the teacher


def test_summary_in_words_is_built_from_the_numbers(page: str) -> None:
    assert (
        "distilled a diffusion teacher, runs/some-teacher, that makes an image in 35 network evaluations"
        in page
    )
    method = "Uni-Instruct: expanded_divergence (0.4*forward_kl+0.6*reverse_kl) + gan"
    assert f"The method is {method}." in page
    assert "Training took 8 min on 2 &lt;cores&gt;: 1\u202f000 steps over 128\u202f000 images." in page
    assert (
        "is 0.412 and the teacher&#x27;s 0.618: the student is closer to them than its teacher, "
        "at 0.67 times the distance." in page
    )
    assert "31.6 times faster" in page
    assert page.count(" is better</span></dt>") == 7  # each metric explained once
    assert "Evaluated with protocol fd-pixel, n 10000, seed 0, train_images 1437." in page


@pytest.mark.parametrize(
    ("student", "verdict"),
    [(0.61, "as close to them as its teacher"), (0.7, "further from them than its teacher")],
)
def test_summary_does_not_flatter(run_dir: Path, student: float, verdict: str) -> None:
    (run_dir / "eval.json").write_text(json.dumps({**EVALUATION, "student": {"fd_pixel": student}}))
    run = read_run(run_dir)
    assert verdict in tell_story(run, summarise(run))


CALIBRATION = {
    "predicted": [-1.0, 0.5],
    "observed": [-0.4, 0.2],
    "real": [20.0, 50.0],
    "student": [60.0, 30.0],
}


@pytest.mark.parametrize("exact", [{}, {"exact": [-0.5, 0.3]}])
def test_calibration_is_shown_after_the_statistics(run_dir: Path, exact: dict[str, list[float]]) -> None:
    (run_dir / "calibration.json").write_text(json.dumps(CALIBRATION | exact))
    page = report(run_dir)
    titles = re.findall(r"<h2>([^<]*)</h2>", page)
    assert titles[titles.index("Learning rates") + 1] == "Calibration of the density ratio"
    assert "<b>Predicted and observed</b> log-ratio in 2 bins of the discriminator&#x27;s logit" in page


@pytest.mark.parametrize("exact", [(), (-0.5, 0.3)])
def test_a_reliability_diagram_holds_the_points_of_its_table(
    monkeypatch: pytest.MonkeyPatch, exact: tuple[float, ...]
) -> None:
    drawn = []
    monkeypatch.setattr(charts, "card", lambda figure, *_: drawn.append(figure.axes[0]) or "")
    charts.reliability(**CALIBRATION, exact=exact)
    points = [collection.get_offsets().tolist() for collection in drawn[0].collections]
    assert points == [[[-1.0, -0.4], [0.5, 0.2]], *([[[-1.0, -0.5], [0.5, 0.3]]] if exact else [])]
    assert drawn[0].collections[0].get_sizes().tolist() == [100.0, 100.0]
    assert drawn[0].lines[0].get_xydata().tolist() == [[-1.0, -1.0], [0.5, 0.5]]


def test_a_discriminator_that_has_seen_too_little_shows_no_calibration(run_dir: Path) -> None:
    (run_dir / "calibration.json").write_text(json.dumps({name: [] for name in CALIBRATION}))
    assert "Calibration of the density ratio" not in report(run_dir)


def test_content_of_files_is_escaped(run_dir: Path) -> None:
    (run_dir / "stats.jsonl").write_text(stats_line(1, **{"loss/<img src=x onerror=alert(1)>": 1.0}))
    page = report(run_dir)
    assert "note: &lt;script&gt;alert(&quot;config&quot;)&lt;/script&gt;" in page
    assert "# a header comment" in page
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_broken_last_line_is_skipped_and_said(run_dir: Path) -> None:
    with (run_dir / "stats.jsonl").open("a") as file:
        file.write('{"step": 1100, "loss/gen')
    run = read_run(run_dir)
    assert (run.unreadable, run.lines[-1]["step"], len(run.lines)) == ([11], 1000, 10)
    assert "Line 11 of stats.jsonl is not a whole record and was skipped" in report(run_dir)


@pytest.mark.parametrize("line", ["[1, 2]", '{"seconds": 3}', '{"step": "3"}', "null"])
def test_a_line_without_a_step_is_no_record(run_dir: Path, line: str) -> None:
    (run_dir / "stats.jsonl").write_text(f"{stats_line(1)}{line}\n\n{stats_line(2)}")
    run = read_run(run_dir)
    assert (run.unreadable, [row["step"] for row in run.lines]) == ([2], [1, 2])


def test_later_line_of_a_step_wins(run_dir: Path) -> None:
    with (run_dir / "stats.jsonl").open("a") as file:
        file.write(
            stats_line(900, **{"loss/generator": 7.0})
            + stats_line(1000, **{"loss/generator": 8.0, "seconds": 777.0})
        )
    steps, values = read_run(run_dir).series("loss/")["generator"]
    assert steps == list(range(100, 1100, 100))
    assert values[-3:] == [1 / 800, 7.0, 8.0]
    assert summarise(read_run(run_dir))["train"] == {"seconds": 777.0, "images": 128000, "steps": 1000}


def test_missing_parts_are_said_with_their_command(run_dir: Path) -> None:
    (run_dir / "eval.json").unlink()
    (run_dir / "meta.json").unlink()
    (run_dir / "eval" / "teacher.png").write_bytes(b"no image")
    page = report(run_dir)
    command = f"Make it with <code>python -m eval --run {run_dir}</code>"
    assert f"There is no eval.json: this run has not been evaluated. {command}" in page
    assert f"There is no readable eval/teacher.png. {command}" in page
    assert "There is no meta.json: versions, commit and machine are not known." in page
    assert "<table" not in page
    assert page.count('class="grid pixelated"') == 8


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    page = report(tmp_path)
    assert page.count('class="missing"') == 7  # images, results, monitor, statistics, time, samples, meta
    assert "<img" not in page
    assert summarise(read_run(tmp_path)) == {
        "name": tmp_path.name,
        "method": "expanded_divergence (0.4*forward_kl+0.6*reverse_kl) + gan",
    }


@pytest.mark.parametrize(
    ("config", "titles"),
    [
        ("task: train_autoencoder\n", ()),
        ("task: distill\nteacher: {name: gaussian_mixture}\ndata: null\n", ("Results",)),
        ("task: train_teacher\n", ("Images", "Results")),
    ],
    ids=["autoencoder", "vectors", "teacher"],
)
def test_an_evaluation_is_asked_for_only_what_it_makes(
    tmp_path: Path, config: str, titles: tuple[str, ...]
) -> None:
    (tmp_path / "config.yaml").write_text(config)
    page = report(tmp_path)
    assert tuple(title for title in ("Images", "Results") if f"<h2>{title}</h2>" in page) == titles
    assert page.count(f"python -m eval --run {tmp_path}") == len(titles)


def test_a_run_without_measurements_says_how_they_are_made(run_dir: Path) -> None:
    (run_dir / "stats.jsonl").write_text(stats_line(1, **{"loss/teacher": 0.3}))
    assert "every monitor_every steps.</p>" in report(run_dir)


def test_teacher_run_speaks_of_no_student(run_dir: Path) -> None:
    (run_dir / "config.yaml").write_text("task: train_teacher\n")
    (run_dir / "eval.json").write_text(json.dumps({"protocol": "fd-pixel", "n": 10000, "teacher": TEACHER}))
    (run_dir / "stats.jsonl").write_text(stats_line(1, **{"loss/teacher": 0.3}))
    page = report(run_dir)
    assert "This run trained a diffusion teacher" in page
    assert "the teacher&#x27;s Fréchet distance to the training images is 0.618." in page
    assert "tudent" not in page.split("<style>")[1].split("</style>")[1].split("Losses")[0]
    assert summarise(read_run(run_dir))["teacher"] == TEACHER
    assert "student" not in summarise(read_run(run_dir))


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    assert "<b>fake</b> last nan; 1 of 3 values not finite" in charts.curve(
        "fake", [1, 2, 3], [1.0, 2.0, float("nan")]
    )


def test_null_in_the_statistics_was_a_value_that_is_not_finite(run_dir: Path) -> None:
    (run_dir / "stats.jsonl").write_text(
        stats_line(1) + stats_line(2).replace('"grad_norm/generator": 0.5', '"grad_norm/generator": null')
    )
    assert "<b>generator</b> last nan; 1 of 2 values not finite" in report(run_dir)


def test_unconditional_evaluation_has_no_label_agreement() -> None:
    table = render_table(
        {"student": {"fd_pixel": 1.5, "label_agreement": None}, "teacher": {"fd_pixel": 2.25}}, "fd_pixel"
    )
    assert "Label agreement" not in table
    assert "Sampling" not in table
    assert re.findall(r">([\d.]+)</data>", table) == ["1.50", "2.25"]


def test_running_mean_has_no_lag_and_keeps_lines_straight() -> None:
    values = np.arange(100.0)
    np.testing.assert_allclose(charts.running_mean(values)[3:-3], values[3:-3])
    np.testing.assert_allclose(charts.running_mean(np.ones(7)), np.ones(7))


def test_numbers_in_words() -> None:
    assert [short(value) for value in (0.41234, 31.64, 2560000, 1e-4, 3e-5, 999.6, -0.0)] == [
        *("0.412", "31.6", "2\u202f560\u202f000", "0.0001", "3e-5", "1\u202f000", "0"),
    ]
    assert [duration(seconds) for seconds in (42, 2280, 18420)] == ["42 s", "38 min", "5 h 07 min"]


def test_summary_values(run_dir: Path) -> None:
    assert summarise(read_run(run_dir)) == {
        "name": "some-run",
        "method": "expanded_divergence (0.4*forward_kl+0.6*reverse_kl) + gan",
        "protocol": "fd-pixel",
        "student": {**STUDENT, "fd_over_teacher": 0.412345678 / 0.61803},
        "teacher": TEACHER,
        "sampling": EVALUATION["sampling"],
        "train": {"seconds": 500.0, "images": 128000, "steps": 1000},
    }


def test_writing_replaces_whole_files_and_is_repeatable(run_dir: Path) -> None:
    (run_dir / "report.html").write_text("old")
    first = report(run_dir)
    before = sorted(run_dir.iterdir())
    assert report(run_dir) == first
    assert sorted(run_dir.iterdir()) == before


def test_command_writes_both_and_prints_the_summary(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(run_dir)])
    line, rest = capsys.readouterr().out.split("\n", 1)
    assert line == f"wrote {run_dir / 'report.html'} and {run_dir / 'summary.json'}"
    summary = summarise(read_run(run_dir))
    assert json.loads(rest) == summary == json.loads((run_dir / "summary.json").read_text())


@pytest.mark.parametrize("name", ["report.html", "summary.json"])
def test_a_file_that_cannot_be_written_is_named(run_dir: Path, name: str) -> None:
    (run_dir / name).mkdir()
    with pytest.raises(UserError) as raised:
        main([str(run_dir)])
    assert str(raised.value) == f"{run_dir / name}: cannot be written (Is a directory)"


def test_the_statistics_are_read_once(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def read_and_note(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
        opened.append(path)
        return read_stats(path)

    monkeypatch.setattr(run_record, "read_stats", read_and_note)
    main([str(run_dir)])
    assert opened == [run_dir / "stats.jsonl"]


def test_mistakes_take_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "distill", "report", str(tmp_path / "absent")],
        capture_output=True,
        text=True,
        check=False,
    )
    message = (
        f"error: {tmp_path / 'absent'}: no such folder; expected the folder of a run, such as runs/<name>\n"
    )
    assert (result.returncode, result.stdout, result.stderr) == (2, "", message)
    with pytest.raises(
        UserError, match=r"^.*: is not a run; expected a folder with config.yaml or stats.jsonl$"
    ):
        main([str(tmp_path)])
    with pytest.raises(UserError, match=r"^'--fast': unknown argument; expected one of: --help$"):
        main([str(tmp_path), "--fast"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("eval.json", "{", "is not JSON"),
        ("meta.json", "[]", "expected a mapping, found list"),
        ("config.yaml", "a: [", "is not YAML"),
    ],
)
def test_a_broken_file_is_named(run_dir: Path, name: str, text: str, complaint: str) -> None:
    (run_dir / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}: {complaint}"):
        write_report(run_dir)
