"""The arguments of `python -m eval report`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from distill.config.command_line import ArgumentParser, at_least
from distill.config.errors import UserError
from distill.eval.command_line import refuse_repeated
from distill.eval.results.file import check_out


@dataclasses.dataclass(frozen=True)
class NamedPath:
    """A file or folder of results, and the name that the command line gives its model."""

    path: Path
    name: str | None


@dataclasses.dataclass(frozen=True)
class PageOptions:
    """Settings of `report`; the help of the flags explains each."""

    results: Sequence[NamedPath]
    out: Path
    title: str | None
    max_mb: int


def parse(arguments: list[str]) -> PageOptions:
    """Read the arguments."""
    parser = ArgumentParser(
        "python -m eval report",
        "Write one HTML file that shows models side by side: their images of the same prompts and seeds, "
        "their scores, and the numbers of fid and of python -m eval. "
        "Results that compare refuses are refused.",
    )
    parser.add_argument(
        "results",
        nargs="+",
        metavar="RESULTS",
        help="file of preference, fid or python -m eval, or folder of a run or of runs; NAME=PATH names its "
        "model on the page",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="HTML file to write")
    parser.add_argument("--title", help="title of the page (default: the models' names)")
    parser.add_argument(
        "--max-mb",
        type=int,
        default=64,
        metavar="MB",
        help="maximum size of the images on the page, in megabytes; a larger page holds larger images, "
        "or more of them, and takes longer to open (default: 64)",
    )
    options = parser.parse_args(arguments)
    at_least(options, max_mb=1)
    check_out(options.out)
    named = [_parse_named(text) for text in options.results]
    refuse_repeated([one.path for one in named])
    return PageOptions(named, options.out, options.title, options.max_mb)


def _parse_named(text: str) -> NamedPath:
    """Read NAME=PATH, or a path alone; a path that exists may have a = in its name."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return NamedPath(Path(text).expanduser(), None)
    if not name.strip() or not path:
        raise UserError(f"'{text}': expected NAME=PATH, or the path of results")
    return NamedPath(Path(path).expanduser(), name.strip())
