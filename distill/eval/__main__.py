"""`python -m eval --run runs/X` compares a student and its teacher with real images and times sampling.

`fid` measures under a named protocol, `protocols` explains the protocols, `sweep` measures the checkpoints
of a run, `diversity` measures how much images of one prompt or label differ, `preference` asks models of
human preference, `geneval`, `dpg` and `text` find out whether images show what their prompts ask for, `scene`
measures scenes in three dimensions, `compare` puts results side by side, and `report` writes a page of them
with their images.
"""

from __future__ import annotations

from pathlib import Path

from distill.config.command_line import ArgumentParser, refuse_several_processes, run_command
from distill.config.errors import UserError, did_you_mean
from distill.eval.command_line import refuse_repeated


def main(arguments: list[str]) -> None:
    """Run a command. Modules that import torch are imported after the arguments are known to be right."""
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in COMMANDS:
            nearest = did_you_mean(arguments[0], COMMANDS)
            raise UserError(f"'{arguments[0]}': no command of python -m eval{nearest}")
        if arguments[0] not in IN_SEVERAL_PROCESSES:
            refuse_several_processes()
        COMMANDS[arguments[0]](arguments[1:])
        return
    refuse_several_processes()
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


def geneval(arguments: list[str]) -> None:
    """Count the images that hold what their prompts ask for."""
    from distill.eval.composition.geneval import command

    command.run(command.parse(arguments))


def dpg(arguments: list[str]) -> None:
    """Ask whether images show what long prompts say."""
    from distill.eval.composition.dpg import command

    command.run(command.parse(arguments))


def text(arguments: list[str]) -> None:
    """Read the text in images and compare it with what their prompts ask for."""
    from distill.eval.composition.rendered_text import command

    command.run(command.parse(arguments))


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
        "Put results of fid, of preference, or of a benchmark side by side, if they may be compared.",
    )
    parser.add_argument(
        "results", type=Path, nargs="+", help="files that a command wrote with --out, all of the same"
    )
    paths: list[Path] = parser.parse_args(arguments).results
    refuse_repeated(paths)

    from distill.eval.composition import comparison as of_composition
    from distill.eval.fid import comparison as of_fid
    from distill.eval.fid.sets.results import read_all_results
    from distill.eval.preference import comparison, table
    from distill.storage.files import read_json

    first = read_json(paths[0])
    if isinstance(first, dict) and first.get("format") == comparison.FORMAT:
        print(table.compare({str(path): comparison.read_results(path) for path in paths}))
    elif isinstance(first, dict) and first.get("format") == of_composition.FORMAT:
        from distill.eval.composition import table as composition_table

        print(composition_table.compare({str(path): of_composition.read_results(path) for path in paths}))
    else:
        print(of_fid.compare_all({str(path): read_all_results(path) for path in paths}))


def report(arguments: list[str]) -> None:
    """Write a page of results."""
    from distill.eval.page.arguments import parse

    options = parse(arguments)

    from distill.eval.page.command import run

    run(options)


COMMANDS = {
    "fid": fid,
    "protocols": protocols,
    "compare": compare,
    "sweep": sweep,
    "diversity": diversity,
    "preference": preference,
    "geneval": geneval,
    "dpg": dpg,
    "text": text,
    "scene": scene,
    "report": report,
}
IN_SEVERAL_PROCESSES = ("fid", "sweep", "diversity", "preference", "geneval", "dpg", "text")
"""Commands whose work several processes share."""


if __name__ == "__main__":
    run_command(main, on_shortage="lower --batch-size")
