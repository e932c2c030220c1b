"""`python -m distill models` lists the pipelines of diffusers that are served, and those that are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.config.command_line import ArgumentParser
from distill.storage.files import read_json

CHECKS = {
    "sample": "each step of a many-step sample, and the image, against the pipeline",
    "features": "features at each depth against the network's own layers",
    "objectives": "three steps of each objective",
    "export": "a one-step export, opened by plain diffusers",
    "steps": "an export of several steps, opened by plain diffusers",
    "adapters": "adapters, loaded by plain diffusers",
}
"""What the tests compare, by the names in the table."""
TESTED = Path(__file__).with_name("tested_models.json")
"""Checks that passed for each pipeline, written by benchmarks/models.py."""
COLUMNS = ("pipeline", "denoiser", "schedule", "features by", "export with LoRA", "tested")


def main(arguments: list[str]) -> None:
    """Print the table of pipelines that are served, and the others with the reasons."""
    ArgumentParser(
        "python -m distill models", "List the pipelines of diffusers that can be distilled."
    ).parse_args(arguments)

    from distill.networks.diffusers.served import REFUSED

    rows = [COLUMNS, *table(read_json(TESTED))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    print("\ntested with tiny networks of the same classes:")
    for name, meaning in CHECKS.items():
        print(f"  {name}: {meaning}")
    print("\nrefused:")
    for name, reason in REFUSED.items():
        print(f"  {name} {reason}")


def table(tested: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the rows of the pipelines that are served, given the checks that passed for each."""
    from distill.networks.diffusers.families import FAMILIES
    from distill.networks.diffusers.served import SERVED

    rows: list[tuple[str, ...]] = []
    for name, (denoiser, schedule, has_adapters) in SERVED.items():
        depths = "height" if FAMILIES[denoiser].is_unet else "block"
        adapters = "adapters" if has_adapters else "merged weights"
        passed = ", ".join(check for check in CHECKS if check in tested.get(name, ()))
        rows.append((name, denoiser, schedule, depths, adapters, passed or "not run"))
    return rows
