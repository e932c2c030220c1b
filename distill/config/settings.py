"""Settings, and packages whose files are choices: `{name: digits, ...}` means the class `Settings` of `distill/data/sources/digits.py`.

Files of such a package import heavy things inside functions, so that listing or checking settings stays fast.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, model_validator

from distill.config.errors import UserError, did_you_mean
from distill.config.yaml_files import parse_yaml


class Settings(BaseModel):
    """Frozen, typed settings that refuse unknown keys; the docstring under a field is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_as_written(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for key in value:
            if key not in cls.model_fields:
                raise ValueError(f"unknown key '{key}'{did_you_mean(str(key), cls.model_fields)}")
        return {key: as_written(cls.model_fields[key].annotation, entry) for key, entry in value.items()}


def as_written(kind: Any, value: Any) -> Any:
    """A value as its field's type takes it, where people write it otherwise.

    `~` in a path is the home folder; a number may be a name or a path; one entry stands for a list of one, and a text with commas for a list.
    """
    arguments = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [argument for argument in arguments if argument is not type(None)]
        return as_written(kinds[0], value) if len(kinds) == 1 else value
    if get_origin(kind) is Annotated:
        return as_written(arguments[0], value)
    if kind in (str, Path):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value
    if get_origin(kind) is tuple:
        entries = value
        if isinstance(value, str):
            entries = [parse_entry(entry) for entry in value.split(",")] if value.strip() else []
        elif isinstance(value, (int, float, dict, BaseModel)):
            entries = [value]
        return (
            [as_written(arguments[0], entry) for entry in entries]
            if isinstance(entries, (list, tuple))
            else entries
        )
    return value


def parse_entry(text: str) -> Any:
    """An entry of a list that was written with commas: a number, or a text."""
    try:
        return parse_yaml(text.strip())
    except UserError:
        return text.strip()


class Choice:
    """Metadata on a field: its value is chosen from the files of a package, each of which defines a settings class named after the `role`."""

    def __init__(self, package: str, role: str = "Settings") -> None:
        self.package = package
        self.role = role

    @property
    def names(self) -> list[str]:
        """Names that may stand in a configuration: the package's files that define the role. Its sub-packages and private files are no choices."""
        package = importlib.import_module(f"distill.{self.package}")
        files = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
        return sorted(
            name for name in files if not name.startswith("_") and hasattr(self._module(name), self.role)
        )

    def settings(self, name: str) -> type[Settings]:
        """Return the settings class of one choice."""
        return getattr(self._module(name), self.role)

    def resolve(self, value: Any) -> Settings:
        """Read the settings of one choice from a mapping with its `name`. Raises ValueError for an unknown name."""
        if isinstance(value, Settings):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"expected a mapping with a name, one of: {', '.join(self.names)}")
        if value["name"] not in self.names:
            raise ValueError(
                f"'{value['name']}' is not in distill/{self.package.replace('.', '/')}{did_you_mean(value['name'], self.names)}"
            )
        return self.settings(value["name"]).model_validate(value)

    def _module(self, name: str) -> types.ModuleType:
        return importlib.import_module(f"distill.{self.package}.{name}")


def choice_of(package: str, role: str = "Settings") -> Any:
    """Return the type of a field whose value is one of the files of a package."""
    chosen = Choice(package, role)
    return Annotated[SerializeAsAny[Settings], BeforeValidator(chosen.resolve), chosen]
