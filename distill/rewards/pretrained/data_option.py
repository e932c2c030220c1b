"""The argument DATA of the commands that train networks for rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from distill.config.errors import UserError

if TYPE_CHECKING:
    from distill.data import DataSettings


def parse_data(text: str) -> DataSettings:
    """Read the settings of a data source: its name, or a mapping in YAML."""
    from pydantic import ValidationError

    from distill.config.config_file import describe
    from distill.config.settings import Choice
    from distill.config.yaml_files import parse_yaml

    try:
        content = parse_yaml(text)
    except UserError as error:
        raise UserError(f"data: {text:.80} {error}") from error
    content = {"name": content} if isinstance(content, str) else content
    try:
        return cast("DataSettings", Choice("data.sources").resolve(content))
    except ValidationError as error:
        raise UserError(f"data: {describe(error, content)}") from error
    except ValueError as error:
        raise UserError(f"data: {error}") from error
