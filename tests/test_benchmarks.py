"""The scripts of `benchmarks/` explain themselves, and the documentation shows their committed results."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import (
    digits_presets,
    dispatched_operations,
    document,
    emoji_results,
    evaluation_cost,
    gpu,
    gradient_parts,
    memory,
    models,
    preference_front,
    scaling,
    scenes,
    study,
)
from distill.storage.files import read_json

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    "counting",
    "document",
    "project",
    "random_pipelines",
    "random_teachers",
    "rotation",
    "steps",
)
SCRIPTS = sorted({path.stem for path in ROOT.glob("benchmarks/*.py")} - set(LIBRARIES))
GENERATORS = (
    digits_presets,
    dispatched_operations,
    emoji_results,
    evaluation_cost,
    gpu,
    gradient_parts,
    memory,
    models,
    preference_front,
    scaling,
    scenes,
    study,
)
"""Scripts that write blocks of the documentation."""
RENDERED = {
    block: text
    for script in GENERATORS
    for block, text in script.render(read_json(script.RESULTS) if script.RESULTS.is_file() else {}).items()
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as done:
        script.main(["--help"])
    assert done.value.code == 0
    assert script.__doc__.strip() in capsys.readouterr().out


def test_a_script_runs_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "digits_presets.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: digits_presets.py ")


@pytest.mark.parametrize("block", RENDERED, ids=lambda block: block.name)
def test_a_generated_block_shows_the_committed_results(block: document.Block) -> None:
    assert block.read() == RENDERED[block]


def test_every_generated_block_has_a_script() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    marked = {
        document.Block(page, name)
        for page in pages
        for name in re.findall(r"<!-- (.+): begin -->", page.read_text(encoding="utf-8"))
    }
    assert marked == set(RENDERED)


def test_writing_a_block_replaces_only_the_text_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- a: begin -->\nold\n<!-- a: end -->\n<!-- b: begin -->\nb\n<!-- b: end -->\n"
    )
    block = document.Block(page, "a")
    block.write("new")
    assert block.read() == "new"
    assert page.read_text() == (
        "before\n<!-- a: begin -->\nnew\n<!-- a: end -->\n<!-- b: begin -->\nb\n<!-- b: end -->\n"
    )


@pytest.mark.parametrize("text", ["", "<!-- a: begin -->\nno end", "no begin\n<!-- a: end -->"])
def test_a_page_without_both_markers_is_left_as_it_is(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=r"expected the markers <!-- a: begin --> and <!-- a: end -->$"):
        document.Block(page, "a").write("new")
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("values", "form", "expected"),
    [
        ([1.0, 2.0, 3.0], ".3f", "2.000 ± 1.000"),
        ([1.0, 2.0, 3.0], "+.1f", "+2.0 ± 1.0"),
        ([0.25], ".2f", "0.25"),
    ],
)
def test_mean_and_std(values: list[float], form: str, expected: str) -> None:
    assert document.mean_and_std(values, form) == expected


def test_a_table_in_markdown() -> None:
    assert document.markdown_table(["a", "b"], [["1", ""], ["2", "x"]]) == (
        "| a | b |\n|---|---|\n| 1 | |\n| 2 | x |"
    )
