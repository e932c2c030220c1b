"""Settings, and rooms whose files are choices: `{name: digits, ...}` in a config means the class `Settings` of `distill/data/digits.py`.

Files of such a room import heavy things inside functions, so that listing or checking settings stays fast.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, model_validator

from distill.errors import did_you_mean


class Settings(BaseModel):
    """Frozen, typed settings that refuse unknown keys; the docstring under a field is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, value: Any) -> Any:
        for key in value if isinstance(value, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"unknown key '{key}'{did_you_mean(str(key), cls.model_fields)}")
        return value


def choices(room: str) -> list[str]:
    """The names that may stand in a config for this room: its files. Folders in it are none."""
    package = importlib.import_module(f"distill.{room}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)


def settings_of(room: str, name: str) -> type[Settings]:
    """The settings class of one file of a room."""
    return importlib.import_module(f"distill.{room}.{name}").Settings


class Room:
    """Metadata on a field: its value is chosen from the files of `distill/<name>`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def resolve(self, value: Any) -> Settings:
        if isinstance(value, Settings):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ValueError(f"expected a mapping with a name, one of: {', '.join(choices(self.name))}")
        if value["name"] not in choices(self.name):
            raise ValueError(f"'{value['name']}' is not in distill/{self.name}{did_you_mean(value['name'], choices(self.name))}")
        return settings_of(self.name, value["name"]).model_validate(value)


def one_of(room: str) -> Any:
    """The type of a config field whose value is one of the files of a room."""
    chosen_from = Room(room)
    return Annotated[SerializeAsAny[Settings], BeforeValidator(chosen_from.resolve), chosen_from]
