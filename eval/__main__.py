"""`python -m eval --run runs/X`: how near are a student and its teacher to the real images, and how fast?"""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.errors import ArgumentParser, UserError, run_command

SUBJECTS = ("run", "teacher", "images", "array")


def main(arguments: list[str]) -> None:
    options = parse(arguments)

    from eval.command import run  # imports torch: after the arguments are known to be right

    run(options)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options. Raises UserError where they are not known, not of their kind, or do not go together."""
    parser = ArgumentParser("python -m eval", "Compare generated images with real ones, and measure how fast they are made.")
    parser.add_argument("--run", type=Path, help="run folder: its student and its teacher; of a teacher's run, the teacher")
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="a teacher's folder instead")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="a folder of images instead; sub-folders, if there are any, are the labels")
    parser.add_argument("--array", type=Path, metavar="FILE", help="a .npy or .npz file of uint8 images instead")
    parser.add_argument("--data", help="real images: digits, image_folder:PATH[:HELD_OUT_PATH] or array:PATH[:HELD_OUT_PATH] (default: the run's)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="text file of one prompt a line, for models of text (default: the run's)")
    parser.add_argument("--n", type=int, help="number of images (default: 10000; all of a folder or file)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image; image i has seed + i (default: 0)")
    parser.add_argument("--batch-size", type=int, default=256, help="images sampled at once (default: 256)")
    parser.add_argument("--no-teacher", action="store_true", help="leave a run's teacher out")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for eval.json and eval/*.png (default: the run's; else none are written)")
    options = parser.parse_args(arguments)

    given = [f"--{name}" for name in SUBJECTS if getattr(options, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise UserError(f"{found}: expected one of --run, --teacher, --images and --array")
    if options.data is None and options.run is None:
        raise UserError(f"{given[0]}: expected --data with the real images, such as --data digits")
    if options.no_teacher and options.run is None:
        raise UserError("--no-teacher: goes with --run only")
    for name, least in (("n", 4), ("batch_size", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    return options


if __name__ == "__main__":
    run_command(main)
