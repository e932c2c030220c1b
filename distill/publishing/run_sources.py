"""The teacher of a run, and the names of its classes, by the configuration in the run's folder.

Only the entries that are needed are checked, so that runs of other versions can be opened too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from distill.config.config_file import describe
from distill.config.errors import UserError
from distill.config.settings import choice_of
from distill.data import DataSettings
from distill.publishing.run_record import read_yaml
from distill.teachers import TeacherSettings
from distill.teachers.native import Settings as Trained
from distill.types import Denoiser

CONFIG = "config.yaml"


class _Teacher(BaseModel):
    """The entry of a configuration that names the teacher."""

    teacher: choice_of("teachers")  # type: ignore[valid-type]


class _Data(BaseModel):
    """The entry of a configuration that names the real images."""

    data: choice_of("data.sources") | None = None  # type: ignore[valid-type]


def load_run_teacher(run_dir: Path, resolution: int | None = None) -> Denoiser:
    """Open the teacher that a run distils or trains, at a resolution in pixels if one is given."""
    return _teacher_settings(run_dir).at_resolution(resolution).load()


def teacher_guidance(run_dir: Path) -> float:
    """Return the guidance scale of the teacher in a run's loss, 1 if it has none."""
    guidance = _read_config(run_dir).get("guidance")
    scale = guidance.get("teacher") if isinstance(guidance, Mapping) else None
    return float(scale) if isinstance(scale, (int, float)) else 1.0


def class_names(run_dir: Path) -> tuple[str, ...]:
    """Return the names of the classes of a run's data by their labels, empty if it names none."""
    config = _read_config(run_dir)
    try:
        data: DataSettings | None = _Data.model_validate(config).data
    except ValidationError as error:
        raise UserError(f"{run_dir / CONFIG}: {describe(error, config)}") from error
    return () if data is None else data.class_names()


def _teacher_settings(run_dir: Path) -> Any:
    config = _read_config(run_dir)
    task = config.get("task")
    if task == "train_autoencoder":
        raise UserError(f"--teacher: {run_dir} trained an autoencoder; expected a run that has a teacher")
    if task == "train_teacher":
        return Trained(path=run_dir)
    try:
        settings: TeacherSettings = _Teacher.model_validate(config).teacher
    except ValidationError as error:
        raise UserError(f"{run_dir / CONFIG}: {describe(error, config)}") from error
    return settings


def _read_config(run_dir: Path) -> dict[str, Any]:
    if not (run_dir / CONFIG).is_file():
        raise UserError(f"{run_dir}: is not a run; expected a folder with {CONFIG}")
    return read_yaml(run_dir / CONFIG)
