"""The folder of a run: which one a configuration may continue, and the record of what it was run with."""

from __future__ import annotations

import datetime
import platform
import shlex
from pathlib import Path
from typing import TypedDict

from distill.config.command_line import words_after_python
from distill.config.config_file import differences
from distill.config.errors import UserError
from distill.networks.folder import EXPORT, checkpoints, newest_checkpoint, step_of
from distill.storage.files import read_mapping, temporary_path, write_json, write_text
from distill.storage.provenance import commit, machine, version
from distill.training.checkpoints.continuation import check_growth, check_resume, checkpoint_to_continue
from distill.training.checkpoints.damage import newest_whole, set_aside
from distill.training.checkpoints.space import check_space, check_writable
from distill.training.config import CONFIG, read_config, to_yaml
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.folders import writing
from distill.training.parallel.processes import Processes
from distill.training.settings import DistillRun, RunConfig

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
    "monitor_reference",
    "monitor_weights",
    "optimizer.offload",
    "preview",
    "process_timeout",
    "resume",
    "run_dir",
    "sample_every",
    "sharding",
    "stop_when",
    "teacher.attention",
    "tf32",
    "tracker_name",
    "tracker_project",
    "trackers",
}
"""Settings that may differ when a run continues: they change what is learned by rounding at most."""
META = "meta.json"
FINISHED = "finished_steps"
"""Entry of that file with the length of a run that is trained and exported."""
PACKAGES = ("torch", "accelerate", "diffusers", "numpy", "safetensors", "pydantic", "transformers")


def check_run_folder(config: RunConfig, processes: Processes) -> bool:
    """Refuse a folder that the run cannot have, and tell whether the run in it is finished.

    It writes nothing and opens no network, so that it comes before everything that takes time. The newest
    checkpoint of a finished run is compared with its hashes: without it the run is not finished.
    """
    is_finished = False
    with raised_by_all(processes):
        _check_content(config)
        check_resume(config)
        check_writable(config.run_dir)
        check_space(config.run_dir)
        is_finished = _is_finished(config)
    if not processes.main_object(is_finished):
        return False
    return newest_whole(config.run_dir, processes)[1] == []


def _is_finished(config: RunConfig) -> bool:
    """Tell whether a run is trained to its last step and exported, and nothing else is asked for."""
    file = config.run_dir / META
    newest = newest_checkpoint(config.run_dir)
    if config.resume != "auto" or newest is None or not file.is_file():
        return False
    is_whole = read_mapping(file).get(FINISHED) == config.steps == step_of(newest)
    return is_whole and (config.run_dir / EXPORT).is_dir()


def record_finish(config: RunConfig) -> None:
    """Note in meta.json that a run is trained and exported. Starting it again replaces that file."""
    file = config.run_dir / META
    write_json(file, {**read_mapping(file), FINISHED: config.steps})


def open_run_folder(config: RunConfig, processes: Processes) -> Path | None:
    """Make or check the folder, and return the checkpoint to continue from, or None for a new run.

    A folder that cannot be written, or holds something other than this run, is refused and left unchanged.
    Checkpoints that the run does without are named and renamed: damaged ones, and those after the one that
    `resume` names, which would be taken for newer ones of this run.
    """
    with raised_by_all(processes):
        _check_content(config)
    checkpoint, damaged = checkpoint_to_continue(config, processes)
    with raised_by_all(processes):
        _make(config.run_dir)
    if processes.nodes > 1:
        check_shared(config.run_dir, processes)
    with raised_by_all(processes), writing(config.run_dir):
        if processes.is_main and checkpoint is not None:
            for damage in damaged:
                aside = set_aside(damage.folder, "damaged")
                print(
                    f"{damage.folder}: {damage.file} {damage.state}; the run continues from "
                    f"{checkpoint.name}, and the damaged checkpoint is now {aside.name}",
                    flush=True,
                )
            for later in checkpoints(config.run_dir):
                if step_of(later) > step_of(checkpoint):
                    aside = set_aside(later, "left")
                    print(
                        f"{later}: the run continues from {checkpoint.name}, and this is now {aside.name}",
                        flush=True,
                    )
    return checkpoint


def _check_content(config: RunConfig) -> None:
    """Refuse a folder that holds something other than this run."""
    folder = config.run_dir
    if (folder / CONFIG).is_file():
        _refuse_another_run(folder / CONFIG, config)
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"run_dir: {folder} is not empty and holds no run; expected a new folder or a run to continue"
        )


def _make(folder: Path) -> None:
    """Make the folder unless it is there, and refuse one that cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run_dir: {folder} cannot be made ({error.strerror})") from error
    check_writable(folder)


def check_shared(folder: Path, processes: Processes) -> None:
    """Refuse a folder of a run that is not the same on all machines: each must read and write checkpoints."""
    mark = temporary_path(folder / "shared", "partial")
    with raised_by_all(processes), writing(folder):
        if processes.is_main:
            mark.touch()
    name = processes.main_object(mark.name)
    try:
        with raised_by_all(processes):
            if not (folder / name).is_file():
                raise UserError(
                    f"run_dir: {folder} of process {processes.index} is not the main process's; expected a "
                    "folder that all machines share"
                )
    finally:
        if processes.is_main:
            mark.unlink()


class ComputedBy(TypedDict):
    """The devices of a run, and what they did: entries of meta.json."""

    device: str
    processes: int
    nodes: int
    sharding: str
    """The strategy."""
    shards: int
    """Processes that hold one copy of the networks together."""
    precision: str
    tf32: bool
    compile: str
    deterministic: bool
    micro_batch_size: int
    """Images that a process computed at once."""


def other_processes(run_dir: Path, computed_by: ComputedBy) -> str | None:
    """Say in a line that a run continues on other processes than so far, or return None if it does not."""
    file = run_dir / META
    recorded = read_mapping(file) if file.is_file() else {}
    before = (recorded.get("processes"), recorded.get("sharding", "none"))
    now = (computed_by["processes"], computed_by["sharding"])
    if before[0] is None or before == now:
        return None
    told_before, told_now = (f"{count} with sharding {strategy}" for count, strategy in (before, now))
    return (
        f"processes: {told_now}, before {told_before}; the run continues, equal up to the order of sums "
        "and to dropout's masks"
    )


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


def trained_features(config: RunConfig) -> dict[str, list[str]]:
    """Return an entry of meta.json with the features that a run is trained on, if there are any."""
    terms = config.terms if isinstance(config, DistillRun) else ()
    names = sorted({name for term in terms for name in term.trained_features})
    return {"trained_features": names} if names else {}


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
            **trained_features(config),
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": shlex.join(words_after_python()),
        },
    )


def _refuse_another_run(recorded: Path, config: RunConfig) -> None:
    there = read_config(recorded).model_dump(mode="json")  # with the defaults of settings that are new since
    for key, theirs, ours in differences(there, config.model_dump(mode="json")):
        if key == "steps":
            check_growth(config, theirs)
        elif MAY_CHANGE.isdisjoint((key, key.split(".")[0])):
            raise UserError(
                f"run_dir: {config.run_dir} holds another run: {key} is {theirs!r} there and {ours!r} here; "
                "give another run_dir"
            )
