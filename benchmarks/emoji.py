"""Train the networks of the emoji in pieces: `python benchmarks/emoji.py --stage teacher --minutes 8`.

Each stage is one preset of configs/emoji, or one of the models that judge. A stage that is stopped after its
time is saved, and the same command continues it bit for bit. A finished stage whose weights are committed
puts them into assets/, those of networks of diffusers in float16. Without `--stage` it says what is finished.

With `--seed` a student is trained from another seed, in a run of its own.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.project import ROOT, RUNS, argument_parser, run_python

FOLDER = RUNS / "emoji"
EXPORT = "export"
"""Folder of a finished run's network."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """What is trained, what it needs, and where its weights are kept."""

    needs: tuple[str, ...] = ()
    asset: str | None = None
    """Folder in assets/ for the weights; None if they are not committed."""
    is_half: bool = False
    """Keep the weights of networks of diffusers in float16."""
    keeps_run: bool = False
    """Keep the run with its statistics, for a report, and not its network alone."""
    command: str | None = None
    """Command of `python -m distill` that trains it in some ten minutes at once; None for a run of
    `train.py`."""


STAGES = {
    "teacher": Stage(asset="emoji-teacher"),
    "uni_instruct": Stage(("teacher",)),
    "f_distill": Stage(("teacher",)),
    "dmd2": Stage(("teacher",)),
    "sida": Stage(("teacher",)),
    "clip": Stage(asset="emoji-clip", command="train-clip"),
    "judge": Stage(asset="emoji-judge", command="train-word-match"),
    "autoencoder": Stage(asset="emoji-autoencoder", is_half=True),
    "text_teacher": Stage(("clip", "autoencoder"), "emoji-text-teacher", is_half=True),
    "text_dmd2": Stage(("text_teacher",), "emoji-text-student", is_half=True, keeps_run=True),
    "text_dmd2_4_steps": Stage(("text_teacher",)),
    "text_dmd2_lora": Stage(("text_teacher",)),
    "text_di_star": Stage(("clip", "text_dmd2")),
    "text_di_plus_plus": Stage(("clip", "text_dmd2")),
}
CAPTIONED = "{name: emoji, condition: captions}"
HALVED = ("unet", "vae", "")
"""Folders of an export whose weights are halved. Text encoders stay: transformers opens float16 as such."""


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--stage", choices=STAGES, help="what to train (default: nothing)")
    parser.add_argument("--minutes", type=float, help="time after which to save and stop (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")
    options = parser.parse_args(arguments)
    if options.stage is None:
        for name in STAGES:
            print(f"{name}: {'there' if is_available(name, options.seed) else 'not there'}")
        return
    stage = STAGES[options.stage]
    missing = [name for name in stage.needs if not is_available(name, seed=0)]
    if missing:
        raise SystemExit(f"--stage {options.stage}: needs {missing[0]}; train that stage first")
    if stage.command is not None and stage.asset is not None:
        run_python("-m", "distill", stage.command, CAPTIONED, "--out", f"assets/{stage.asset}")
        return
    run = run_folder(options.stage, options.seed)
    if not is_finished(run):
        train(options.stage, run, options.seed, options.minutes)
    if is_finished(run) and stage.asset is not None and options.seed == 0:
        keep(run if stage.keeps_run else run / EXPORT, ROOT / "assets" / stage.asset, stage.is_half)


def run_folder(stage: str, seed: int) -> Path:
    """Return the folder of a stage's run."""
    return FOLDER / (stage if seed == 0 else f"{stage}-{seed}")


def is_finished(run: Path) -> bool:
    """Tell whether a run has reached its last step."""
    return (run / EXPORT).is_dir()


def is_available(stage: str, seed: int) -> bool:
    """Tell whether the weights of a stage are there, as a finished run or committed."""
    asset = STAGES[stage].asset if seed == 0 else None
    return is_finished(run_folder(stage, seed)) or (asset is not None and (ROOT / "assets" / asset).is_dir())


def finished_run(stage: str, seed: int) -> Path | None:
    """Return the folder of a stage's finished run, or of the committed copy; None if there is neither."""
    folders = [run_folder(stage, seed)]
    asset = STAGES[stage].asset
    if asset is not None and seed == 0:
        folders.append(ROOT / "assets" / asset)
    return next(filter(is_finished, folders), None)


def train(stage: str, run: Path, seed: int, minutes: float | None) -> None:
    """Train a stage, from its newest checkpoint if it has one, for so many minutes at most."""
    command = [sys.executable, "train.py", f"configs/emoji/{stage}.yaml", "--run_dir", str(run)]
    process = subprocess.Popen([*command, "--seed", str(seed)], cwd=ROOT)
    try:
        code = process.wait(None if minutes is None else 60 * minutes)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        code = process.wait()
    if code not in (0, 128 + signal.SIGTERM):
        raise SystemExit(code)


def keep(source: Path, asset: Path, is_half: bool) -> None:
    """Replace a folder in assets/ by a finished run's network, or by the run without its checkpoints."""
    temporary = asset.with_name(f".{asset.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, ignore=shutil.ignore_patterns("checkpoints", "samples", "eval*"))
    if is_half:
        network = temporary / EXPORT if is_finished(temporary) else temporary
        for folder in HALVED:
            for path in sorted((network / folder).glob("*.safetensors")):
                halve(path)
    shutil.rmtree(asset, ignore_errors=True)
    os.replace(temporary, asset)
    size = sum(path.stat().st_size for path in asset.rglob("*") if path.is_file())
    print(f"{asset}: {size / 1e6:.1f} MB")


def halve(path: Path) -> None:
    """Store the floating-point tensors of a file in float16."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    half = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    save_file(half, path, metadata)


if __name__ == "__main__":
    main(sys.argv[1:])
