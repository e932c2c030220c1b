"""Run the tests of every family of diffusers, and write which checks passed: `python benchmarks/models.py`.

Writes distill/publishing/tested_models.json, which `python -m distill models` shows, and the table in
docs/diffusers.md. `--junit FILE` reads the results of a run of pytest instead of running it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.document import Block, markdown_table
from benchmarks.project import ROOT, argument_parser
from distill.publishing.models import CHECKS, COLUMNS, TESTED, table
from distill.storage.files import read_json, write_json
from tests.helpers.diffusers_families import FAMILIES

RESULTS = TESTED
TABLE = Block(ROOT / "docs" / "diffusers.md", "models")
TESTS = {
    "test_its_prediction_is_that_of_a_scheduler_s_step": "sample",
    "test_each_step_of_a_transformer_s_pipeline_is_ours": "sample",
    "test_features_are_the_encoder_s": "features",
    "test_features_of_a_transformer_are_its_blocks_tokens_of_the_image": "features",
    "test_every_objective_moves_the_student": "objectives",
    "test_an_export_is_a_pipeline_of_diffusers": "export",
    "test_diffusers_loads_an_export": "adapters",
}
"""The checks by the names of the tests that make them."""
FILES = (
    "tests/teachers/test_diffusers_predictions.py",
    "tests/teachers/test_diffusers_features.py",
    "tests/students/test_diffusers_student.py",
    "tests/networks/test_lora.py",
)


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--junit", type=Path, help="results of these tests, by pytest's --junit-xml")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        results = options.junit or run_tests(Path(folder))
        write_json(RESULTS, passed_checks(results))
    for block, text in render(read_json(RESULTS)).items():
        block.write(text)
        print(text)


def run_tests(folder: Path) -> Path:
    """Run the tests of the families, also the slow ones, and return pytest's file of results."""
    results = folder / "results.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", f"--junit-xml={results}", *FILES]
    subprocess.run(command, cwd=ROOT, check=False)
    return results


def passed_checks(results: Path) -> dict[str, list[str]]:
    """Return the checks for each pipeline all of whose cases passed."""
    outcomes: dict[tuple[str, str], list[bool]] = {}
    pipelines = {name: pipeline_of(name) for name in FAMILIES}
    for case in xml.etree.ElementTree.parse(results).iter("testcase"):
        test, _, parameters = case.attrib["name"].partition("[")
        family = family_of(parameters.rstrip("]"))
        if test not in TESTS or family is None:
            continue
        check = TESTS[test]
        if check == "export" and not parameters.rstrip("]").endswith("-1"):
            check = "steps"
        outcomes.setdefault((pipelines[family], check), []).append(len(case) == 0)
    found: dict[str, list[str]] = {}
    for (pipeline, check), passed in outcomes.items():
        if all(passed):
            found.setdefault(pipeline, []).append(check)
    return {name: sorted(checks, key=list(CHECKS).index) for name, checks in sorted(found.items())}


def family_of(parameters: str) -> str | None:
    """Return the longest name of a family among the parts of a test's parameters, None if there is none."""
    found = [name for name in FAMILIES if f"-{name}-" in f"-{parameters}-"]
    return max(found, key=len, default=None)


def pipeline_of(family: str) -> str:
    """Return the class of a family's tiny pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        index = read_json(FAMILIES[family](Path(folder) / family) / "model_index.json")
    name: str = index["_class_name"]
    return name


def render(tested: Mapping[str, Sequence[str]]) -> dict[Block, str]:
    """Return the generated blocks with their texts."""
    return {TABLE: markdown_table(COLUMNS, table(tested))}


if __name__ == "__main__":
    main(sys.argv[1:])
