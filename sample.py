"""Generate images: `python sample.py --run runs/X --n 100 --out samples`, the same as `distill sample`."""

from __future__ import annotations

from distill.__main__ import run, run_as


def main(arguments: list[str]) -> None:
    """Generate images with a student or its teacher, and write them as a folder."""
    run("sample", arguments)


if __name__ == "__main__":
    run_as("sample")
