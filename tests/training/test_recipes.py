"""Presets of papers agree with `docs/recipes.md` in every value, and their headers name their sources."""

import math
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.training.settings import DistillRun
from tests.helpers.runs import read_run

PAGE = Path("docs/recipes.md")
FOLDERS = ("cifar10", "imagenet64", "sd15", "sdxl", "pixart")
PRESETS = {
    f"{path.parent.name}/{path.stem}": path
    for folder in FOLDERS
    for path in sorted(Path("configs", folder).glob("*.yaml"))
}
MACHINE = {
    "task",
    "run_dir",
    "data",
    "teacher",
    "prompts",
    "micro_batch_size",
    "channels_last",
    "compile",
    "sample_every",
    "checkpoint_every",
    "monitor_every",
}
"""Settings of paths, intervals, memory and speed, which the page says are ours."""


def rows() -> Iterator[tuple[str, str, Any]]:
    """Yield each preset, setting and value that the page's tables name."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `"):
            continue
        assert len(cells) == 5, line
        value = yaml.safe_load(cells[3].strip("`"))
        for pattern in re.findall(r"`([^`]+)`", cells[0]):
            matched = [name for name in PRESETS if fnmatch(name, pattern)]
            assert matched, f"{pattern} matches no preset"
            yield from ((name, cells[1].strip("`"), value) for name in matched)


def settings(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a preset under dotted names; a term is named by its name."""
    if isinstance(content, dict) and name.count(".") < 1 and name not in {"objective", "ratio", "guidance"}:
        for key, value in content.items():
            yield from settings(value, f"{name}.{key}" if name else key)
    elif name == "terms":
        for term in content:
            yield f"terms.{term['name']}", term
    else:
        yield name, content


def numbers(value: Any) -> Any:
    """Turn texts such as 1e-5, which YAML does not read as numbers, into numbers."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return value


@pytest.mark.parametrize("name", PRESETS)
def test_every_value_of_a_preset_is_the_page_s(name: str) -> None:
    expected = {setting: value for preset, setting, value in rows() if preset == name}
    found = {
        setting: value
        for setting, value in settings(yaml.safe_load(PRESETS[name].read_text()))
        if setting.split(".")[0] not in MACHINE
    }
    assert numbers(found) == numbers(expected)


def test_no_value_of_the_page_is_given_twice() -> None:
    named = [(preset, setting) for preset, setting, _ in rows()]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("name", PRESETS)
def test_a_header_says_source_ours_cost_and_what_was_published_and_measured(name: str) -> None:
    header = "".join(
        line for line in PRESETS[name].read_text().splitlines(keepends=True) if line.startswith("#")
    )
    for part in ("Source: ", "Ours: ", "Cost: ", "Published result: ", "Measured here: "):
        assert part in header, part
    assert "docs/recipes.md" in header.replace("\n# ", " ")


def runs_of_sida(folder: str = "") -> list[DistillRun]:
    """Read the presets of SiDA, and of Uni-Instruct, which has SiDA's settings."""
    names = [name for name in PRESETS if name.startswith(folder)]
    return [read_run(PRESETS[name]) for name in names if "/sida" in name or "/uni_instruct" in name]


def test_sida_s_weights_are_those_of_its_sums() -> None:
    """They follow from E[1/sigma^2 + 1/sigma_data^2], log sigma ~ N(-1.2, 1.2^2), and an image's elements."""
    expected_lambda = math.exp(2 * 1.2 + 2 * 1.2**2) + 1 / 0.5**2
    for folder, elements in (("cifar10", 3 * 32 * 32), ("imagenet64", 3 * 64 * 64)):
        for run in runs_of_sida(folder):
            assert run.discriminator.weight == pytest.approx(0.5 * expected_lambda / elements, rel=2e-3)
            assert run.fake.optimizer.clip_grad_value == pytest.approx(1 / elements, rel=2e-3)
            assert run.terms[0].weight / run.objective.weight == pytest.approx(0.01 / 100)


def test_steps_after_which_a_method_changes_are_counted_in_images() -> None:
    """SiDA trains the generator after 100 000 images, and adds the GAN term after 200 000."""
    for run in runs_of_sida():
        for images, step in ((100_000, run.fake.warmup_steps), (200_000, run.terms[0].start_step)):
            assert (step - 1) * run.batch_size <= images < step * run.batch_size
