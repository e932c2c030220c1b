"""The configuration of a run: one complete YAML file, checked against the typed settings of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from distill.config.config_file import apply_override, describe, parse_overrides
from distill.config.errors import UserError
from distill.config.text_files import read_text
from distill.config.yaml_files import dump_yaml, parse_yaml
from distill.training.settings import RUN, RunConfig

CONFIG = "config.yaml"


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a run's file.

    Messages name the file, the key, what was expected and the nearest right name.
    """
    text = read_text(path, str(path))
    try:
        content = parse_yaml(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of settings")
    for key, value in parse_overrides(overrides):
        apply_override(content, key, value)
    try:
        return RUN.validate_python(content)
    except ValidationError as error:
        raise UserError(f"{path}: {describe(error, content)}") from error


def read_run(run_dir: Path) -> RunConfig:
    """Return the resolved configuration of a run's folder."""
    if not (run_dir / CONFIG).is_file():
        raise UserError(f"{run_dir}: is not a run; expected a folder with {CONFIG}")
    return read_config(run_dir / CONFIG)


def to_yaml(config: RunConfig) -> str:
    """Return the resolved configuration as YAML."""
    return dump_yaml(config.model_dump(mode="json"))
