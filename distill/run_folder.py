"""A run's folder: refuses what does not belong to the run, and records what it was run with."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from distill.checkpoint import checkpoints, newest_checkpoint
from distill.config import CONFIG, differences, to_yaml
from distill.errors import UserError
from distill.files import write_json, write_text
from distill.run_record import read_yaml
from distill.run_settings import RunConfig

MAY_CHANGE = {
    "run_dir", "resume", "micro_batch_size", "data_workers", "device", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints",
    "monitor_every", "monitor_images", "monitor_protocol", "trackers", "stop_when", "teacher.attention", "activation_checkpointing",
}  # fmt: skip
"""Settings that a continued run may have otherwise: they do not change what is learned, but for rounding."""
PACKAGES = ("torch", "accelerate", "diffusers", "numpy", "safetensors", "pydantic", "transformers")


def open_run_folder(config: RunConfig) -> Path | None:
    """Make or check the folder; returns the checkpoint to continue from, or None for a new run.

    Raises UserError, and changes nothing, where the folder cannot be written, holds another run, or holds something that is no run.
    """
    folder = config.run_dir
    if (folder / CONFIG).is_file():
        _refuse_another_run(folder / CONFIG, config)
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"run_dir: {folder} is not empty and holds no run; expected a new folder or a run to continue")
    checkpoint = _checkpoint_to_continue(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir: {folder} cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"run_dir: {folder} cannot be written to")
    return checkpoint


def record_run(config: RunConfig) -> None:
    """Write the resolved configuration, the versions, the commit and the machine."""
    write_text(config.run_dir / CONFIG, to_yaml(config))
    write_json(
        config.run_dir / "meta.json",
        {
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "commit": commit(),
            "machine": machine(),
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
        },
    )


def version(package: str) -> str:
    """The version of a package as it was installed; `not installed` where nothing was, as in a checkout that is run as it lies."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def machine() -> str:
    """What this machine is, in words: device if there is one, system, architecture, cores."""
    import torch

    device = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{device}{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def commit() -> str | None:
    """The commit of the source tree, with `+` where files differ from it; None outside a checkout."""
    source = Path(__file__).parent
    run = lambda *words: subprocess.run(["git", "-C", str(source), *words], capture_output=True, text=True, check=True).stdout.strip()  # noqa: E731
    try:
        return run("rev-parse", "--short", "HEAD") + ("+" if run("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _refuse_another_run(recorded: Path, config: RunConfig) -> None:
    there = read_yaml(recorded)
    for key, theirs, ours in differences(there, config.model_dump(mode="json")):
        if MAY_CHANGE.isdisjoint((key, key.split(".")[0])):
            raise UserError(f"run_dir: {config.run_dir} holds another run: {key} is {theirs!r} there and {ours!r} here; give another run_dir")


def _checkpoint_to_continue(config: RunConfig) -> Path | None:
    if config.resume == "auto":
        return newest_checkpoint(config.run_dir)
    if config.resume == "never":
        if checkpoints(config.run_dir):
            raise UserError(f"resume: 'never', but {config.run_dir} has checkpoints; give another run_dir")
        return None
    path = Path(config.resume)
    if not path.is_dir():
        raise UserError(f"resume: {path} is no checkpoint; expected auto, never, or a folder such as checkpoints/step-00001000")
    return path
