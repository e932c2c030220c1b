"""Settings, and packages whose files are the choices of a setting.

A field typed `choice_of("data.sources")` reads `{name: digits, ...}` into the class `Settings` of
`distill/data/sources/digits.py`. Files of such a package import heavy libraries inside functions, so that
listing and checking settings stays fast.
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
    def _accept_common_forms(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for key in value:
            if key not in cls.model_fields:
                raise ValueError(f"unknown key '{key}'{did_you_mean(str(key), cls.model_fields)}")
        return {key: convert(cls.model_fields[key].annotation, entry) for key, entry in value.items()}


def convert(kind: Any, value: Any) -> Any:
    """Convert a value from the ways in which people write it to the one that the type of its field accepts.

    `~` in a path becomes the home folder and a number becomes text where a name or a path is expected. Where
    a list is expected, a single entry becomes a list of one, and a text with commas is split at them. Any
    other value is returned as it is, for pydantic to check.
    """
    arguments = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [argument for argument in arguments if argument is not type(None)]
        return convert(kinds[0], value) if len(kinds) == 1 else value
    if get_origin(kind) is Annotated:
        return convert(arguments[0], value)
    if kind in (str, Path):
        return _to_text(value)
    if get_origin(kind) is tuple:
        entries = _to_entries(value)
        if isinstance(entries, (list, tuple)):
            return [convert(arguments[0], entry) for entry in entries]
        return entries
    return value


def _to_text(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.startswith("~/"):
        return os.path.expanduser(value)
    return value


def _to_entries(value: Any) -> Any:
    if isinstance(value, str):
        return [_parse_entry(entry) for entry in value.split(",")] if value.strip() else []
    if isinstance(value, (int, float, dict, BaseModel)):
        return [value]
    return value


def _parse_entry(text: str) -> Any:
    """Read one entry of a list written with commas as YAML, or as plain text if it is not YAML."""
    try:
        return parse_yaml(text.strip())
    except UserError:
        return text.strip()


class Choice:
    """Metadata of a field whose value is chosen from the files of a package.

    Each file defines a settings class named after the `role`.
    """

    def __init__(self, package: str, role: str = "Settings") -> None:
        self.package = package
        self.role = role

    @property
    def names(self) -> list[str]:
        """The names that a configuration may use: the package's files that define the role.

        Sub-packages and files that begin with an underscore are no choices.
        """
        package = importlib.import_module(f"distill.{self.package}")
        files = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
        public = [name for name in files if not name.startswith("_")]
        return sorted(name for name in public if hasattr(self._module(name), self.role))

    def settings(self, name: str) -> type[Settings]:
        """Return the settings class of one choice."""
        return getattr(self._module(name), self.role)

    def resolve(self, value: Any) -> Settings:
        """Read the settings of one choice from a mapping with its `name`."""
        if isinstance(value, Settings):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"expected a mapping with a name, one of: {', '.join(self.names)}")
        name = value["name"]
        if name not in self.names:
            folder = f"distill/{self.package.replace('.', '/')}"
            raise ValueError(f"'{name}' is not in {folder}{did_you_mean(name, self.names)}")
        return self.settings(name).model_validate(value)

    def _module(self, name: str) -> types.ModuleType:
        return importlib.import_module(f"distill.{self.package}.{name}")


def choice_of(package: str, role: str = "Settings") -> Any:
    """Return the type of a field whose value is one of the files of a package."""
    chosen = Choice(package, role)
    return Annotated[SerializeAsAny[Settings], BeforeValidator(chosen.resolve), chosen]
