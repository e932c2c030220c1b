"""`python -m eval --run runs/X` compares a student and its teacher with real images and times sampling.

`fid` measures under a named protocol, `protocols` explains the protocols, `sweep` measures the checkpoints
of a run, `diversity` measures how much images of one prompt or label differ, `preference` asks models of
human preference, `scene` measures scenes in three dimensions, and `compare` puts results side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill.config.command_line import ArgumentParser, run_command
from distill.config.errors import UserError, did_you_mean


def main(arguments: list[str]) -> None:
    """Run a command. Modules that import torch are imported after the arguments are known to be right."""
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in COMMANDS:
            nearest = did_you_mean(arguments[0], COMMANDS)
            raise UserError(f"'{arguments[0]}': no command of python -m eval{nearest}")
        COMMANDS[arguments[0]](arguments[1:])
        return
    from distill.eval.run.arguments import parse

    options = parse(arguments, COMMANDS)

    from distill.eval.run.command import run

    run(options)


def fid(arguments: list[str]) -> None:
    """Measure under a protocol."""
    from distill.eval.fid.arguments import parse_fid

    options = parse_fid(arguments)

    from distill.eval.fid.command import run

    run(options)


def protocols(arguments: list[str]) -> None:
    """Explain the protocols."""
    ArgumentParser(
        "python -m eval protocols",
        "Explain the protocols: what decides a number, and which published numbers it can be compared with.",
    ).parse_args(arguments)

    from distill.eval.protocols import explain

    print(explain())


def sweep(arguments: list[str]) -> None:
    """Measure the checkpoints of a run."""
    from distill.eval.fid.arguments import parse_sweep

    options = parse_sweep(arguments)

    from distill.eval.fid.sweep import run

    run(options)


def diversity(arguments: list[str]) -> None:
    """Measure how much images of one prompt or label differ."""
    from distill.eval.fid.diversity.arguments import parse_diversity

    options = parse_diversity(arguments)

    from distill.eval.fid.diversity.command import run

    run(options)


def preference(arguments: list[str]) -> None:
    """Ask models of human preference."""
    from distill.eval.preference.arguments import parse

    options = parse(arguments)

    from distill.eval.preference.command import run

    run(options)


def scene(arguments: list[str]) -> None:
    """Measure a scene in three dimensions."""
    from distill.eval.scene.arguments import parse

    options = parse(arguments)

    from distill.eval.scene.command import run

    run(options)


def compare(arguments: list[str]) -> None:
    """Put results side by side."""
    parser = ArgumentParser(
        "python -m eval compare",
        "Put results of fid, or of preference, side by side, if they may be compared.",
    )
    parser.add_argument("results", type=Path, nargs="+", help="files that fid or preference wrote with --out")
    paths: list[Path] = parser.parse_args(arguments).results
    _refuse_repeated(paths)

    from distill.eval.fid import comparison as of_fid
    from distill.eval.fid.results import read_results
    from distill.eval.preference import comparison, table
    from distill.storage.files import read_json

    first = read_json(paths[0])
    if isinstance(first, dict) and first.get("format") == comparison.FORMAT:
        print(table.compare({str(path): comparison.read_results(path) for path in paths}))
    else:
        print(of_fid.compare({str(path): read_results(path) for path in paths}))


def _refuse_repeated(paths: Sequence[Path]) -> None:
    seen = set()
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"{path}: is named twice; expected results of different measurements")
        seen.add(path.resolve())


COMMANDS = {
    "fid": fid,
    "protocols": protocols,
    "compare": compare,
    "sweep": sweep,
    "diversity": diversity,
    "preference": preference,
    "scene": scene,
}


if __name__ == "__main__":
    run_command(main, on_shortage="lower --batch-size")
