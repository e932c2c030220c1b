"""Train a run: `python train.py CONFIG [--key value ...]`, the same as `distill train`."""

from __future__ import annotations

from distill.__main__ import run, run_as


def main(arguments: list[str]) -> int:
    """Train the run, describe it, or print help; return the exit code."""
    return run("train", arguments)


if __name__ == "__main__":
    run_as("train")
