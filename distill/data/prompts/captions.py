"""Prompts that are the captions of the run's images, as a discriminator that sees both needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError
from distill.data import Captioned
from distill.data.prompts import PromptSettings

if TYPE_CHECKING:
    from distill.types import DataSource


class Settings(PromptSettings):
    """The captions of the images in `data`, so that each image keeps its own prompt."""

    name: Literal["captions"] = "captions"

    def load(self, data: DataSource | None) -> list[str]:
        """Return all captions of the images, in the order of the data."""
        if not isinstance(data, Captioned):
            raise UserError(
                "prompts: captions needs data that have them; expected data: {name: captioned_folder, ...}"
            )
        return data.captions.texts
