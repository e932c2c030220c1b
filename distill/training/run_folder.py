"""The folder of a run: which one a configuration may continue, and the record of what it was run with."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from pathlib import Path
from typing import TypedDict

from distill.config.config_file import differences
from distill.config.errors import UserError
from distill.networks.folder import checkpoints, newest_checkpoint
from distill.publishing.run_record import read_yaml
from distill.storage.files import read_mapping, write_json, write_text
from distill.storage.provenance import commit, machine, version
from distill.training.config import CONFIG, read_run, to_yaml
from distill.training.settings import RunConfig
from distill.types import Denoiser

MAY_CHANGE = {
    "activation_checkpointing",
    "channels_last",
    "checkpoint_every",
    "compile",
    "data_workers",
    "deterministic",
    "device",
    "discriminator.optimizer.offload",
    "fake.optimizer.offload",
    "generator.optimizer.offload",
    "keep_checkpoints",
    "log_every",
    "micro_batch_size",
    "monitor_every",
    "monitor_images",
    "monitor_protocol",
    "optimizer.offload",
    "resume",
    "run_dir",
    "sample_every",
    "stop_when",
    "teacher.attention",
    "tf32",
    "trackers",
}
"""Settings that may differ when a run continues: they change what is learned by rounding at most."""
META = "meta.json"
PACKAGES = ("torch", "accelerate", "diffusers", "numpy", "safetensors", "pydantic", "transformers")


def open_run_folder(config: RunConfig) -> Path | None:
    """Make or check the folder, and return the checkpoint to continue from, or None for a new run.

    A folder that cannot be written, or holds something other than this run, is refused and left unchanged.
    """
    folder = config.run_dir
    if (folder / CONFIG).is_file():
        _refuse_another_run(folder / CONFIG, config)
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"run_dir: {folder} is not empty and holds no run; expected a new folder or a run to continue"
        )
    checkpoint = _checkpoint_to_continue(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir: {folder} cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"run_dir: {folder} cannot be written to")
    return checkpoint


class ComputedBy(TypedDict):
    """The devices of a run, and what they did: entries of meta.json."""

    device: str
    processes: int
    precision: str
    tf32: bool
    compile: str
    deterministic: bool
    micro_batch_size: int
    """Images that a process computed at once."""


def recorded_micro_batch(run_dir: Path, device: str, processes: int) -> int | None:
    """Return the micro-batch of a run so far, None if there is none or other devices computed it.

    Sums over other micro-batches differ by rounding, so that a run keeps the one that it began with.
    """
    file = run_dir / META
    recorded = read_mapping(file) if file.is_file() else {}
    size = recorded.get("micro_batch_size")
    if (recorded.get("device"), recorded.get("processes")) != (device, processes):
        return None
    return size if type(size) is int and size > 0 else None


def load_run_teacher(run_dir: Path, resolution: int | None = None) -> Denoiser:
    """Open the teacher that a run distils, at a resolution in pixels if one is given."""
    settings = getattr(read_run(run_dir), "teacher", None)
    if settings is None:
        raise UserError(f"--teacher: {run_dir} trained a teacher; expected a run that distils one")
    if resolution is not None:
        if "resolution" not in type(settings).model_fields:
            raise UserError(
                f"--resolution {resolution}: teachers of '{settings.name}' make images of one size; "
                "leave it out"
            )
        settings = settings.model_copy(update={"resolution": resolution})
    return settings.load()


def record_run(config: RunConfig, computed_by: ComputedBy | None = None) -> None:
    """Write the resolved configuration, and versions, commit, machine and device."""
    write_text(config.run_dir / CONFIG, to_yaml(config))
    write_json(
        config.run_dir / META,
        {
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "commit": commit(),
            "machine": machine(),
            **(computed_by or {}),
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
        },
    )


def _refuse_another_run(recorded: Path, config: RunConfig) -> None:
    there = read_yaml(recorded)
    for key, theirs, ours in differences(there, config.model_dump(mode="json")):
        if MAY_CHANGE.isdisjoint((key, key.split(".")[0])):
            raise UserError(
                f"run_dir: {config.run_dir} holds another run: {key} is {theirs!r} there and {ours!r} here; "
                "give another run_dir"
            )


def _checkpoint_to_continue(config: RunConfig) -> Path | None:
    if config.resume == "auto":
        return newest_checkpoint(config.run_dir)
    if config.resume == "never":
        if checkpoints(config.run_dir):
            raise UserError(f"resume: 'never', but {config.run_dir} has checkpoints; give another run_dir")
        return None
    path = Path(config.resume)
    if not path.is_dir():
        raise UserError(
            f"resume: {path} is no checkpoint; expected auto, never, or a folder such as "
            "checkpoints/step-00001000"
        )
    return path
