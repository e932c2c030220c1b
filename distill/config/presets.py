"""`python -m distill configs` lists the presets, prints one, or copies one."""

from __future__ import annotations

import argparse
import difflib
import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

from distill.config.command_line import ArgumentParser
from distill.config.errors import UserError, did_you_mean, writing_to
from distill.config.installation import shipped_root
from distill.config.text_files import read_text, split_lines

FOLDER, SUFFIX = "configs", ".yaml"
COMMAND = "python -m distill configs"
ACTIONS = ("list", "show", "copy")
SHOWN = 110
"""Characters of the sentence that `list` shows of a preset."""


def main(arguments: list[str]) -> None:
    """List the presets, print one, or copy one."""
    options = _parse(arguments)
    if options.action == "list":
        _list()
    elif options.action == "show":
        path = find_preset(options.name)
        print(read_text(path, str(path)), end="")
    else:
        _copy(find_preset(options.name), options.destination)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        COMMAND, "List the presets (list), print one (show NAME) or copy one (copy NAME)."
    )
    parser.add_argument("action", metavar="list|show|copy", help="list, show NAME or copy NAME [DEST]")
    parser.add_argument("name", nargs="?", help="name of a preset, such as digits/dmd2")
    parser.add_argument(
        "destination",
        metavar="DEST",
        type=Path,
        nargs="?",
        help="new file, or folder for it (default: the preset's file name, in the current folder)",
    )
    options = parser.parse_args(arguments)
    if options.action not in ACTIONS:
        raise UserError(f"'{options.action}': no action of {COMMAND}{did_you_mean(options.action, ACTIONS)}")
    if options.action == "list" and options.name is not None:
        raise UserError(
            f"'{options.name}': unexpected after list; expected show {options.name}, or list alone"
        )
    if options.action != "list" and options.name is None:
        raise UserError(f"{options.action}: expected the name of a preset after it, such as digits/dmd2")
    if options.action == "show" and options.destination is not None:
        raise UserError(f"'{options.destination}': unexpected after show NAME; expected copy NAME DEST")
    return options


def preset_names() -> list[str]:
    """Return the names of the presets, such as digits/dmd2, in the order of the alphabet."""
    folder = shipped_root() / FOLDER
    names = sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob(f"*{SUFFIX}"))
    if not names:
        raise UserError(f"{folder}: holds no presets; expected them in an installed package or a checkout")
    return names


def find_preset(name: str, lack: str = "no preset has this name") -> Path:
    """Return the file of a preset by its name, with or without `configs/` and `.yaml`.

    `lack` says in the message what a wrong name does not lead to.
    """
    names = preset_names()
    short = _short_name(name)
    if short not in names:
        raise UserError(f"'{name}': {lack}; {_hint(short, names)}")
    return shipped_root() / FOLDER / f"{short}{SUFFIX}"


def find_config(name: str) -> Path:
    """Return the configuration that a command names: a file or, if there is none, a preset.

    The path of an absent `.yaml` file that resembles no preset is returned as well: whoever reads it refuses
    it.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    names = preset_names()
    short = _short_name(name)
    resembles = short in names or bool(difflib.get_close_matches(short, names, n=1))
    if not resembles and (path.exists() or path.suffix in (SUFFIX, ".yml")):
        return path
    return find_preset(name, "no such file, and no such preset")


def _hint(short: str, names: Sequence[str]) -> str:
    """Say which presets may be meant: those of this name in any folder, or else the nearest name."""
    in_folders = [name for name in names if name.rpartition("/")[2] == short]
    if len(in_folders) > 1:
        return f"expected one of: {', '.join(in_folders)}"
    near = in_folders or difflib.get_close_matches(short, names, n=1)
    return f"did you mean '{near[0]}'?" if near else f"expected one that {COMMAND} list names"


def _short_name(name: str) -> str:
    return name.removeprefix("./").removeprefix(f"{FOLDER}/").removesuffix(SUFFIX)


def _list() -> None:
    """Print the name of each preset and the first sentence of its header, cut where it is long."""
    names = preset_names()
    width = max(map(len, names))
    for name in names:
        path = find_preset(name)
        print(f"{name:{width}}  {textwrap.shorten(_first_sentence(path), SHOWN, placeholder=' ...')}")


def _first_sentence(path: Path) -> str:
    """Return the first sentence of a preset's header, which may go over several lines."""
    header = itertools.takewhile(lambda line: line.startswith("#"), split_lines(read_text(path, str(path))))
    text = " ".join(line.removeprefix("#").strip() for line in header)
    return text.partition(". ")[0].removesuffix(".") + "."


def _copy(source: Path, destination: Path | None) -> None:
    """Copy a preset to a new file."""
    target = Path(source.name) if destination is None else destination
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise UserError(f"{target}: is there already; expected a new file")
    with writing_to(f"{target}:"):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    print(target)
