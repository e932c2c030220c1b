"""`python -m eval --run runs/X`: how near are a student and its teacher to the real images, and how fast?

`fid` measures under a named protocol, `protocols` explains them, `sweep` measures the checkpoints of a run, `preference` asks models of human
preference, `compare` puts results side by side.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from distill.config.command_line import ArgumentParser, at_least, run_command
from distill.config.errors import UserError, did_you_mean

DTYPES = ("float32", "bfloat16", "float16")
NETWORKS = ("run", "teacher", "pipeline")
SUBJECTS = (*NETWORKS, "images", "array")
"""Flags that say what is measured; not every command has all."""
GOES_WITH = {
    "seed": NETWORKS,
    "prompts": NETWORKS,
    "steps": ("teacher", "pipeline"),
    "guidance": ("teacher", "pipeline"),
    "sampler": ("teacher",),
    "dtype": ("pipeline",),
}
"""Flags of `fid` that say how images are made, and whose they can be."""


def main(arguments: list[str]) -> None:
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in COMMANDS:
            raise UserError(
                f"'{arguments[0]}': no command of python -m eval{did_you_mean(arguments[0], COMMANDS)}"
            )
        return COMMANDS[arguments[0]](arguments[1:])
    options = parse(arguments)

    from eval.run.command import run  # imports torch: after the arguments are known to be right

    run(options)


def fid(arguments: list[str]) -> None:
    options = parse_fid(arguments)

    from eval.fid.command import run

    run(options)


def protocols(arguments: list[str]) -> None:
    ArgumentParser(
        "python -m eval protocols",
        "Explain the protocols: what decides a number, and which published ones it can be compared with.",
    ).parse_args(arguments)

    from eval.protocols import explain

    print(explain())


def sweep(arguments: list[str]) -> None:
    options = parse_sweep(arguments)

    from eval.fid.sweep import run

    run(options)


def preference(arguments: list[str]) -> None:
    options = parse_preference(arguments)

    from eval.preference.command import run

    run(options)


def compare(arguments: list[str]) -> None:
    parser = ArgumentParser(
        "python -m eval compare", "Results of fid, or of preference, side by side, if they may be compared."
    )
    parser.add_argument("results", type=Path, nargs="+", help="files that fid or preference wrote with --out")
    paths = parser.parse_args(arguments).results

    from distill.storage.files import read_json
    from eval.fid import table as fid_table
    from eval.preference import comparison, table

    for place, path in enumerate(paths):
        if path.resolve() in (earlier.resolve() for earlier in paths[:place]):
            raise UserError(f"{path}: is named twice; expected results of different measurements")
    first = read_json(paths[0])
    if isinstance(first, dict) and first.get("format") == comparison.FORMAT:
        print(table.compare({str(path): comparison.read_results(path) for path in paths}))
    else:
        print(fid_table.compare({str(path): fid_table.read_results(path) for path in paths}))


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options. Raises UserError where they are not known, not of their kind, or do not go together."""
    parser = ArgumentParser(
        "python -m eval",
        "Compare generated images with real ones, and measure how fast they are made. "
        f"Commands with options of their own: {', '.join(COMMANDS)}; python -m eval fid --help explains one.",
    )
    parser.add_argument(
        "--run", type=Path, help="run folder: its student and its teacher; of a teacher's run, the teacher"
    )
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="a teacher's folder instead")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="a folder of images instead; sub-folders, if there are any, are the labels",
    )
    parser.add_argument(
        "--array", type=Path, metavar="FILE", help="a .npy or .npz file of uint8 images instead"
    )
    parser.add_argument(
        "--data",
        help="real images: digits, image_folder:PATH[:HELD_OUT_PATH] or array:PATH[:HELD_OUT_PATH] (default: the run's)",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="text file of prompts, one a line, for models that take text (default: the run's)",
    )
    parser.add_argument(
        "--n",
        type=int,
        help="number of images, of a folder or file evenly chosen (default: 10000; all of a folder or file)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the first image; image i has seed + i (default: 0)"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="images sampled at once (default: 256)")
    parser.add_argument("--no-teacher", action="store_true", help="leave a run's teacher out")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for eval.json and eval/*.png (default: the run's; else none are written)",
    )
    options = parser.parse_args(arguments)

    subject = one_subject(options)
    if options.data is None and options.run is None:
        raise UserError(f"{subject}: expected --data with the real images, such as --data digits")
    if options.no_teacher and options.run is None:
        raise UserError("--no-teacher: goes with --run only")
    at_least(options, n=4, batch_size=1, seed=0)
    return options


def parse_fid(arguments: list[str]) -> argparse.Namespace:
    """The options of `fid`. Raises UserError as `parse` does."""
    parser = ArgumentParser(
        "python -m eval fid", "Fréchet distance and its companions of images under a named protocol."
    )
    parser.add_argument("--run", type=Path, help="run folder, checkpoint or export of a student")
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="PATH",
        help="a teacher's folder, or a pickle of EDM or EDM2, sampled with EDM's sampler",
    )
    parser.add_argument(
        "--pipeline",
        metavar="PATH",
        help="a diffusers pipeline, by folder or by its name on the hub, called as its users call it",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="PATH",
        help="a folder, .zip or .tar of images, or a folder of .tar files",
    )
    parser.add_argument("--array", type=Path, metavar="FILE", help="a .npy or .npz file of uint8 images")
    parser.add_argument(
        "--seed",
        type=int,
        help="seed of the first image, for one repetition (default: the protocol's repetitions)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="steps of the teacher's sampler (default: 18) or of the pipeline (default: its own)",
    )
    parser.add_argument(
        "--guidance",
        type=float,
        help="guidance of the teacher's sampler (default: 1, none) or of the pipeline (default: its own)",
    )
    parser.add_argument(
        "--sampler",
        metavar="SETTINGS",
        help="other settings of the teacher's sampler, as churn=40,churn_min=0.05,churn_max=50,churn_noise=1.003 (default: none of these)",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="what the pipeline computes in (default: float32)")
    parser.add_argument(
        "--bootstrap", type=int, default=20, help="replicates of the bootstrap, 0 for none (default: 20)"
    )
    parser.add_argument("--per-label", action="store_true", help="measure the distance of every label too")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file for the results (default: none)")
    add_measurement(parser)
    options = parser.parse_args(arguments)
    subject = one_subject(options)
    if options.reference is None and options.run is None:
        raise UserError(f"{subject}: expected --reference with the real images or their statistics")
    for name, subjects in GOES_WITH.items():
        if getattr(options, name) is not None and subject[2:] not in subjects:
            raise UserError(f"--{name}: goes with {listed(subjects)} only")
    if options.bootstrap == 1:
        raise UserError("--bootstrap 1: has no spread; expected 0 or at least 2")
    at_least(options, n=4, batch_size=1, seed=0, steps=1, bootstrap=0)
    return options


def parse_sweep(arguments: list[str]) -> argparse.Namespace:
    """The options of `sweep`. Raises UserError as `parse` does."""
    parser = ArgumentParser(
        "python -m eval sweep",
        "Measure every checkpoint of a run that is not yet, and the best one three times.",
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder; sweep.json is written there")
    add_measurement(parser)
    options = parser.parse_args(arguments)
    at_least(options, n=4, batch_size=1)
    return options


def parse_preference(arguments: list[str]) -> argparse.Namespace:
    """The options of `preference`. Raises UserError as `parse` does."""
    from eval.preference.subject_spec import SubjectSpec, parse_against, refuse_settings
    from eval.prompt_sets.formats import FORMATS

    parser = ArgumentParser(
        "python -m eval preference",
        "Scores of models of human preference, prompt by prompt, and how often one model wins.",
    )
    parser.add_argument(
        "--run", metavar="PATH", help="run folder, checkpoint or export of a one-step generator"
    )
    parser.add_argument("--teacher", metavar="PATH", help="a teacher's folder, sampled with EDM's sampler")
    parser.add_argument(
        "--pipeline",
        metavar="PATH",
        help="a diffusers pipeline, by folder or by its name on the hub, called as its users call it",
    )
    parser.add_argument(
        "--images",
        metavar="PATH",
        help="images that are there: a folder of sample.py, or any in the order of the prompts",
    )
    parser.add_argument(
        "--against",
        metavar="KIND:PATH",
        help="a second subject, such as pipeline:PATH; teacher alone is that of --run",
    )
    parser.add_argument(
        "--scores",
        required=True,
        help="such as pickscore,hpsv2.1,imagereward,clipscore,aesthetic or classifier:PATH",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="where a score's weights are, or NAME.SETTING=VALUE; repeatable",
    )
    parser.add_argument(
        "--prompts",
        help="a file, a dataset of the hub (OWNER/NAME[:FILE]), or labels:N (default: 80 prompts of our own)",
    )
    parser.add_argument(
        "--format", choices=list(FORMATS), help="what --prompts is (default: what it looks like)"
    )
    parser.add_argument(
        "--captions",
        choices=["one", "all"],
        default="one",
        help="of each image of COCO (default: one, of the lowest id)",
    )
    parser.add_argument(
        "--n", type=int, help="number of prompts, which then are not the whole list (default: all)"
    )
    parser.add_argument(
        "--draw",
        type=int,
        metavar="SEED",
        help="draw the --n prompts with this seed (default: the first of the list)",
    )
    parser.add_argument("--per-prompt", type=int, help="images of each prompt (default: 1; all of a folder)")
    parser.add_argument("--seed", type=int, help="seed of the first image; image i has seed + i (default: 0)")
    for side in ("", "against-"):
        whose = "of --against" if side else "of the first subject"
        parser.add_argument(
            f"--{side}steps",
            type=int,
            help=f"steps {whose}, a teacher (default: 18) or a pipeline (default: its own)",
        )
        parser.add_argument(
            f"--{side}guidance",
            type=float,
            help=f"guidance {whose}, a teacher (default: 1, none) or a pipeline (default: its own)",
        )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="precision in which images are made (default: float32)"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="images made at once (default: 16)")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="where networks run (default: auto)"
    )
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("runs/preference"),
        metavar="DIR",
        help="where images and scores are kept (default: runs/preference)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="JSON file for the results, contact sheets beside it (default: the run's preference.json)",
    )
    options = parser.parse_args(arguments)
    kind = one_subject(options)[2:]
    options.asked = SubjectSpec(
        kind, getattr(options, kind), f"--{kind}", False, options.steps, options.guidance
    )
    refuse_settings(options.asked)
    if options.against is not None:
        options.against = parse_against(
            options.against, options.run, options.against_steps, options.against_guidance
        )
    elif options.against_steps is not None or options.against_guidance is not None:
        raise UserError("--against-steps and --against-guidance: go with --against only")
    if options.draw is not None and options.n is None:
        raise UserError("--draw: goes with --n, how many prompts to draw")
    at_least(options, n=1, per_prompt=1, seed=0, draw=0, batch_size=1, steps=1, against_steps=1)
    if all(asked is None or asked.kind == "images" for asked in (options.asked, options.against)):
        for name in ("seed", "dtype"):
            if getattr(options, name) is not None:
                raise UserError(f"--{name}: goes with images that are made; leave it out with --images")
    options.seed, options.dtype = options.seed or 0, options.dtype or "float32"
    return options


def add_measurement(parser: ArgumentParser) -> None:
    """What every measurement under a protocol needs."""
    parser.add_argument(
        "--reference",
        help="published statistics (.npz, .pkl), images as above, or a data source (default: the run's data)",
    )
    parser.add_argument(
        "--protocol",
        help="python -m eval protocols explains them (default: fd-pixel where pixels are few, else fd-effnet)",
    )
    parser.add_argument(
        "--weights",
        metavar="PATH",
        help="file or folder of the feature network (default: installed or downloaded)",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="text file of prompts, one a line, in turn; for models that take text",
    )
    parser.add_argument(
        "--n",
        type=int,
        help="number of generated images, of a folder or file evenly chosen (default: the protocol's)",
    )
    parser.add_argument("--batch-size", type=int, default=256, help="images sampled at once (default: 256)")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="where networks run (default: auto)"
    )
    parser.add_argument(
        "--features",
        type=Path,
        default=Path("runs/features"),
        metavar="DIR",
        help="store of features (default: runs/features)",
    )


def one_subject(options: argparse.Namespace) -> str:
    """The flag that says what is measured. Raises UserError where there is none or more than one."""
    known = [name for name in SUBJECTS if hasattr(options, name)]
    given = [f"--{name}" for name in known if getattr(options, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise UserError(f"{found}: expected one of {listed(known)}")
    return given[0]


def listed(names: Sequence[str]) -> str:
    """`--a, --b and --c`."""
    *others, last = [f"--{name}" for name in names]
    return f"{', '.join(others)} and {last}" if others else last


COMMANDS = {"fid": fid, "protocols": protocols, "compare": compare, "sweep": sweep, "preference": preference}


if __name__ == "__main__":
    run_command(main, on_shortage="lower --batch-size")
