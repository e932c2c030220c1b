"""A data source as one word of a command line."""

from __future__ import annotations

from typing import cast

from pydantic import ValidationError

from distill.config.config_file import describe
from distill.config.errors import UserError, did_you_mean
from distill.config.settings import Choice
from distill.config.yaml_files import parse_yaml
from distill.data import DataSettings


def parse_data(text: str, flag: str = "--data") -> DataSettings:
    """Read a data source from a mapping in YAML, `NAME`, `NAME:PATH` or `NAME:PATH:HELD_OUT_PATH`.

    `flag` begins messages.
    """
    if text.lstrip().startswith("{"):
        return _parse_mapping(text, flag)
    name, *paths = text.split(":")
    sources = Choice("data.sources")
    if name not in sources.names:
        nearest = did_you_mean(name, sources.names)
        raise UserError(f"{flag} {text}: '{name}' is not in distill/data/sources{nearest}")
    settings = sources.settings(name)
    fields = settings.model_fields
    if "path" not in fields and paths:
        raise UserError(f"{flag} {text}: {name} takes no path; expected {flag} {name}")
    needs_path = "path" in fields and fields["path"].is_required()
    if (needs_path and not paths) or len(paths) > 2 or not all(paths):
        raise UserError(f"{flag} {text}: expected {name}:PATH or {name}:PATH:HELD_OUT_PATH")
    given = dict(zip(("path", "held_out_path"), paths, strict=False))
    try:
        return cast("DataSettings", settings.model_validate(given))
    except ValidationError as error:
        raise UserError(f"{flag} {text}: {describe(error, given)}") from error


def _parse_mapping(text: str, flag: str) -> DataSettings:
    try:
        content = parse_yaml(text)
    except UserError as error:
        raise UserError(f"{flag} {text:.80}: {error}") from error
    try:
        return cast("DataSettings", Choice("data.sources").resolve(content))
    except ValidationError as error:
        raise UserError(f"{flag}: {describe(error, content)}") from error
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from error
